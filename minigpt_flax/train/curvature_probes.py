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
    ``signal`` over many steps, or use ``diagnose``.

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

    By the Lanczos method from a fixed random vector; after 10 products usually a few percent too low, never too high.

    Args:
      view: of the step.
      every: steps between two measurements.
      sequences: number of sequences of the batch to use.
      depth: Hessian-vector products; each costs about three gradients of these sequences.

    Returns:
      ``sharpness``.
    """
    _refuse(sequences < 1 or depth < 1, f"sequences and depth must be at least 1, got {sequences} and {depth}")
    part = _sequences(view)[:sequences]
    gradient = lambda params: jax.grad(view.loss_of)(params, part)

    def measure() -> dict[str, jax.Array]:
        # Reverse mode twice: layers with a custom_vjp don't support forward mode.
        product = lambda vector: jax.vjp(gradient, view.params)[1](vector)[0]
        return {"sharpness": largest_eigenvalue(product, signs(view.params), depth)}

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
    converged Ritz values, which doesn't change the largest one.
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
    """The sequences to measure on: the batch, or the first micro-batch, as more may not fit into memory."""
    return view.batch if view.batch.ndim == 2 else view.batch[0]


def _refuse(wrong: bool, why: str) -> None:
    if wrong:
        raise ValueError(why)
