"""Meshes with Explicit axes, for optimizers that reshape, multiply or reduce their arrays.

Under Explicit axes an array's sharding is part of its type, and most reshapes and products of sharded arrays need an
``out_sharding``. Here the whole update runs with automatic axes instead, and its results are sharded like its inputs:
updates like the gradients, and every array of the new state like that of the old one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec, auto_axes

from jaxopt_mini.base import GradientTransformationExtraArgs, transformation

Tree = Any


def keep_shardings(init: Callable[..., Any], update: Callable[..., Any]) -> GradientTransformationExtraArgs:
    """Builds a transformation from ``init`` and ``update`` whose shardings stay constant under Explicit axes.

    On such a mesh, ``init`` shards arrays that have a parameter's shape like that parameter and replicates the others.
    On other meshes and on one device nothing changes.
    """

    def explicit_init(params):
        mesh = _explicit_mesh(params)
        if mesh is None:
            return init(params)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        shardings = _like_parameters(jax.eval_shape(init, shapes), params, mesh)
        return _automatic(init, mesh, shardings)(params)

    def explicit_update(updates, state, params=None, **extra_args):
        mesh = _explicit_mesh(updates)
        if mesh is None:
            return update(updates, state, params, **extra_args)
        arrays = {name: value for name, value in extra_args.items() if isinstance(value, jax.Array)}

        def run(updates, state, params, arrays):
            return update(updates, state, params, **extra_args | arrays)

        shardings = jax.tree.map(lambda leaf: _sharding(leaf, mesh), (updates, state))
        return _automatic(run, mesh, shardings)(updates, state, params, arrays)

    return transformation(explicit_init, explicit_update)


def _explicit_mesh(tree: Tree) -> AbstractMesh | None:
    """The mesh of the arrays, if it has Explicit axes."""
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))
    return next((mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types), None)


def _automatic(function: Callable[..., Tree], mesh: AbstractMesh, shardings: Tree) -> Callable[..., Tree]:
    """The function with automatic axes inside and these output shardings; jitted where no mesh is set."""
    axes = tuple(n for n, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Explicit)
    run = auto_axes(function, axes=axes, out_sharding=shardings)
    return jax.jit(run) if jax.sharding.get_abstract_mesh().empty else run


def _sharding(leaf: Any, mesh: AbstractMesh) -> NamedSharding:
    """The sharding of an array on the mesh; replicated for arrays that are not on it."""
    sharding = jax.typeof(leaf).sharding
    return sharding if sharding.mesh == mesh else NamedSharding(mesh, PartitionSpec())


def _like_parameters(state: Tree, params: Tree, mesh: AbstractMesh) -> Tree:
    """A sharding for each array of a state: in subtrees like the parameters, the parameter's where the shapes agree."""
    structure, replicated = jax.tree.structure(params), NamedSharding(mesh, PartitionSpec())

    def is_like(node):
        return jax.tree.structure(node) == structure

    def one(node):
        if not is_like(node):
            return replicated
        return jax.tree.map(lambda new, p: _sharding(p, mesh) if new.shape == p.shape else replicated, node, params)

    return jax.tree.map(one, state, is_leaf=is_like)
