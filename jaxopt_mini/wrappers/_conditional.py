"""Conditional updates: wrappers that skip or accumulate calls, and wrappers that work on updates around them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from optax import MultiStepsState

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, OptState, Params, Updates

Wrapper = TypeVar("Wrapper", bound=Callable[..., GradientTransformationExtraArgs])

MICRO_BATCHED: set[type] = {MultiStepsState}
"""State types of transformations that update once in several calls."""


class Conditional(GradientTransformationExtraArgs):
    """A transformation that doesn't update in every call, as a :func:`conditional_updates` wrapper returns it.

    Attributes:
      replace_inner: function of ``change``; wraps ``change(inner)`` instead of the inner transformation.
    """

    replace_inner: Callable[[Callable[[GradientTransformation], GradientTransformation]], Conditional]


def conditional_updates(wrapper: Wrapper) -> Wrapper:
    """Decorator for a wrapper that decides in which calls the inner transformation updates, see :func:`per_update`."""

    @functools.wraps(wrapper)
    def wrapped(inner: GradientTransformation, *args: Any, **kwargs: Any) -> Conditional:
        tx = Conditional(*wrapper(inner, *args, **kwargs))
        tx.replace_inner = lambda change: wrapped(change(inner), *args, **kwargs)
        return tx

    return wrapped  # pyright: ignore[reportReturnType]


def per_update(wrapper: Wrapper) -> Wrapper:
    """Decorator for a wrapper that works once per update, not once per call.

    Around a :func:`conditional_updates` wrapper it moves inside: ``cautious(accumulate(tx))`` is
    ``accumulate(cautious(tx))``.
    Where it can't, because ``accumulate`` or ``optax.MultiSteps`` is deeper inside, ``init`` raises a ``ValueError``.
    """

    @functools.wraps(wrapper)
    def wrapped(inner: GradientTransformation, *args: Any, **kwargs: Any) -> GradientTransformationExtraArgs:
        if isinstance(inner, Conditional):
            return inner.replace_inner(lambda inner: wrapped(inner, *args, **kwargs))
        tx = wrapper(inner, *args, **kwargs)

        def init(params):
            state = tx.init(params)
            is_micro_batched = lambda part: type(part) in MICRO_BATCHED
            if any(map(is_micro_batched, jax.tree.leaves(state, is_leaf=is_micro_batched))):
                raise ValueError(
                    f"{wrapper.__name__} would take every micro-batch for an update: put the accumulation around it"
                )
            return state

        return tx._replace(init=init)

    return wrapped  # pyright: ignore[reportReturnType]


def update_if(
    condition: jax.Array,
    inner: GradientTransformationExtraArgs,
    updates: Updates,
    state: OptState,
    params: Params | None,
    extra_args: dict[str, Any],
) -> tuple[Updates, OptState]:
    """Calls ``inner.update`` if ``condition`` (bool[]) holds; otherwise the updates are zero and the state unchanged.

    The inner update is inside a ``jax.lax.cond``, so a skipped step costs nothing (under ``vmap`` both branches run).
    """

    def run():
        return inner.update(updates, state, params, **extra_args)

    def skip():
        new, _ = jax.eval_shape(run)  # the updates may differ from the gradients in dtype
        return jax.tree.map(lambda leaf, grad: jnp.zeros_like(grad, dtype=leaf.dtype), new, updates), state

    return jax.lax.cond(condition, run, skip)
