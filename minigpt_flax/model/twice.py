"""Second derivatives for a kernel that has only the first ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array


def differentiable_twice(fast: Callable[..., Array], exact: Callable[..., Array]) -> Callable[..., Array]:
    """``fast``, whose gradients can be differentiated backwards: what that takes is computed by ``exact``.

    A kernel comes with its gradient, as a kernel too, and ends there. Products with the Hessian, for the sharpness or
    for Sophia, need one derivative more. The loss and its gradient cost here what they cost before, so a run that needs
    such products now and then is slow in these steps only.

    Forwards it can't be differentiated, as everything with a gradient of its own: take ``vjp`` of ``grad``.

    Args:
        fast: A kernel, with the arguments of `minigpt_flax.model.attention.attend` but ``drop``.
        exact: The same function, differentiable as often as one likes.

    Returns:
        The function ``fast``, that takes a ``drop`` of None as well.
    """

    def bound(attend: Callable[..., Array], scale: float | None, documents: Array | None) -> Callable[..., Array]:
        return lambda q, k, v: attend(q, k, v, documents=documents, scale=scale)

    def slopes(scale: float | None, q: Array, k: Array, v: Array, documents: Array | None, along: Array) -> Any:
        return jax.vjp(bound(exact, scale, documents), q, k, v)[1](along)

    def with_a_derivative(function: Callable[..., Any]) -> Any:
        return jax.custom_vjp(function, nondiff_argnums=(0,))

    @with_a_derivative
    def forward(scale: float | None, q: Array, k: Array, v: Array, documents: Array | None) -> Any:
        out, back = jax.vjp(bound(fast, scale, documents), q, k, v)
        return out, jax.tree.leaves(back)  # what the kernel of the gradient needs

    @with_a_derivative
    def backward(scale: float | None, needs: Any, q: Array, k: Array, v: Array, documents: Any, along: Array) -> Any:
        # Traced anew, as the structure of what one trace has made is not that of another's.
        back = jax.eval_shape(lambda *qkv: jax.vjp(bound(fast, scale, documents), *qkv)[1], q, k, v)
        return jax.tree.unflatten(jax.tree.structure(back), needs)(along)

    def backward_again(scale: float | None, kept: tuple[Any, ...], directions: Any) -> tuple[Any, ...]:
        q, k, v, documents, along = kept
        gradients = lambda q, k, v, along: slopes(scale, q, k, v, documents, along)
        *of_inputs, of_along = jax.vjp(gradients, q, k, v, along)[1](directions)
        return None, *of_inputs, None, of_along

    # What the kernel needs is a function of q, k and v, and `backward_again` has its share in the derivative.
    forward.defvjp(
        lambda scale, *given: (forward(scale, *given), given),
        lambda scale, given, directions: (*slopes(scale, *given, along=directions[0]), None),
    )
    backward.defvjp(
        lambda scale, needs, *given: (backward(scale, needs, *given), given),
        backward_again,
    )

    @with_a_derivative
    def attention(scale: float | None, q: Array, k: Array, v: Array, documents: Array | None) -> Array:
        return fast(q, k, v, documents=documents, scale=scale)

    def attention_forward(scale: float | None, *given: Any) -> tuple[Array, Any]:
        out, needs = forward(scale, *given)
        return out, (needs, *given)

    attention.defvjp(
        attention_forward,
        lambda scale, kept, along: (*backward(scale, *kept, along), None),
    )

    @functools.wraps(fast)
    def attend(
        q: Array,
        k: Array,
        v: Array,
        *,
        drop: None = None,
        documents: Array | None = None,
        scale: float | None = None,
    ) -> Array:
        del drop
        return attention(scale, q, k, v, documents)

    return attend
