"""Pictures of the course's second page: paths, averages, effective rates, two kinds of decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from docs.drawing.canvas import answers, contours, finish, line, places, small, steps
from docs.drawing.geometry import horse, ravine
from jaxopt_mini import adagrad, adam, adamw, add_decayed_weights, apply_updates, chain, ema, momentum, rmsprop, sgd
from minigpt_flax.runs.style import INK, MUTED, title

FAMILY = {"sgd": sgd, "momentum": momentum, "adagrad": adagrad, "rmsprop": rmsprop, "adam": adam}
RATES = np.geomspace(1e-4, 3.0, 40)


def rosenbrock(w: jax.Array) -> jax.Array:
    """A bent valley with a flat floor; the minimum is at (1, 1)."""
    return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2


PROBLEMS: dict[str, tuple[Any, ...]] = {  # loss, start, bounds of both axes, steps, minima
    "quadratic": (ravine, (-2.0, 1.0), (-2.3, 1.0), (-1.2, 1.3), 40, [(0, 0)]),
    "Rosenbrock": (rosenbrock, (-1.2, 1.0), (-1.6, 1.4), (-0.4, 1.6), 400, [(1, 1)]),
    "saddle": (horse, (1.2, 1e-3), (-0.5, 1.4), (-0.3, 1.4), 60, [(0, 1)]),
}


def paths(figure: Figure, quick: bool) -> None:
    """Five optimizers on three losses, each at the learning rate of a grid that has the least mean loss."""
    figure.set_size_inches(6.5, 5.0)
    title(figure, "Five optimizers, each at its best learning rate")
    grid = figure.subplots(len(PROBLEMS), len(FAMILY), sharex="row", sharey="row")
    for row, (name, (loss, start, x, y, length, minima)) in zip(grid, PROBLEMS.items(), strict=True):
        for axes, (opt, make) in zip(row, FAMILY.items(), strict=True):
            length = steps(length, quick)
            walked = places(loss, make(best_rate(loss, make, start, length)), start, length)
            contours(axes, loss, x, y, levels=4)
            line(axes, opt, *np.asarray(walked).T, marks=[0, *(2**k for k in range(10) if 2**k < length), length])
            axes.plot(*zip(*minima, strict=True), "+", color=INK, markersize=10)
            finish(axes, opt if name == "quadratic" else "", "", name if opt == "sgd" else "", ticks=3)
            small(axes, ticks=opt == "sgd")


def best_rate(loss: Callable, make: Callable, start: Any, length: int) -> float:
    """The rate of ``RATES`` whose walk has the least mean loss; all of them are walked at once."""
    mean = lambda rate: jnp.mean(jax.vmap(loss)(places(loss, make(rate), start, length)))
    means = jax.vmap(mean)(jnp.asarray(RATES, jnp.float32))
    return float(RATES[int(jnp.argmin(jnp.where(jnp.isfinite(means), means, jnp.inf)))])


def average(figure: Figure, quick: bool) -> None:
    """Momentum as an average: what it makes of a noisy gradient, and how much each past gradient weighs."""
    figure.set_size_inches(6.5, 3.6)
    title(figure, "A larger b gives a smoother average that lags more")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    t = np.arange(steps(200, quick))
    truth = np.sin(2 * np.pi * t / 200)
    noisy = truth + np.random.default_rng(0).normal(scale=0.8, size=len(t))
    left.plot(t, noisy, ".", color=MUTED, markersize=3)
    left.plot(t, truth, color=MUTED, linewidth=1.2)
    for i, b in enumerate((0.5, 0.9, 0.98)):
        line(left, i, t, answers(ema(b, debias=False), noisy, jnp.zeros(())), f"{b:g}")
        line(right, i, np.arange(60), answers(ema(b, debias=False), np.eye(1, 60)[0], jnp.zeros(())), f"b = {b:g}")
    left.set_ylim(-2.2, 2.2)
    finish(left, "noisy gradients, their averages m", "step", "gradient")
    right.set_yscale("log")
    right.set_ylim(1e-4, 1)
    right.legend()
    finish(right, "weight in m", "steps ago", "")


def rates(figure: Figure, quick: bool) -> None:
    """How long the steps are for gradients of 1 that become gradients of 10."""
    figure.set_size_inches(6.5, 3.6)
    title(figure, "Only SGD's steps stay ten times as large\nwhen the gradients grow tenfold")
    axes = figure.subplots()
    half = steps(300, quick)
    gradients = np.repeat([1.0, 10.0], half)
    rules = {
        "sgd": sgd(0.01),
        "adagrad": adagrad(0.1, initial_accumulator_value=0.0),
        "rmsprop": rmsprop(0.01, decay=0.98),
        "adam": adam(0.01, b2=0.98),
    }
    for name, tx in rules.items():
        line(axes, name, np.arange(2 * half), np.abs(answers(tx, gradients, jnp.zeros(()))), name)
    axes.set_yscale("log")
    finish(axes, "gradients of 1, then of 10", "step", "step size", ends=True)


def decay(figure: Figure, quick: bool) -> None:
    """How much a decay of 0.5 shrinks a weight, against the size of its gradients."""
    figure.set_size_inches(6.5, 3.6)
    title(figure, "AdamW decays every weight alike; an L2 penalty\nspares the weights with large gradients")
    axes = figure.subplots()
    sizes = jnp.geomspace(0.01, 100, 60)
    plain = _after_three(adam(0.1), sizes)
    rules = {
        "AdamW": ("adamw", adamw(0.1, weight_decay=0.5)),
        "Adam + L2": ("adam", chain(add_decayed_weights(0.5), adam(0.1))),
    }
    for name, (opt, tx) in rules.items():
        line(axes, opt, sizes, plain - _after_three(tx, sizes), name)
    axes.set_xscale("log")
    finish(axes, "weight of 1, three steps, decay 0.5", "size of the gradients", "shrinkage", ends=True)


def _after_three(tx: Any, sizes: jax.Array) -> jax.Array:
    """Where weights of 1 are after gradients of + size, - size and + size, one weight a size."""
    place = jnp.ones_like(sizes)
    state = tx.init(place)
    for sign in (1, -1, 1):
        updates, state = tx.update(sign * sizes, state, place)
        place = apply_updates(place, updates)
    return place
