"""Sixty-five JAX optimizers, each a pure ``GradientTransformation``, all tested against a reference implementation."""

from jaxopt_mini import _renamed, torch_state as torch_state
from jaxopt_mini.base import (
    GradientTransformation as GradientTransformation,
    GradientTransformationExtraArgs as GradientTransformationExtraArgs,
    apply_updates as apply_updates,
)
from jaxopt_mini.combine import PerLayer as PerLayer, chain as chain, masked as masked, partition as partition
from jaxopt_mini.layout import ParamLayout as ParamLayout
from jaxopt_mini.optimizers import *  # noqa: F403
from jaxopt_mini.optimizers import OPTIMIZERS as OPTIMIZERS, adamw
from jaxopt_mini.schedules import (
    SCHEDULES as SCHEDULES,
    cosine as cosine,
    cosine_restarts as cosine_restarts,
    exponential as exponential,
    fast_slow as fast_slow,
    inverse_sqrt as inverse_sqrt,
    multistep as multistep,
    noam as noam,
    one_cycle as one_cycle,
    polynomial as polynomial,
    warmup as warmup,
    warmup_constant as warmup_constant,
    warmup_cosine as warmup_cosine,
    warmup_linear as warmup_linear,
    wsd as wsd,
)
from jaxopt_mini.transforms import (
    CLIPS as CLIPS,
    ClipByNormState as ClipByNormState,
    DampedTraceState as DampedTraceState,
    adaptive_clip as adaptive_clip,
    add_decayed_weights as add_decayed_weights,
    centralize as centralize,
    clip_by_block_rms as clip_by_block_rms,
    clip_by_global_norm as clip_by_global_norm,
    clip_by_norm as clip_by_norm,
    clip_by_value as clip_by_value,
    ema as ema,
    scale_by_factored_rms as scale_by_factored_rms,
    scale_by_learning_rate as scale_by_learning_rate,
    scale_by_param_block_rms as scale_by_param_block_rms,
    scale_by_schedule as scale_by_schedule,
    scale_by_trust_ratio as scale_by_trust_ratio,
    snapshot as snapshot,
)
from jaxopt_mini.wrappers import *  # noqa: F403
from jaxopt_mini.wrappers import WRAPPERS as WRAPPERS

my_adamw = adamw
_renamed.install()
