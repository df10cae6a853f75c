"""Cautious optimizers: an entry moves only where the update opposes its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.layout import resolve
from jaxopt_mini.tree import times, widen
from jaxopt_mini.wrappers._conditional import per_update

SCALINGS: dict[str, Callable[[jax.Array, int], jax.Array]] = {
    "mean": lambda share, size: 1 / jnp.maximum(share, 1e-3),
    "count": lambda share, size: 1 / (share + 1 / max(1, size)),
}


def _descends(update: jax.Array, grad: jax.Array) -> jax.Array:
    """Where the update lowers the loss to first order, from signs alone, whose product can't underflow."""
    return jnp.real(jnp.conj(jnp.sign(widen(update))) * jnp.sign(widen(grad))) < 0


@per_update
def cautious(
    inner: GradientTransformation, *, scaling: str = "mean", layout: Any | None = None
) -> GradientTransformationExtraArgs:
    """Drops the entries of updates that don't oppose the gradient.

    Liang, Chen, Liu, Liu, "Cautious Optimizers: Improving Training with One Line of Code" (2024, arXiv 2411.16085)::

        mask = (u g < 0)                    u: the inner update, which is added to the parameters
        u <- u mask / max(mean(mask), 1e-3)     scaling "mean": the official AdamW
        u <- u mask n / (sum(mask) + 1)         scaling "count": the paper's formula, the official Lion

    The mean is over one tensor, in a stack over each layer. Weight decay inside ``inner`` is part of u and masked with
    it, unlike in the official code. To decay without the mask, use
    ``chain(cautious(adam(lr)), add_decayed_weights(-lr * w))``, or for cautious decay
    ``cautious_decay(cautious(adam(lr)), weight_decay=w, learning_rate=lr)``.

    Args:
      inner: a complete optimizer, including its learning rate.
      scaling: "mean" or "count", as above.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation with the state of ``inner``.

    Raises:
      ValueError: ``scaling`` is unknown.

    >>> from jaxopt_mini import sgd
    >>> tx = cautious(sgd(0.1, momentum=0.9))
    >>> params = {"w": jnp.zeros(4)}
    >>> _, state = tx.update({"w": jnp.array([1.0, 1.0, 1.0, 1.0])}, tx.init(params), params)
    >>> updates, _ = tx.update({"w": jnp.array([1.0, 1.0, 1.0, -0.5])}, state, params)
    >>> [round(x, 3) for x in updates["w"].tolist()]
    [-0.253, -0.253, -0.253, -0.0]
    """
    if scaling not in SCALINGS:
        raise ValueError(f"unknown scaling={scaling!r}: choose from {', '.join(SCALINGS)}")
    inner = with_extra_args_support(inner)

    def keep(update, grad, entry):
        mask = _descends(update, grad).astype(jnp.float32)
        axes = entry.inputs + entry.outputs
        size = math.prod(mask.shape[axis] for axis in axes)
        return times(update, mask * SCALINGS[scaling](jnp.mean(mask, axes, keepdims=True), size))

    def update(updates, state, params=None, **extra_args):
        new, state = inner.update(updates, state, params, **extra_args)
        return jax.tree.map(keep, new, updates, resolve(layout, updates)), state

    return transformation(inner.init, update)
