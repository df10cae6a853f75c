"""Two ways to run the one step on the devices of a mesh: ``jit`` and ``pmap``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.multihost_utils import host_local_array_to_global_array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from minigpt_flax.train.parallel.sharding import batch_sharding, on_mesh, replicated
from minigpt_flax.train.state import TrainState

Step = Callable[[TrainState, Any], tuple[TrainState, Mapping]]


class Launcher(NamedTuple):
    """One way.

    Attributes:
      compile: ``(make, mesh, shardings of the state) -> step``; ``make`` takes the name of the devices' axis, or None.
      order: ``(accum, batch size, mesh) -> (numbers of the rows as the step takes them, their sharding)``.
    """

    compile: Callable[[Callable[[str | None], Step], Mesh, TrainState], Step]
    order: Callable[[int, int, Mesh], tuple[np.ndarray, NamedSharding]]


def _jit(make: Callable[[str | None], Step], mesh: Mesh, state: TrainState) -> Step:
    """The compiler cuts the program by where its arrays lie and puts the sums over devices in."""
    return jax.jit(on_mesh(make(None), mesh), donate_argnums=0, out_shardings=(state, replicated(mesh)))


def _jit_order(accum: int, batch_size: int, mesh: Mesh) -> tuple[np.ndarray, NamedSharding]:
    rows = np.arange(accum * batch_size)
    if accum == 1:
        return rows, batch_sharding(mesh)
    return rows.reshape(accum, batch_size), batch_sharding(mesh, None)


def _pmap(make: Callable[[str | None], Step], mesh: Mesh, state: TrainState) -> Step:
    """Every device runs the program on its part of the batch, and the step itself sums over the axis."""
    (axis,) = mesh.axis_names
    devices = list(mesh.devices.flat)
    function = jax.pmap(make(axis), axis, in_axes=(None, 0), out_axes=None, devices=devices, donate_argnums=0)
    return function if jax.process_count() == 1 else Shared(function, mesh)


def _pmap_order(accum: int, batch_size: int, mesh: Mesh) -> tuple[np.ndarray, NamedSharding]:
    rows = np.arange(accum * batch_size).reshape(accum, mesh.size, -1).swapaxes(0, 1)
    return (rows[:, 0] if accum == 1 else rows), NamedSharding(mesh, PartitionSpec(*mesh.axis_names))


LAUNCHERS = {"jit": Launcher(_jit, _jit_order), "pmap": Launcher(_pmap, _pmap_order)}


class Shared:
    """A function made by ``pmap`` whose results lie on the devices of all processes, as what it takes does.

    ``pmap`` itself gives each process its own copy, on its own devices.
    """

    def __init__(self, function: Any, mesh: Mesh):
        self.function, self.lower, self.mesh = function, function.lower, mesh

    def __call__(self, *args: Any) -> Any:
        """Calls it."""
        return host_local_array_to_global_array(self.function(*args), self.mesh, PartitionSpec())


class Patient:
    """A compiled function that is waited for.

    On several CPU devices, which share the threads of one pool, programs that run ahead take the threads that others
    need to meet in a sum over devices, and all wait for ever.
    """

    def __init__(self, function: Any):
        self.function, self.lower = function, function.lower

    def __call__(self, *args: Any) -> Any:
        """Calls it and waits for the results."""
        return jax.block_until_ready(self.function(*args))


def patient(function: Any, mesh: Mesh) -> Any:
    """Lets a compiled function be waited for where it must be."""
    return Patient(function) if mesh.size > 1 and mesh.devices.flat[0].platform == "cpu" else function
