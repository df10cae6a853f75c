"""How the geometry of the loss explains the optimizers: surfaces in the plane, a convex bound, and the GPT's own."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks.answers import edge, page
from benchmarks.answers.small import Kept, config, mean_loss
from docs.drawing.canvas import simplified, small
from jaxopt_mini import adam, apply_updates, momentum, rmsprop, sgd, sign_sgd
from minigpt_flax.diagnose.edge_of_stability import STABILITY_BOUNDS, optimizer_keywords
from minigpt_flax.runs.style import (
    COLORS,
    DASHES,
    FAINT,
    INK,
    MUTED,
    compact,
    label_ends,
    looks,
    power,
    style_axes,
    title,
)
from minigpt_flax.train.build import build
from minigpt_flax.train.curvature_probes import largest_eigenvalue, signs

OPTIMIZERS = {"sgd": sgd, "momentum": momentum, "rmsprop": rmsprop, "adam": adam, "sign_sgd": sign_sgd}
FALL = 0.02  # of the saddle: how much less it bends down than up
SURFACES: dict[str, tuple[Callable[..., Any], tuple[float, float], float]] = {  # function, start, loss that is "there"
    "quadratic": (lambda x, y: (x**2 + 100 * y**2) / 2, (-4.0, 1.0), 1e-3),
    "Rosenbrock": (lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2, (-1.2, 1.0), 1e-3),
    "saddle": (lambda x, y: x**2 / 2 + FALL * (y**4 / 4 - y**2 / 2 + 0.25), (1.0, 1e-5), 1e-4),
}
LIMIT, GRID = 20_000, np.geomspace(1e-4, 90.0, 110)  # steps; rates that each may choose from
TRAIL = 400  # steps in the picture
GPT_STEPS, GPT_EVERY, DEPTH = 600, 50, 15


def descend(name: str, surface: str, rate: Any, steps: int) -> tuple[jax.Array, jax.Array]:
    """The places and the losses of a descent."""
    function, start, _ = SURFACES[surface]
    loss, tx = lambda w: function(*w), OPTIMIZERS[name](rate)

    def step(carry, _):
        w, state = carry
        value, grad = jax.value_and_grad(loss)(w)
        updates, state = tx.update(grad, state, w)
        return (apply_updates(w, updates), state), (w, value)

    first = jnp.array(start)
    return jax.lax.scan(step, (first, tx.init(first)), length=steps)[1]


def quickest(name: str, surface: str) -> dict[str, Any]:
    """The rate of the grid that gets there in the fewest steps and stays, and the way it takes."""
    there = SURFACES[surface][2]

    def arrival(rate):
        losses = descend(name, surface, rate, LIMIT)[1]
        away = ~(losses <= there)  # what is no number is away
        return jnp.max(jnp.where(away, jnp.arange(LIMIT), -1)) + 1

    arrivals = np.asarray(jax.jit(jax.vmap(arrival))(jnp.asarray(GRID, jnp.float32)))
    best = int(arrivals.argmin())
    trail, _ = descend(name, surface, float(GRID[best]), TRAIL)
    return {"rate": float(GRID[best]), "steps": int(arrivals[best]), "trail": trail.tolist()}


def convex() -> dict[str, list[float]]:
    """Gradient descent on a logistic regression, and the bound |w0 - w*|^2 / (2 lr T) that convexity promises."""
    x = jax.random.normal(jax.random.key(0), (2000, 50)) * jnp.geomspace(1, 0.03, 50)  # flat directions: no faster rate
    chance = jax.nn.sigmoid(x @ jnp.ones(50))
    y = jnp.where(jax.random.uniform(jax.random.key(1), chance.shape) < chance, 1.0, -1.0)
    loss = lambda w: jnp.mean(jnp.logaddexp(0.0, -y * (x @ w)))
    rate = 4 / float(jnp.linalg.eigvalsh(x.T @ x / len(x))[-1])  # 1 / smoothness
    step = lambda w, _: (w - rate * jax.grad(loss)(w), loss(w))
    newton = lambda w, _: (w - jnp.linalg.solve(jax.hessian(loss)(w), jax.grad(loss)(w)), None)
    start = jnp.zeros(50)
    best, _ = jax.lax.scan(newton, start, length=20)
    _, losses = jax.lax.scan(step, start, length=10_000)
    steps = np.unique(np.geomspace(1, 9999, 60).astype(int))
    gap = np.asarray(losses, np.float64)[steps] - float(loss(best))
    return {"steps": steps.tolist(), "gap": gap.tolist(), "bound": (float(best @ best) / (2 * rate * steps)).tolist()}


def curvature(opt: str) -> dict[str, list[float]]:
    """The ends of the Hessian's spectrum on one batch, while the small GPT trains."""
    run = build(config(GPT_STEPS, opt=opt, schedule="warmup_constant(warmup=0.1)", clip="none"))
    loss, batch = mean_loss(run), jnp.asarray(run.batches(GPT_STEPS))

    @jax.jit
    def ends(params):
        product = lambda v: jax.vjp(lambda p: jax.grad(loss)(p, batch), params)[1](v)[0]
        start = signs(params)
        negative = lambda v: jax.tree.map(jnp.negative, product(v))
        return largest_eigenvalue(product, start, DEPTH), -largest_eigenvalue(negative, start, DEPTH)

    schedule = run.schedule
    assert schedule is not None  # the optimizer is not an object
    state, found = run.init(), {"step": [], "top": [], "bottom": [], "bound": []}
    for t in range(GPT_STEPS + 1):
        if t % GPT_EVERY == 0:
            top, bottom = ends(state.params)
            lr = float(schedule(state.step))
            for key, value in (("step", t), ("top", top), ("bottom", bottom), ("bound", 2 / lr if lr else math.inf)):
                found[key].append(float(value))
        state, _ = run.step(state, run.batches(t))
    return found


def measure(kept: Kept) -> dict[str, Any]:
    """Everything."""
    return {
        "ways": {
            (name, surface): kept.get(f"{name} {surface}", functools.partial(quickest, name, surface))
            for surface in SURFACES
            for name in OPTIMIZERS
        },
        "convex": kept.get("convex", convex),
        "gpt": {opt: kept.get(f"curvature {opt}", functools.partial(curvature, opt)) for opt in ("sgd", "adamw")},
        "edge": {
            (name, lr): kept.get(f"edge {name} {lr:g}", functools.partial(edge.follow, name, lr))
            for name, (_, _, rates) in edge.RUNS.items()
            for lr in rates
        },
    }


def surfaces(ways: Mapping[tuple[str, str], Mapping[str, Any]]) -> Figure:
    """The ways over the three surfaces."""
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    title(figure, "Five optimizers, each at its fastest learning rate")
    boxes = {
        "quadratic": (-4.5, 1.5, -1.6, 1.6),
        "Rosenbrock": (-1.6, 1.4, -0.6, 1.6),
        "saddle": (-0.4, 1.2, -0.3, 1.3),
    }
    grid = figure.subplots(len(SURFACES), len(OPTIMIZERS), sharex="row", sharey="row")
    for row, (surface, (function, _, _)) in zip(grid, SURFACES.items(), strict=True):
        left, right, low, high = boxes[surface]
        x, y = np.meshgrid(np.linspace(left, right, 60), np.linspace(low, high, 60))
        values = function(x, y)
        levels = values.min() + np.ptp(values) * np.geomspace(0.003, 1, 6)
        for axes, name, line in zip(row, OPTIMIZERS, looks(list(OPTIMIZERS)), strict=True):
            simplified(axes.contour(x, y, values, levels=levels, colors=FAINT, linewidths=1))
            trail = np.array(ways[name, surface]["trail"])
            axes.plot(*trail.T, linewidth=1.2, **line | {"marker": ""})
            axes.set(xlim=(left, right), ylim=(low, high))
            axes.set_title(name if surface == "quadratic" else "")
            style_axes(axes, surface if name == "sgd" else "", ticks=3)
            small(axes, ticks=name == "sgd")
    return figure


def bound(found: Mapping[str, Any]) -> Figure:
    """Gradient descent below its bound."""
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    title(figure, "Gradient descent stays below its bound")
    axes = figure.subplots()
    axes.loglog(found["steps"], found["gap"], color=COLORS[0], label="measured")
    axes.loglog(found["steps"], found["bound"], color=COLORS[4], linestyle="--", label="bound")
    axes.set_xlabel("step T")
    axes.set_title("logistic regression; the bound is |w\u2080 - w*|\u00b2 / (2 \u03b7 T)")
    style_axes(axes, "loss - minimum (nats)")
    label_ends(axes)
    return figure


def gpt(found: Mapping[str, Any]) -> Figure:
    """Sharpness and the steepest way down while the GPT trains."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    title(figure, "The Hessian of the GPT always has negative eigenvalues")
    for axes, (opt, curves) in zip(figure.subplots(1, 2), found.items(), strict=True):
        axes.plot(curves["step"], curves["top"], "-o", color=COLORS[0], markersize=4, label="largest eigenvalue")
        axes.plot(curves["step"], curves["bottom"], "--s", color=COLORS[4], markersize=4, label="smallest eigenvalue")
        axes.plot(curves["step"][1:], curves["bound"][1:], ":", color=INK, label="2 / learning rate")
        axes.set_yscale("symlog", linthresh=1)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_title(opt)
        axes.set_xlabel("step")
        style_axes(axes, "curvature" if opt == "sgd" else "", ticks=4)
        axes.yaxis.set_major_formatter(compact)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def stability(found: Mapping[tuple[str, float], Any]) -> Figure:
    """Curvature over its bound, and the loss."""
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    title(figure, "The curvature rises to its bound and stays there,\nwhile the loss keeps falling")
    grid = figure.subplots(2, 2, sharex=True)
    for column, (name, (word, _, rates)) in enumerate(edge.RUNS.items()):
        for lr, color, dash in zip(rates, (COLORS[0], COLORS[4]), DASHES, strict=False):
            curves, how = found[name, lr], {"color": color, "linestyle": dash, "label": f"lr {power(lr)}"}
            factor = _factor(word)
            grid[0, column].plot(curves["step"], np.array(curves["curvature"]) * lr / factor, **how)
            grid[1, column].semilogy(curves["step"], curves["loss"], **how)
        grid[0, column].axhline(1, color=INK, linewidth=1)
        grid[0, column].set_title(f"{name}: bound {factor:g} / lr")
        grid[1, column].set_xlabel("step")
        grid[1, column].legend()
        style_axes(grid[0, column], "curvature / bound" if column == 0 else "", ticks=4)
        style_axes(grid[1, column], "loss" if column == 0 else "", ticks=4)
    return figure


def _factor(spec: str) -> float:
    """The largest stable learning rate times curvature of an optimizer."""
    return STABILITY_BOUNDS[spec].factor(optimizer_keywords(spec)[1])


def answer(kept: Kept) -> tuple[dict[str, Figure], dict[str, str]]:
    """Measures what is missing; returns the page's pictures and facts."""
    found = measure(kept)
    said = lambda way: f"{way['steps']:,} ({way['rate']:.2g})" if way["steps"] < LIMIT else f"not in {LIMIT:,}"
    rows = [[f"`{name}`", *(said(found["ways"][name, s]) for s in SURFACES)] for name in OPTIMIZERS]
    ends = {
        f"{opt}_{name}": f"{value:.3g}"
        for opt, curves in found["gpt"].items()
        for name, value in (
            ("top", max(curves["top"])),
            ("bottom", min(curves["bottom"])),
            ("late", statistics.median(curves["top"][2:])),
            ("bound", curves["bound"][-1]),
        )
    }
    late = {key: np.array(c["curvature"][-30:]) for key, c in found["edge"].items()}
    ratios = [
        f"{name} at {lr:g}: {np.median(late[name, lr]) * lr / _factor(word):.2f}"
        for name, (word, _, rates) in edge.RUNS.items()
        for lr in rates
    ]
    gap, promised = (np.array(found["convex"][key]) for key in ("gap", "bound"))
    facts = dict(
        table=page.table(["optimizer", *SURFACES], rows),
        count=str(len(GRID)),
        low=f"{GRID[0]:g}",
        high=f"{GRID[-1]:g}",
        share=f"{np.max(gap / promised):.2f}",
        looks=str(sum(len(curves["bottom"]) for curves in found["gpt"].values())),
        saddles=str(sum(value < 0 for curves in found["gpt"].values() for value in curves["bottom"])),
        **ends,
        ratios="; ".join(ratios),
        edge_steps=f"{edge.STEPS:,}",
    )
    return {
        "surfaces": surfaces(found["ways"]),
        "bound": bound(found["convex"]),
        "gpt": gpt(found["gpt"]),
        "edge": stability(found["edge"]),
    }, facts
