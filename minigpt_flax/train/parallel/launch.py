"""Two ways to compile the step for the devices of a mesh: ``jit`` and ``pmap``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.multihost_utils import host_local_array_to_global_array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from minigpt_flax.train.compile import CompiledStep, shares_threads
from minigpt_flax.train.parallel.sharding import batch_sharding, on_mesh, replicated
from minigpt_flax.train.state import TrainState

Step = Callable[[TrainState, Any], tuple[TrainState, Mapping]]
"""``(state, batch) -> (state, metrics)``."""


class Launcher(NamedTuple):
    """One way to compile the step.

    Attributes:
      compile: ``(make, mesh, shardings of the state) -> step``; ``make`` takes the name of the device axis, or None.
      order: ``(accum, batch size, mesh) -> (row numbers in the shape that the step takes, their sharding)``.
    """

    compile: Callable[[Callable[[str | None], Step], Mesh, TrainState], CompiledStep]
    order: Callable[[int, int, Mesh], tuple[np.ndarray, NamedSharding]]


def _jit(make: Callable[[str | None], Step], mesh: Mesh, state: TrainState) -> CompiledStep:
    """The compiler partitions the program by the shardings of its arrays and inserts the all-reduces."""
    function = jax.jit(on_mesh(make(None), mesh), donate_argnums=0, out_shardings=(state, replicated(mesh)))
    return CompiledStep(function, block=shares_threads(mesh))


def _jit_order(accum: int, batch_size: int, mesh: Mesh) -> tuple[np.ndarray, NamedSharding]:
    rows = np.arange(accum * batch_size)
    if accum == 1:
        return rows, batch_sharding(mesh)
    return rows.reshape(accum, batch_size), batch_sharding(mesh, None)


def _pmap(make: Callable[[str | None], Step], mesh: Mesh, state: TrainState) -> CompiledStep:
    """Every device runs the program on its shard of the batch, and the step itself reduces over the device axis.

    ``pmap`` returns a separate copy of the results to each process; with several processes these become global arrays.
    """
    (axis,) = mesh.axis_names
    devices = list(mesh.devices.flat)
    function = jax.pmap(make(axis), axis, in_axes=(None, 0), out_axes=None, devices=devices, donate_argnums=0)
    to_global = lambda results: host_local_array_to_global_array(results, mesh, PartitionSpec())
    finish = to_global if jax.process_count() > 1 else lambda results: results
    return CompiledStep(function, block=shares_threads(mesh), finish=finish)


def _pmap_order(accum: int, batch_size: int, mesh: Mesh) -> tuple[np.ndarray, NamedSharding]:
    rows = np.arange(accum * batch_size).reshape(accum, mesh.size, -1).swapaxes(0, 1)
    return (rows[:, 0] if accum == 1 else rows), NamedSharding(mesh, PartitionSpec(*mesh.axis_names))


LAUNCHERS = {"jit": Launcher(_jit, _jit_order), "pmap": Launcher(_pmap, _pmap_order)}
