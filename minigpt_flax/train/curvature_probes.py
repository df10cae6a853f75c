"""Probes that compute the loss anew: of parts of the batch, or bent. They cost, and so they look only now and then.

They need of a :class:`StepView` its parameters, batch and loss. In the steps between they give NaN, which the log
leaves out. Let ``every`` be a multiple of ``--log-every``, as nothing is measured in steps that the log doesn't keep.
Under ``compare --vmap`` they cost their full price in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxopt_mini import tree
from minigpt_flax.train.view import StepView

PARTS = 4  # of the batch, whose gradients are compared


def noise(view: StepView, *, every: int = 200) -> dict[str, jax.Array]:
    """Gradient noise scale: the batch, in tokens, at which signal and noise of the gradient are equal.

    McCandlish et al. (2018, arXiv 1812.06162), from the gradients g_i of four parts of the batch and their mean m:
    the noise of one token S = b n / (n - 1) (mean |g_i|^2 - |m|^2), b tokens in each of n parts, and the signal
    |G|^2 = |m|^2 - S / (n b). One step's scale is rough: take the mean of ``spread`` over that of ``signal`` of many
    steps, or ``diagnose``.

    Args:
      view: of the step.
      every: steps between two looks; each costs about two gradients of the batch: its parts keep a device less busy.

    Returns:
      ``noise/scale`` (tokens), ``noise/spread`` (S), ``noise/signal`` (|G|^2).
    """
    return now_and_then(view, every, lambda: noise_of(view))


def noise_of(view: StepView) -> dict[str, jax.Array]:
    """The measurement of :func:`noise`, whatever the step."""
    sequences = _sequences(view)
    count = min(PARTS, len(sequences))
    _refuse(count < 2, "noise compares parts of the batch: it needs a --batch-size of 2 at least")
    size = len(sequences) // count
    parts = sequences[: count * size].reshape(count, size, -1)
    grads = view.each(lambda part: jax.grad(view.loss_of)(view.params, part))(parts)
    mean = jax.tree.map(lambda leaf: leaf.mean(0), grads)
    square = jnp.square(tree.norm(mean))
    squares = jnp.square(tree.norm(grads)) / count
    tokens = size * (sequences.shape[-1] - 1)
    spread = tokens * count / (count - 1) * (squares - square)
    signal = square - spread / (count * tokens)
    return {"noise/scale": spread / signal, "noise/spread": spread, "noise/signal": signal}


def sharpness(view: StepView, *, every: int = 500, sequences: int = 2, depth: int = 10) -> dict[str, jax.Array]:
    """The largest eigenvalue of the Hessian on a part of the batch: plain gradient descent oscillates above 2 / lr.

    By Lanczos from a fixed random start; after 10 products usually within some per cent, and never above.

    Args:
      view: of the step.
      every: steps between two looks.
      sequences: of the batch to look with.
      depth: products with the Hessian; each costs about three gradients of these sequences.

    Returns:
      ``sharpness``.
    """
    _refuse(sequences < 1 or depth < 1, f"sequences and depth must be at least 1, got {sequences} and {depth}")
    part = _sequences(view)[:sequences]
    slope = lambda params: jax.grad(view.loss_of)(params, part)

    def measure() -> dict[str, jax.Array]:
        # Backwards twice: a layer with a gradient of its own can't be differentiated forwards.
        product = lambda vector: jax.vjp(slope, view.params)[1](vector)[0]
        return {"sharpness": largest_eigenvalue(product, signs(view.params), depth)}

    return now_and_then(view, every, measure)


# Work of a probe over that of a step, averaged: (its keywords, sequences in a step) -> number. A gradient is a step's.
WORK: dict[str, Callable[[Mapping[str, Any], int], float]] = {
    "noise": lambda words, size: 2 / words["every"],
    "sharpness": lambda words, size: 3 * words["depth"] * min(words["sequences"], size) / size / words["every"],
}


def now_and_then(view: StepView, every: int, measure: Callable[[], dict[str, jax.Array]]) -> dict[str, jax.Array]:
    """Measures in the first step and after every so many; NaN in the others."""
    _refuse(every < 1, f"every must be at least 1, got {every}")
    shapes = jax.eval_shape(measure)
    absent = lambda: {name: jnp.full(leaf.shape, jnp.nan, leaf.dtype) for name, leaf in shapes.items()}
    return jax.lax.cond(due(view.step, every), measure, absent)


def due(step: Any, every: int) -> Any:
    """Whether such a probe looks at the step after ``step`` others, an int or int32[]."""
    return (step == 0) | ((step + 1) % every == 0)


def largest_eigenvalue(product: Callable[[Any], Any], start: Any, depth: int) -> Float[Array, ""]:
    """Largest Ritz value of a symmetric map of trees by Lanczos's three-term recurrence.

    Nothing is orthogonalised anew: three trees are kept instead of ``depth``, and what rounding spoils are copies of
    values that have converged, not the largest one.
    """
    combine = lambda a, x, b, y: jax.tree.map(lambda u, v: (a * u + b * v).astype(u.dtype), x, y)
    zeros = tree.zeros_like(start)

    def step(carry: tuple[Any, Any, jax.Array], _: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        before, now, beta = carry
        image = combine(1.0, product(now), -beta, before)
        alpha = tree.inner(now, image)
        rest = combine(1.0, image, -alpha, now)
        length = tree.norm(rest)
        return (now, combine(1.0 / jnp.maximum(length, _TINY), rest, 0.0, zeros), length), (alpha, length)

    first = combine(1.0 / tree.norm(start), start, 0.0, zeros)
    _, (alphas, betas) = jax.lax.scan(step, (zeros, first, jnp.float32(0)), length=depth)
    beside = jnp.diag(betas[:-1], 1)
    return jnp.linalg.eigvalsh(jnp.diag(alphas) + beside + beside.T)[-1]


_TINY = jnp.finfo(jnp.float32).tiny


def signs(params: Any) -> Any:
    """Random signs, the same in every step."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [jax.random.rademacher(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def _sequences(view: StepView) -> Array:
    """What the probes look at: the batch, or the first of several micro-batches, as more may not fit."""
    return view.batch if view.batch.ndim == 2 else view.batch[0]


def _refuse(wrong: bool, why: str) -> None:
    if wrong:
        raise ValueError(why)
