"""Clipping, and the transformations that optimizers are chained from."""

from jaxopt_mini.transforms._adaptive_clip import adaptive_clip as adaptive_clip
from jaxopt_mini.transforms._centralize import centralize as centralize
from jaxopt_mini.transforms._scale import (
    scale as scale,
    scale_by_learning_rate as scale_by_learning_rate,
    scale_by_schedule as scale_by_schedule,
)
from jaxopt_mini.transforms._snapshot import snapshot as snapshot
from jaxopt_mini.transforms.clip import (
    ClipByNormState as ClipByNormState,
    clip_by_block_rms as clip_by_block_rms,
    clip_by_global_norm as clip_by_global_norm,
    clip_by_norm as clip_by_norm,
    clip_by_value as clip_by_value,
)
from jaxopt_mini.transforms.decay import add_decayed_weights as add_decayed_weights
from jaxopt_mini.transforms.factored import scale_by_factored_rms as scale_by_factored_rms
from jaxopt_mini.transforms.moments import (
    DampedTraceState as DampedTraceState,
    ema as ema,
    trace as trace,
)
from jaxopt_mini.transforms.shape import scale_by_shape as scale_by_shape
from jaxopt_mini.transforms.trust import (
    scale_by_param_block_rms as scale_by_param_block_rms,
    scale_by_trust_ratio as scale_by_trust_ratio,
)

CLIPS = {f.__name__: f for f in (clip_by_norm, clip_by_value, clip_by_block_rms, adaptive_clip)}
