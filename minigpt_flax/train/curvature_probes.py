"""Probes that need extra loss evaluations (gradient noise, sharpness); they run every N steps.

They use the parameters, batch and loss of a :class:`StepView`. In the other steps they return NaN, which the log omits.
Choose ``every`` as a multiple of ``--log-every``, as nothing is measured in steps that aren't logged.
Under ``compare --vmap`` they have their full cost in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxopt_mini import tree
from minigpt_flax.train.state import StepView

PARTS = 4  # parts of the batch whose gradients are compared


def noise(view: StepView, *, every: int = 200) -> dict[str, jax.Array]:
    """Gradient noise scale: the batch size, in tokens, at which signal and noise of the gradient are equal.

    McCandlish et al. (2018, arXiv 1812.06162), from the gradients g_i of four parts of the batch and their mean m:
    the noise of one token S = b n / (n - 1) (mean |g_i|^2 - |m|^2), b tokens in each of n parts, and the signal
    |G|^2 = |m|^2 - S / (n b). The scale of one step is a rough estimate: divide the mean of ``spread`` by the mean of
    ``signal`` over many steps, or use ``diagnose``. With dropout, each part has its own mask, so that the noise of
    dropout counts; ``diagnose`` measures without dropout.

    Args:
      view: of the step.
      every: steps between two measurements; each costs about two gradients of the batch, as a device is less busy with
        its parts.

    Returns:
      ``noise/scale`` (tokens), ``noise/spread`` (S), ``noise/signal`` (|G|^2).
    """
    return every_n_steps(view, every, lambda: noise_of(view))


def noise_of(view: StepView) -> dict[str, jax.Array]:
    """Measures :func:`noise` unconditionally."""
    sequences = _sequences(view)
    count = min(PARTS, len(sequences))
    _refuse(count < 2, "noise compares parts of the batch: it needs a --batch-size of at least 2")
    size = len(sequences) // count
    parts = sequences[: count * size].reshape(count, size, -1)
    slope = lambda numbered: jax.grad(view.loss_of)(view.params, *numbered)
    grads = view.each(slope)((parts, jnp.arange(count)))
    mean = jax.tree.map(lambda leaf: leaf.mean(0), grads)
    square = jnp.square(tree.norm(mean))
    squares = jnp.square(tree.norm(grads)) / count
    tokens = size * (sequences.shape[-1] - 1)
    spread = tokens * count / (count - 1) * (squares - square)
    signal = square - spread / (count * tokens)
    return {"noise/scale": spread / signal, "noise/spread": spread, "noise/signal": signal}


def sharpness(view: StepView, *, every: int = 500, sequences: int = 2, depth: int = 10) -> dict[str, jax.Array]:
    """The largest eigenvalue of the Hessian on a part of the batch: plain gradient descent oscillates above 2 / lr.

    By the Lanczos method from a fixed random vector; after 10 products usually a few percent too low, never too high
    except for rounding. The loss is that of the training step: with its dropout, under one mask, and in its dtype.

    Args:
      view: of the step.
      every: steps between two measurements.
      sequences: number of sequences of the batch to use.
      depth: Hessian-vector products; each costs about three gradients of these sequences.

    Returns:
      ``sharpness``.
    """
    _refuse(sequences < 1 or depth < 1, f"sequences and depth must be at least 1, got {sequences} and {depth}")
    part, wide = _sequences(view)[:sequences], jax.tree.map(tree.widen, view.params)
    gradient = lambda params: jax.grad(view.loss_of)(params, part)

    def measure() -> dict[str, jax.Array]:
        # Reverse mode twice: layers with a custom_vjp don't support forward mode.
        product = lambda vector: jax.vjp(gradient, wide)[1](vector)[0]
        return {"sharpness": largest_eigenvalue(product, signs(wide), depth)}

    return every_n_steps(view, every, measure)


# Mean cost of a probe relative to a step, which is counted as one gradient: (keywords, sequences per step) -> number.
WORK: dict[str, Callable[[Mapping[str, Any], int], float]] = {
    "noise": lambda keys, size: 2 / keys["every"],
    "sharpness": lambda keys, size: 3 * keys["depth"] * min(keys["sequences"], size) / size / keys["every"],
}


def every_n_steps(view: StepView, every: int, measure: Callable[[], dict[str, jax.Array]]) -> dict[str, jax.Array]:
    """Measures in the first step and in every ``every``-th; returns NaN in the others."""
    _refuse(every < 1, f"every must be at least 1, got {every}")
    shapes = jax.eval_shape(measure)
    absent = lambda: {name: jnp.full(leaf.shape, jnp.nan, leaf.dtype) for name, leaf in shapes.items()}
    return jax.lax.cond(due(view.step, every), measure, absent)


def due(step: Any, every: int) -> Any:
    """Whether to measure in the step after ``step`` others, an int or int32[]."""
    return (step == 0) | ((step + 1) % every == 0)


def largest_eigenvalue(product: Callable[[Any], Any], start: Any, depth: int) -> Float[Array, ""]:
    """Largest Ritz value of a symmetric linear map of trees, by Lanczos's three-term recurrence.

    Without reorthogonalization, three trees are stored instead of ``depth``. Rounding errors then add copies of
    converged Ritz values, which doesn't change the largest one. The recurrence ends where the remaining vector is
    rounding error: the Krylov space is exhausted.
    """
    combine = lambda a, x, b, y: jax.tree.map(lambda u, v: (a * u + b * v).astype(u.dtype), x, y)
    zeros = tree.zeros_like(start)

    def step(carry: tuple[Any, Any, jax.Array, jax.Array], _: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        before, now, beta, size = carry
        image = combine(1.0, product(now), -beta, before)
        alpha = tree.inner(now, image)
        rest = combine(1.0, image, -alpha, now)
        rest = combine(1.0, rest, -tree.inner(now, rest), now)
        length = _length(rest)
        size = jnp.maximum(size, jnp.maximum(jnp.abs(alpha), length))
        length = jnp.where(length > _NOISE * size, length, 0.0)
        following = combine(1.0 / jnp.where(length > 0, length, jnp.inf), rest, 0.0, zeros)
        return (now, following, length, size), (alpha, length)

    first = combine(1.0 / tree.norm(start), start, 0.0, zeros)
    _, (alphas, betas) = jax.lax.scan(step, (zeros, first, jnp.float32(0), jnp.float32(0)), length=depth)
    last = jnp.where(jnp.any(betas == 0), jnp.argmax(betas == 0), depth)
    alphas = jnp.where(jnp.arange(depth) > last, alphas[0], alphas)  # alphas[0] is at most the largest Ritz value
    scale = jnp.max(jnp.abs(alphas)) + jnp.max(betas)
    scale = jnp.where(scale > 0, scale, 1.0)
    beside = jnp.diag(betas[:-1] / scale, 1)
    return scale * jnp.linalg.eigvalsh(jnp.diag(alphas / scale) + beside + beside.T)[-1]


_NOISE = 32 * jnp.finfo(jnp.float32).eps  # of a remaining vector that is only rounding error


def _length(vector: Any) -> Float[Array, ""]:
    """Norm of a tree whose squares may overflow or underflow."""
    largest = tree.norm(vector, jnp.inf)
    scale = jnp.where(largest > 0, largest, 1.0)
    return scale * tree.norm(jax.tree.map(lambda leaf: tree.widen(leaf) / scale, vector))


def signs(params: Any) -> Any:
    """Random signs, the same in every step."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [jax.random.rademacher(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def _sequences(view: StepView) -> Array:
    """The sequences to measure on: the batch, or the first micro-batch, as more may not fit into memory."""
    return view.batch if view.batch.ndim == 2 else view.batch[0]


def _refuse(wrong: bool, why: str) -> None:
    if wrong:
        raise ValueError(why)
