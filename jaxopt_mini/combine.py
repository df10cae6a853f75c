"""The three ways to combine transformations: in sequence, on some of the leaves, by label.

States are Optax's types, so training can move between the two libraries with the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from optax import MaskedNode, MaskedState, PartitionState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.layout import part_of
from jaxopt_mini.tree import evaluate, path_name, per_parameter


def chain(*links: GradientTransformation) -> GradientTransformationExtraArgs:
    """Applies transformations in order; each receives the updates of the one before it.

    Args:
      *links: transformations, also Optax's. An empty chain is the identity.

    Returns:
      A transformation whose state is the tuple of the states of ``links``.

    >>> import jax.numpy as jnp
    >>> from jaxopt_mini import adamw, chain, clip_by_norm
    >>> tx = chain(clip_by_norm(1.0), adamw(1e-3))
    >>> params = {"w": jnp.ones(3)}
    >>> updates, state = tx.update({"w": jnp.full(3, 10.0)}, tx.init(params), params)
    >>> [round(x, 5) for x in updates["w"].tolist()]
    [-0.001, -0.001, -0.001]
    """
    links = tuple(with_extra_args_support(link) for link in links)

    def init(params):
        return tuple(link.init(params) for link in links)

    def update(updates, state, params=None, **extra_args):
        if len(state) != len(links):
            raise ValueError(
                f"a chain of {len(links)} transformations got a state of length {len(state)}: "
                "pass the state that this chain's init or update returned"
            )
        states = []
        for link, link_state in zip(links, state, strict=True):
            updates, link_state = link.update(updates, link_state, params, **extra_args)
            states.append(link_state)
        return updates, tuple(states)

    return transformation(init, update)


LOSSES = ("loss_fn", "obj_fn")  # extra args that are the loss as a function of all parameters


def _keep(mask: Any, tree: Any) -> Any:
    return jax.tree.map(lambda chosen, sub: sub if chosen else MaskedNode(), mask, tree)


def _of_part(loss: Callable[[Params], Any], mask: Any, params: Any) -> Callable[[Params], Any]:
    """The loss as a function of the leaves in the mask, with the others fixed."""
    return lambda chosen: loss(jax.tree.map(lambda take, new, old: new if take else old, mask, chosen, params))


def _alike(extra_args: dict[str, Any], tree: Any) -> dict[str, Any]:
    """The extra args with the structure of ``tree``."""
    structure = jax.tree.structure(tree)
    return {name: value for name, value in extra_args.items() if jax.tree.structure(value) == structure}


def masked(
    inner: GradientTransformation, mask: Any | Callable[[Params], Any], *, mask_compatible_extra_args: bool = False
) -> GradientTransformationExtraArgs:
    """Applies ``inner`` where ``mask`` is true and passes the other updates through unchanged.

    Args:
      inner: a transformation.
      mask: tree of booleans with the structure of the parameters (or a prefix of it), or a function of the parameters
        that returns one.
      mask_compatible_extra_args: whether ``inner`` also receives extra args with the structure of the updates masked.

    Returns:
      A transformation with an ``optax.MaskedState``, in which leaves outside the mask take no memory.

    >>> import jax.numpy as jnp
    >>> from jaxopt_mini import masked
    >>> from jaxopt_mini.transforms import scale
    >>> tx = masked(scale(-1.0), {"w": True, "b": False})
    >>> grads = {"w": jnp.float32(2.0), "b": jnp.float32(2.0)}
    >>> updates, _ = tx.update(grads, tx.init(grads))
    >>> updates["w"].item(), updates["b"].item()
    (-2.0, 2.0)
    """
    inner = with_extra_args_support(inner)

    def init(params):
        with part_of(params):
            return MaskedState(inner.init(_keep(per_parameter(mask, params), params)))

    def update(updates, state, params=None, **extra_args):
        chosen = per_parameter(mask, updates if params is None else params)
        inner_params = None if params is None else _keep(chosen, params)
        losses = {name: _of_part(loss, chosen, params) for name, loss in extra_args.items() if name in LOSSES}
        trees = _alike(extra_args, updates) if mask_compatible_extra_args else {}
        kept = {name: _keep(chosen, tree) for name, tree in trees.items()}
        with part_of(updates if params is None else params):
            new, inner_state = inner.update(
                _keep(chosen, updates), state.inner_state, inner_params, **{**extra_args, **losses, **kept}
            )
        merged = jax.tree.map(lambda take, n, old: n if take else old, chosen, new, updates)
        return merged, MaskedState(inner_state)

    return transformation(init, update)


@dataclass(frozen=True)
class PerLayer:
    """Labels for :func:`partition` of a parameter that is stacked along its first axis: one per layer.

    Attributes:
      labels: of the layers, in order.
    """

    labels: tuple[Hashable, ...]

    def rows(self, label: Hashable) -> slice | np.ndarray:
        """Index of the layers with this label; a slice if they are consecutive."""
        found = np.flatnonzero([own == label for own in self.labels])
        consecutive = found.size and found[-1] - found[0] + 1 == found.size
        return slice(int(found[0]), int(found[-1]) + 1) if consecutive else found

    def __contains__(self, label: Hashable) -> bool:
        """Whether a layer has this label."""
        return label in self.labels


def _take(labels: Any, label: Hashable, tree: Any) -> Any:
    """The tree with only the group's layers of each parameter whose layers belong to several groups."""

    def one(entry, sub):
        if not (isinstance(entry, PerLayer) and label in entry):
            return sub
        return evaluate(lambda sub: jax.tree.map(lambda leaf: leaf[entry.rows(label)], sub), sub)

    return jax.tree.map(one, labels, tree)


def _put(labels: Any, label: Hashable, part: Any, tree: Any) -> Any:
    """The tree with the group's layers replaced by those of ``part``, and other leaves by those of ``part``."""

    def one(entry, new, old):
        if not isinstance(entry, PerLayer):
            return new
        if label not in entry:
            return old
        return jax.tree.map(lambda leaf, rows: leaf.at[entry.rows(label)].set(rows), old, new)

    return jax.tree.map(one, labels, part, tree)


def _check_layers(labels: Any, tree: Any) -> None:
    """Raises ValueError where the number of labels is not the number of layers."""

    def one(path, entry, sub):
        for leaf in jax.tree.leaves(sub) if isinstance(entry, PerLayer) else ():
            if leaf.shape[:1] != (len(entry.labels),):
                raise ValueError(
                    f"{path_name(path)} of shape {leaf.shape} got labels for {len(entry.labels)} layers: "
                    "give one per entry of its first axis"
                )

    jax.tree.map_with_path(one, labels, tree)


def partition(
    transforms: Mapping[Hashable, GradientTransformation],
    param_labels: Any | Callable[[Params], Any],
    *,
    mask_compatible_extra_args: bool = False,
) -> GradientTransformationExtraArgs:
    """Applies to each leaf the transformation that its label names.

    Args:
      transforms: label -> transformation.
      param_labels: tree of labels with the structure of the parameters (or a prefix of it), or a function of the
        parameters that returns one. A :class:`PerLayer` in the place of a label divides a stacked parameter by layers;
        each transformation then gets a stack of its own layers.
      mask_compatible_extra_args: see :func:`masked`.

    Returns:
      A transformation with an ``optax.PartitionState``.

    Raises:
      ValueError: from ``init``, if a label has no transformation, or a parameter has another number of layers than
        labels; the message names the leaves.

    >>> import jax.numpy as jnp
    >>> from jaxopt_mini import PerLayer, partition, sgd
    >>> labels = {"stack": PerLayer(("slow", "fast", "fast")), "bias": "fast"}
    >>> tx = partition({"slow": sgd(0.1), "fast": sgd(1.0)}, labels)
    >>> params = {"stack": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}
    >>> updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    >>> [round(x, 1) for x in updates["stack"][:, 0].tolist()]
    [-0.1, -1.0, -1.0]
    """
    how = {"mask_compatible_extra_args": mask_compatible_extra_args}
    transforms = {label: with_extra_args_support(tx) for label, tx in transforms.items()}

    def groups(labels):
        unknown = [
            f"{path_name(path) or 'the whole tree'} -> {label!r}"
            for path, entry in jax.tree.leaves_with_path(labels)
            for label in (entry.labels if isinstance(entry, PerLayer) else (entry,))
            if label not in transforms
        ]
        if unknown:
            raise ValueError(
                f"partition has transformations for {sorted(map(str, transforms))}, not for "
                f"{'; '.join(unknown)}: add one for every label"
            )
        has = lambda entry, label: label in entry if isinstance(entry, PerLayer) else entry == label
        return {
            label: masked(tx, jax.tree.map(lambda entry, label=label: has(entry, label), labels), **how)
            for label, tx in transforms.items()
        }

    def init(params):
        labels = per_parameter(param_labels, params)
        _check_layers(labels, params)
        with part_of(params):
            return PartitionState(
                {label: tx.init(_take(labels, label, params)) for label, tx in groups(labels).items()}
            )

    def update(updates, state, params=None, **extra_args):
        labels, states = per_parameter(param_labels, updates if params is None else params), {}
        losses = {name: loss for name, loss in extra_args.items() if name in LOSSES}
        trees = _alike(extra_args, updates) if mask_compatible_extra_args else {}
        for label, tx in groups(labels).items():
            take = lambda tree, label=label: _take(labels, label, tree)
            of_part = {
                name: lambda part, loss=loss, label=label: loss(_put(labels, label, part, params))
                for name, loss in losses.items()
            }
            parts = {name: take(tree) for name, tree in trees.items()}
            with part_of(updates if params is None else params):
                new, states[label] = tx.update(
                    take(updates),
                    state.inner_states[label],
                    None if params is None else take(params),
                    **{**extra_args, **of_part, **parts},
                )
            updates = _put(labels, label, new, updates)
        return updates, PartitionState(states)

    return transformation(init, update)
