"""The three ways to combine transformations: in sequence, on some of the leaves, by label.

States are Optax's types, so training can move between the two libraries with the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
from optax import MaskedNode, MaskedState, PartitionState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.layout import part_of
from jaxopt_mini.tree import path_name, per_parameter


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
        parameters that returns one.
      mask_compatible_extra_args: see :func:`masked`.

    Returns:
      A transformation with an ``optax.PartitionState``.

    Raises:
      ValueError: from ``init``, if a label has no transformation; the message lists the leaves.
    """
    how = {"mask_compatible_extra_args": mask_compatible_extra_args}
    transforms = {label: with_extra_args_support(tx) for label, tx in transforms.items()}

    def groups(tree):
        labels = per_parameter(param_labels, tree)
        unknown = [
            f"{path_name(path) or 'the whole tree'} -> {label!r}"
            for path, label in jax.tree.leaves_with_path(labels)
            if label not in transforms
        ]
        if unknown:
            raise ValueError(
                f"partition has transformations for {sorted(map(str, transforms))}, not for "
                f"{'; '.join(unknown)}: add one for every label"
            )
        return {
            label: masked(tx, jax.tree.map(lambda leaf, label=label: leaf == label, labels), **how)
            for label, tx in transforms.items()
        }

    def init(params):
        return PartitionState({label: tx.init(params) for label, tx in groups(params).items()})

    def update(updates, state, params=None, **extra_args):
        states = {}
        for label, tx in groups(updates if params is None else params).items():
            updates, states[label] = tx.update(updates, state.inner_states[label], params, **extra_args)
        return updates, PartitionState(states)

    return transformation(init, update)
