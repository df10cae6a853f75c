"""The state that a step updates, and the view of a step that a probe gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_mini import states


class TrainState(NamedTuple):
    """All mutable data of a run; with the configuration, it determines the remaining steps bit for bit."""

    step: jax.Array  # int32[]: optimizer steps done
    params: Any  # the model's parameters
    opt_state: Any  # the optimizer's state

    @property
    def evaluation_params(self) -> Any:
        """The parameters to evaluate and to sample with: an average, if the optimizer keeps one."""
        return states.evaluation_params(self.opt_state, self.params)


def init_state(params: Any, tx: Any) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))


class StepView(NamedTuple):
    """A step as a probe sees it."""

    step: jax.Array  # int32[]
    params: Any  # before the update
    grads: Any  # mean over tokens, before clipping
    updates: Any  # what is added to the parameters
    opt_state: Any  # after the update
    last_state: Any  # the same before it
    layout: Any  # tree of ParamLayout
    lr: jax.Array  # float32[]
    batch: Any = None  # int32[B, T + 1], or int32[K, B, T + 1] of K micro-batches
    loss_of: Any = None  # (params, int32[b, T + 1], part=0) -> float32[], nats per token; a dropout mask for each part
    each: Any = jax.vmap  # vmap, or a map under pmap, where sums over devices can't be batched


Probe = Callable[[StepView], dict[str, jax.Array]]
"""``view -> {name: float32[]}``."""
