"""Wrappers, which take an optimizer and return one, by name.

``in_blocks``, ``inject_hyperparams`` and ``split_outputs`` take an optimizer's factory instead. ``mup`` takes a base
model, too.
"""

from collections.abc import Callable
from typing import Any

from jaxopt_mini.wrappers._accumulate import (
    AccumulateState as AccumulateState,
    ScheduledAccumulateState as ScheduledAccumulateState,
    accumulate as accumulate,
    flush as flush,
)
from jaxopt_mini.wrappers._average_params import (
    AverageParamsState as AverageParamsState,
    average_params as average_params,
)
from jaxopt_mini.wrappers._cautious import cautious as cautious
from jaxopt_mini.wrappers._cautious_decay import (
    CautiousDecayState as CautiousDecayState,
    cautious_decay as cautious_decay,
)
from jaxopt_mini.wrappers._conditional import (
    conditional_updates as conditional_updates,
    per_update as per_update,
    update_if as update_if,
)
from jaxopt_mini.wrappers._ema_nesterov import EmaNesterovState as EmaNesterovState, ema_nesterov as ema_nesterov
from jaxopt_mini.wrappers._ema_params import EmaParamsState as EmaParamsState, ema_params as ema_params
from jaxopt_mini.wrappers._hyperball import HyperballState as HyperballState, hyperball as hyperball
from jaxopt_mini.wrappers._in_blocks import in_blocks as in_blocks
from jaxopt_mini.wrappers._inject_hyperparams import inject_hyperparams as inject_hyperparams
from jaxopt_mini.wrappers._inner_updates import (
    counts_inner_updates as counts_inner_updates,
    inner_updates as inner_updates,
)
from jaxopt_mini.wrappers._layer_decay import layer_decay as layer_decay
from jaxopt_mini.wrappers._lookahead import LookaheadState as LookaheadState, lookahead as lookahead
from jaxopt_mini.wrappers._low_precision import LowPrecisionState as LowPrecisionState, low_precision as low_precision
from jaxopt_mini.wrappers._mup import (
    Multipliers as Multipliers,
    MupState as MupState,
    multipliers as multipliers,
    mup as mup,
    scale_units as scale_units,
)
from jaxopt_mini.wrappers._outer_nesterov import (
    OuterNesterovState as OuterNesterovState,
    outer_nesterov as outer_nesterov,
)
from jaxopt_mini.wrappers._qk_clip import QKClipState as QKClipState, qk_clip as qk_clip
from jaxopt_mini.wrappers._sam import sam as sam
from jaxopt_mini.wrappers._schedule_free import (
    schedule_free as schedule_free,
    schedule_free_eval_params as schedule_free_eval_params,
)
from jaxopt_mini.wrappers._skip_nonfinite import (
    SkipNonfiniteState as SkipNonfiniteState,
    skip_nonfinite as skip_nonfinite,
)
from jaxopt_mini.wrappers._skip_spikes import SkipSpikesState as SkipSpikesState, skip_spikes as skip_spikes
from jaxopt_mini.wrappers._split_outputs import split_outputs as split_outputs
from jaxopt_mini.wrappers._step_sizes import (
    REFUSED as REFUSED,
    STEP_SIZES as STEP_SIZES,
    NoRule as NoRule,
    StepSize as StepSize,
    step_size as step_size,
)

WRAPPERS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        accumulate,
        average_params,
        cautious,
        cautious_decay,
        ema_nesterov,
        ema_params,
        hyperball,
        layer_decay,
        lookahead,
        low_precision,
        outer_nesterov,
        qk_clip,
        sam,
        schedule_free,
        skip_nonfinite,
        skip_spikes,
    )
}
