"""What a probe sees of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class StepView(NamedTuple):
    """What a probe sees of a step."""

    step: jax.Array  # int32[]
    params: Any  # before the update
    grads: Any  # mean over tokens, before clipping
    updates: Any  # what is added to the parameters
    opt_state: Any  # after the update
    last_state: Any  # the same before it
    layout: Any  # tree of ParamLayout
    lr: jax.Array  # float32[]
    batch: Any = None  # int32[B, T + 1], or int32[K, B, T + 1] of K micro-batches
    loss_of: Any = None  # (params, int32[b, T + 1]) -> float32[], mean loss in nats per token of some sequences
    each: Any = jax.vmap  # function -> the same of many arguments, stacked; in whatever way devices share them


Probe = Callable[[StepView], dict[str, jax.Array]]
