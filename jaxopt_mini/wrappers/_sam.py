"""SAM: sharpness-aware minimization, with the gradient at the worst point nearby."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    apply_updates,
    require_params,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.tree import cast_like, norm, times


def sam(
    inner: GradientTransformation, *, rho: ArrayLike = 0.05, axis_name: Hashable | None = None
) -> GradientTransformationExtraArgs:
    """Sharpness-aware: takes the gradient at a worse point nearby.

    Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization" (2021,
    arXiv 2010.01412). Each step computes a second gradient, of the extra arg ``loss_fn``.

    Departures: ``optax.contrib.sam(inner, chain(normalize(), sgd(rho)), opaque_mode=True)`` gives the same numbers,
    with ``grad_fn(params, step)`` in place of ``loss_fn(params)``; for a gradient of zero it returns NaN, this one the
    step of ``inner``.

    Args:
      inner: a transformation.
      rho: radius of the neighborhood, in the norm of all parameters; 0.01 to 0.2.
      axis_name: the mapped axis over which gradients are averaged, under ``pmap``; None under ``jit``.

    Returns:
      A transformation with the state of ``inner``; ``update`` needs the parameters and ``loss_fn``, params ->
      float32[], the loss on the same batch.

    Raises:
      ValueError: ``rho`` is negative, or ``update`` is called without the parameters or ``loss_fn``.

    >>> from jaxopt_mini import sgd
    >>> params = {"w": jnp.float32(1.0)}
    >>> square = lambda params: params["w"] ** 2
    >>> tx = sam(sgd(1.0), rho=0.1)
    >>> updates, _ = tx.update(jax.grad(square)(params), tx.init(params), params, loss_fn=square)
    >>> print(updates["w"])
    -2.2
    """
    check_nonnegative(rho=rho)
    inner = with_extra_args_support(inner)

    def update(updates, state, params=None, *, loss_fn: Callable[[Params], jax.Array] | None = None, **extra_args):
        params = require_params(params, "sam")
        if loss_fn is None:
            raise ValueError("sam needs the loss: call update(updates, state, params, loss_fn=...)")
        total = norm(updates)
        share = rho / jnp.maximum(total, jnp.finfo(total.dtype).tiny)
        perturbed = apply_updates(params, jax.tree.map(lambda g: times(g, share), updates))
        grads = jax.grad(loss_fn)(perturbed)
        grads = grads if axis_name is None else jax.lax.pmean(grads, axis_name)
        return inner.update(cast_like(grads, updates), state, params, loss_fn=loss_fn, **extra_args)

    return transformation(inner.init, update)
