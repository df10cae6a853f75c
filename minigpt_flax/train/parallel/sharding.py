"""Sharding of a run: the device mesh, and the shardings of the state and of the batches.

The compiler partitions every operation by the shardings of its inputs and results, so the step is independent of the
devices. For this, the mesh axes are of JAX's automatic type.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxopt_mini import states
from jaxopt_mini.tree import path_name
from minigpt_flax.data import Batches, Mixture, PhaseBatches
from minigpt_flax.train.config.mesh import BATCH_AXES
from minigpt_flax.train.state import TrainState

PARAMETER_AXES = ("fsdp",)
STATE_AXES = ("fsdp", "zero")


def make_mesh(sizes: Mapping[str, int]) -> Mesh:
    """Makes a mesh of the first devices."""
    devices = jax.devices()[: math.prod(sizes.values())]
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types, devices=devices)


def state_shardings(mesh: Mesh, state: TrainState, layout: Any, tensor: Mapping[str, int | None]) -> TrainState:
    """Returns the sharding of each array of a state.

    A parameter is sharded along its ``tensor`` axis, and by ``fsdp`` along the longest other axis of divisible length.
    An array of the optimizer is sharded like its parameter if their shapes agree, and by ``zero`` along the longest
    remaining axis; other arrays are sharded along their longest axis of divisible length.

    Args:
      mesh: the devices.
      state: abstract.
      layout: tree of ``ParamLayout``, for the stacked axes: these are sharded only if no other axis can be.
      tensor: name of a parameter -> axis to shard for tensor parallelism, if its length is divisible.

    Returns:
      A tree of ``NamedSharding`` like ``state``.
    """
    sizes = dict(mesh.shape)
    shapes = {path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(state.params)}
    stacked = {path_name(path): entry.stacked for path, entry in jax.tree.leaves_with_path(layout)}

    def parameter(name: str) -> list[str | None]:
        spec: list[str | None] = [None] * len(shapes[name])
        axis = tensor[name]
        if axis is not None and "tensor" in sizes and shapes[name][axis] % sizes["tensor"] == 0:
            spec[axis] = "tensor"
        return cut(spec, shapes[name], sizes, PARAMETER_AXES, stacked[name])

    def optimizer_state(path: Any, leaf: Any) -> Any:
        owner = states.parameter_of(path_name(path), shapes)
        if owner is not None and shapes[owner] == leaf.shape:
            axes = [axis for axis in STATE_AXES if axis not in PARAMETER_AXES]
            return named(cut(parameter(owner), leaf.shape, sizes, axes, stacked[owner]))
        return named(cut([None] * leaf.ndim, leaf.shape, sizes, STATE_AXES, ()))

    def named(spec: list[str | None]) -> Any:
        while spec and spec[-1] is None:
            spec = spec[:-1]
        return NamedSharding(mesh, PartitionSpec(*spec))

    return TrainState(
        named([]),
        jax.tree.map_with_path(lambda path, _: named(parameter(path_name(path))), state.params),
        jax.tree.map_with_path(optimizer_state, state.opt_state),
    )


def cut(
    spec: Sequence[str | None],
    shape: Sequence[int],
    sizes: Mapping[str, int],
    axes: Sequence[str],
    stacked: Sequence[int],
) -> list[str | None]:
    """Assigns each mesh axis the longest free array axis of divisible length; stacked axes come last.

    >>> cut([None, None, "tensor"], (4, 128, 512), {"fsdp": 4, "tensor": 2}, ("fsdp",), (0,))
    [None, 'fsdp', 'tensor']
    >>> cut([None, None], (4, 6), {"fsdp": 4}, ("fsdp",), (0,))
    ['fsdp', None]
    """
    spec = list(spec)
    for name in axes:
        size = sizes.get(name, 1)
        free = [i for i, length in enumerate(shape) if size > 1 and spec[i] is None and length and length % size == 0]
        if free:
            spec[max(free, key=lambda i: (i not in stacked, shape[i]))] = name
    return spec


def feed(batches: Batches | Mixture | PhaseBatches, order: np.ndarray, sharding: NamedSharding) -> Callable[[int], Any]:
    """Returns ``step -> batch``, placed on the devices; every process reads only the rows of its own devices.

    Args:
      batches: source of the rows.
      order: row numbers in the shape that the step takes, [B] or with leading axes.
      sharding: of ``order``.
    """
    if sharding.mesh.size == 1:  # the step itself transfers it to the device, which is faster
        return lambda step: batches(step).reshape(*order.shape, -1)

    def batch(step: int) -> jax.Array:
        def read(index: Any) -> np.ndarray:
            rows = order[index[:-1]]
            return batches(step, rows.ravel()).reshape(*rows.shape, -1)

        return jax.make_array_from_callback((*order.shape, batches.context + 1), sharding, read)

    return batch


def on_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Wraps a function so that it is traced with the mesh set, which shards intermediate arrays."""

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return traced


def put(values: np.ndarray, sharding: NamedSharding) -> Any:
    """Places an array that every process has on the devices; each process transfers its own shards."""
    if sharding.mesh.size == 1:
        return values
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[cast(Any, index)])


def batch_sharding(mesh: Mesh, *before: None) -> NamedSharding:
    """Shards the rows of a batch among the devices; the axes ``before`` are not sharded."""
    axes = tuple(name for name in mesh.axis_names if name in BATCH_AXES)
    return NamedSharding(mesh, PartitionSpec(*before, axes or None))


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def local(tree: Any, mesh: Mesh) -> Any:
    """Gathers a tree of sharded arrays in the memory of this process; every process must call it."""
    if mesh.size == 1:
        return tree
    return jax.tree.map(np.asarray, jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree))


def device_bytes(tree: Any) -> int:
    """Bytes per device of a tree of arrays, or of their shapes and shardings."""
    parts = ((leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize) for leaf in jax.tree.leaves(tree))
    return sum(math.prod(shape) * size for shape, size in parts)


def abstract(shapes: Any, shardings: Any) -> Any:
    """Combines shapes and shardings into a tree that a checkpoint can be restored into."""
    return jax.tree.map(lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to), shapes, shardings)
