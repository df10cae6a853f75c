"""Read checkpoints from before a change of clip, policy or probes, which alters the structure of the state."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax

from jaxopt_mini.wrappers import SkipNonfiniteState
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.train.build import Run, Setup, tensor_axes
from minigpt_flax.train.checkpoint import Form
from minigpt_flax.train.config.run_config import RunConfig, changed
from minigpt_flax.train.optimizer import build_optimizer
from minigpt_flax.train.parallel import sharding
from minigpt_flax.train.probe_wrappers import ClipCountState, LastUpdateState
from minigpt_flax.train.state import TrainState, init_state

RESTRUCTURING = ("clip", "on_nan", "probe")  # fields that add or remove a part of the state
OUTER = (SkipNonfiniteState, LastUpdateState, ClipCountState)  # states that these fields put around the optimizer's


def carry(setup: Setup, state: TrainState, like: TrainState) -> TrainState:
    """Convert a state of an earlier structure to the present one, with the shardings of ``like``."""
    places = jax.tree.map(lambda leaf: leaf.sharding, like)
    convert = lambda old: old._replace(opt_state=carried(old.opt_state, setup.tx.init(old.params)))
    return jax.jit(convert, out_shardings=places if jax.tree.leaves(places) else None)(state)


def carried(old: Any, new: Any) -> Any:
    """Return the initial state ``new`` with every part that it shares with ``old``.

    What remains of ``new`` is the state of another clip, and counters and measurements, which begin again.
    """
    if type(old) is type(new) and isinstance(new, tuple) and len(old) == len(new):
        parts = [carried(*pair) for pair in zip(old, new, strict=True)]
        return type(new)(*parts) if hasattr(new, "_fields") else tuple(parts)
    if isinstance(new, OUTER) and type(new) not in _outer_types(old):
        return new._replace(inner_state=carried(old, new.inner_state))
    if isinstance(old, OUTER):
        return carried(old.inner_state, new)
    return old if jax.tree.structure(old) == jax.tree.structure(new) else new


def _outer_types(state: Any) -> list[type]:
    return [type(state), *_outer_types(state.inner_state)] if isinstance(state, OUTER) else []


def forms(setup: Setup, folder: RunFolder, began: RunConfig | None = None) -> Iterator[Form]:
    """Generate the structures that a run's state has had, the latest first.

    Args:
      setup: of the run, with its present structure.
      folder: of the run.
      began: configuration before a change that isn't recorded yet.
    """
    for config in earlier_configs(began or setup.config, folder):
        fields = {name: getattr(config, name) for name in RESTRUCTURING}
        yield Form(abstract_state(setup, changed(setup.config, **fields)), functools.partial(carry, setup))


def earlier_configs(config: RunConfig, folder: RunFolder) -> Iterator[RunConfig]:
    """Generate a configuration, and then those before each recorded change of the state's structure."""
    yield config
    for change in reversed(folder.recorded_changes()):
        if before := {name: change[name][0] for name in RESTRUCTURING if name in change}:
            yield (config := changed(config, **before))


def abstract_state(setup: Setup, config: RunConfig) -> TrainState:
    """The state of a run with another configuration of its optimizer, with the shardings of the run."""
    _, tx = build_optimizer(config, setup.layout, optimizer=setup.optimizer)
    shapes = jax.eval_shape(functools.partial(init_state, tx=tx), setup.shapes)
    if not isinstance(setup, Run):
        return shapes
    axes = tensor_axes(setup.shapes)
    return sharding.abstract(shapes, sharding.state_shardings(setup.mesh, shapes, setup.layout, axes))
