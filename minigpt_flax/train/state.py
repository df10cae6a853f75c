"""What one step hands to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_mini import states


class TrainState(NamedTuple):
    """Everything that changes; with the config it determines the rest of the run bit for bit."""

    step: jax.Array  # int32[]: optimizer steps done
    params: Any  # the model's parameters
    opt_state: Any  # the optimizer's state

    @property
    def evaluation_params(self) -> Any:
        """The parameters to judge and to sample with: an average, if the optimizer keeps one."""
        return states.evaluation_params(self.opt_state, self.params)


def init_state(params: Any, tx: Any) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
