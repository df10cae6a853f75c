"""Initial state of the optimizer: that of a checkpoint of PyTorch, which continues from its moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_mini import states
from jaxopt_mini.torch_state import TorchParameter, from_torch
from minigpt_flax.train.state import TrainState


class LoadedOptimizer(NamedTuple):
    """Values of an optimizer's state.

    Attributes:
      values: leaf of the state -> (values, which of them are known); those without any are None.
      text: what is used, or why it isn't; empty if there is nothing to say.
    """

    values: Any
    text: str


NO_OPTIMIZER = LoadedOptimizer(None, "")


def load_optimizer(state: TrainState, load: Callable[[], Any] | None) -> LoadedOptimizer:
    """Converts the state of an optimizer of PyTorch to that of the run, whose schedules begin at their first step.

    Args:
      state: state of the run, abstract.
      load: reads the state, from :class:`~minigpt_flax.train.initial_weights.InitialWeights`.

    Raises:
      UserError: the file can't be read, or its state is damaged.
    """
    if load is None:
        return NO_OPTIMIZER
    found = load()
    if found is None:
        return LoadedOptimizer(None, "the checkpoint has no state of an optimizer: its moments start from zero")
    saved, places = found
    names = torch_parameters(places)
    convert = lambda value: from_torch(saved, _filled(state.opt_state, value), state.params, names, schedules=False)
    try:
        low, high = convert(0), convert(1)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        return LoadedOptimizer(None, f"the checkpoint's optimizer state is not used: {reason:.300}")
    counts = states.get_all(low, "count").values()
    steps = max((int(count) for count in counts if np.ndim(count) == 0), default=0)
    values = jax.tree.map(lambda a, b: (np.asarray(a), np.asarray(a == b)) if _is_numeric(a) else None, low, high)
    return LoadedOptimizer(values, f"the optimizer continues from the checkpoint's state after {steps:,} steps")


def torch_parameters(places: Sequence[Any]) -> list[TorchParameter]:
    """Tensors of nanoGPT, each a :class:`~minigpt_flax.model.huggingface.Place`, as PyTorch's optimizer has them."""
    path = lambda place: place.paths[0] if len(place.paths) == 1 else place.paths
    return [TorchParameter(path(place), place.transposed, place.index) for place in places]


def replaced(opt_state: Any, values: Any) -> Any:
    """A state with the known values in the place of its own."""
    if values is None:
        return opt_state
    one = lambda leaf, known: leaf if known is None else jnp.where(known[1], known[0], leaf).astype(leaf.dtype)
    return jax.tree.map(one, opt_state, values)


def _is_numeric(leaf: Any) -> bool:
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)


def _filled(tree: Any, value: int) -> Any:
    """Arrays of one value; random keys stay abstract."""
    return jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype) if _is_numeric(leaf) else leaf, tree)
