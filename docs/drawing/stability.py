"""Pictures of the course's fourth page: gradients and depth, clips, a spike, the edge of stability."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from docs.drawing.canvas import answers, finish, line, places, steps
from jaxopt_mini import adam, chain, clip_by_norm, clip_by_value, sgd
from minigpt_flax.runs.style import COLORS, FONT, MUTED, blend, title

CLIPS = {
    "clip_by_norm(1.0)": clip_by_norm(1.0),
    "clip_by_norm(1.0, ord=inf)": clip_by_norm(1.0, ord=jnp.inf),
    "clip_by_value(1.0)": clip_by_value(1.0),
}


def exploding(figure: Figure, quick: bool) -> None:
    """The gradient of a product of random matrices, against their number."""
    figure.set_size_inches(6.5, 3.5)
    title(figure, "Gradients explode or vanish exponentially with depth")
    axes = figure.subplots()
    depths = np.arange(1, steps(40, quick) + 1)
    for i, gain in enumerate((1.2, 1.0, 0.8)):
        line(axes, i, depths, gradient_norms(gain, int(depths[-1])), f"size {gain:g}")
    axes.set_yscale("log")
    finish(axes, "a deep linear network at initialization", "layers", "gradient norm, first layer", ends=True)


def gradient_norms(gain: float, deepest: int, width: int = 64) -> np.ndarray:
    """Norm of the gradient by the input's layer of networks of 1 to ``deepest`` layers, W = gain N(0, 1 / width)."""
    key, first = jax.random.split(jax.random.key(0))
    matrices = gain * jax.random.normal(key, (deepest, width, width)) / width**0.5
    x = jax.random.normal(first, (width,)) / width**0.5
    backward = lambda n: jax.grad(lambda w: jnp.sum(_through(matrices[1:n], w @ x) ** 2) / 2)(matrices[0])
    return np.array([float(jnp.linalg.norm(backward(n))) for n in range(1, deepest + 1)])


def _through(matrices: jax.Array, h: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda h, w: (w @ h, None), h, matrices)[0]


def clips(figure: Figure, quick: bool) -> None:
    """What each clip makes of gradients of length 2 in every direction."""
    figure.set_size_inches(6.5, 3.3)
    title(figure, "Clipping by norm keeps the direction;\nclipping by value changes it")
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    arrows = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for axes, (name, link) in zip(figure.subplots(1, 3, sharey=True), CLIPS.items(), strict=True):
        clipped = np.array([link.update(jnp.asarray(g), link.init(jnp.asarray(g)))[0] for g in arrows])
        for g, c in zip(arrows, clipped, strict=True):
            axes.plot(*zip(c, g, strict=True), color=MUTED, linewidth=0.8, linestyle="--")
        zero = np.zeros(len(clipped))
        axes.quiver(zero, zero, *clipped.T, angles="xy", scale_units="xy", scale=1, width=0.012, color=COLORS[0])
        axes.plot(*arrows.T, "o", color=MUTED, markersize=3)
        axes.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal")
        finish(axes, "", "", "", ticks=4)
        axes.set_title(name.replace(", ", ",\n"), family="monospace", fontsize=FONT - 1)


def spike(figure: Figure, quick: bool) -> None:
    """Adam's steps around one gradient a thousand times too large, with a clip before it and without."""
    figure.set_size_inches(6.5, 3.5)
    title(figure, "After one huge gradient, Adam hardly moves\nfor a thousand steps; clipping prevents it")
    axes = figure.subplots()
    length = steps(1000, quick) + 50
    gradients = np.ones(length, np.float32)
    gradients[40] = 1000.0
    rules = {"unclipped": adam(0.1), "clipped": chain(clip_by_norm(1.0), adam(0.1))}
    for i, (name, tx) in enumerate(rules.items()):
        moved = np.abs(answers(tx, gradients, jnp.zeros(())))
        line(axes, i, np.arange(length), moved, name)
    axes.set_yscale("log")
    finish(axes, "gradients of 1, and one of 1,000 at step 40", "step", "step size", ends=True)


def edge(figure: Figure, quick: bool) -> None:
    """Where descent diverges on a parabola; and how full-batch training rises to that edge."""
    figure.set_size_inches(6.5, 3.7)
    title(figure, "Descent diverges beyond a curvature of 2 / \u03b7,\nand training rises to this edge and stays there")
    left, right = figure.subplots(1, 2)
    products = jnp.linspace(0.2, 4.4, 85)
    for i, decay in enumerate((0.0, 0.9)):
        line(left, i, products, _distances(products, decay, steps(400, quick)))
        left.axvline(2 * (1 + decay), color=MUTED, linewidth=1, linestyle=":")
        name = ("no\nmomentum", "momentum\n0.9")[i]
        left.text((0.25, 2.2)[i], 1e9, name, va="center", fontsize=FONT - 1, color=blend(left.lines[2 * i].get_color()))
    left.set_yscale("log")
    left.set_ylim(1e-12, 1e12)
    finish(left, "distance from the minimum", "\u03b7 \u03bb", "")
    for i, rate in enumerate((0.06, 0.05)):
        taken, sharpness = sharpening(rate, steps(6000, quick))
        line(right, i, taken, sharpness, f"\u03b7 = {rate:g}")
        right.axhline(2 / rate, color=MUTED, linewidth=1, linestyle=":")
    right.legend(loc="lower right")
    finish(right, "largest curvature, 2 / \u03b7 dotted", "step", "", ticks=4)


def _distances(rates: jax.Array, decay: float, length: int) -> np.ndarray:
    """How far from the minimum of w^2 / 2 each rate ends that starts at 1; what has overflowed is at 1e38."""
    end = lambda rate: places(lambda w: w[0] ** 2 / 2, sgd(rate, momentum=decay), jnp.ones(1), length)[-1, 0]
    return np.clip(np.nan_to_num(np.abs(jax.vmap(end)(rates)), nan=1e38), 1e-38, 1e38)


def sharpening(rate: float, length: int, every: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the largest eigenvalue of the Hessian there, of gradient descent on a network of 32 tanh units."""
    x = jnp.linspace(-1.0, 1.0, 20)[:, None]
    y = jnp.cos(4 * jnp.arccos(x))  # Chebyshev's polynomial of degree 4
    cut = lambda w: (w[:32].reshape(1, 32), w[32:64], w[64:96].reshape(32, 1))

    def loss(w):
        first, bias, last = cut(w)
        return jnp.mean((jnp.tanh(x @ first + bias) @ last - y) ** 2)

    start = jax.random.normal(jax.random.key(3), (96,)) * 0.5
    taken = np.arange(0, length + 1, every)
    walked = places(loss, sgd(rate), start, length)[taken]
    hessians = jax.lax.map(jax.hessian(loss), walked)
    return taken, np.linalg.eigvalsh(np.asarray(hessians))[:, -1]
