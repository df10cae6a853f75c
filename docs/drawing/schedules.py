"""Pictures of the course's third page: every schedule, the length of early steps, ends and middles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from docs.drawing.canvas import answers, finish, line, steps, thinned
from jaxopt_mini import SCHEDULES, adam, cosine, sgd, warmup, wsd
from jaxopt_mini.schedules import constant
from minigpt_flax.runs.style import COLORS, blend, style_axes, title

COLUMNS = 3


def every(figure: Figure, quick: bool) -> None:
    """Each row of ``SCHEDULES`` with its default arguments."""
    rows = -(-len(SCHEDULES) // COLUMNS)
    figure.set_size_inches(6.5, 1.25 * rows)
    panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True).ravel()
    length = steps(1000, quick)
    for axes, (name, make) in zip(panels, SCHEDULES.items(), strict=False):
        rates = jax.vmap(make(1.0, length))(jnp.arange(length + 1))
        axes.plot(*thinned(np.arange(length + 1), np.asarray(rates)), color=COLORS[0])
        axes.set_title(name, family="monospace")
        style_axes(axes, "")
        axes.set(xticks=[0, length], yticks=[0, 1], ylim=(-0.05, 1.1))
    for axes in panels[len(SCHEDULES) :]:
        axes.remove()


def early(figure: Figure, quick: bool) -> None:
    """The length of Adam's first steps on gradients that are nothing but noise, with warm-up and without."""
    figure.set_size_inches(6.5, 3.5)
    title(figure, "Without warm-up, Adam's first steps are the largest")
    axes = figure.subplots()
    length = steps(200, quick)
    noise = np.random.default_rng(0).normal(size=(length, 2000)).astype(np.float32)
    plain = constant(1.0, length)
    for i, (name, rate) in enumerate({"no warm-up": plain, "warm-up of 50": warmup(plain, 50)}.items()):
        moved = answers(adam(rate), noise, jnp.zeros(2000))
        line(axes, i, np.arange(1, length + 1), np.sqrt((moved**2).mean(axis=1)))
        axes.text((0.06, 0.19)[i] * length, (0.6, 0.08)[i], name, color=blend(str(axes.lines[i].get_color())))
    axes.set_ylim(0, 1.05)
    finish(axes, "gradients of pure noise", "step", "step size / learning rate")


def ends(figure: Figure, quick: bool) -> None:
    """The mean loss of many noisy walks down a parabola under four schedules: who leads changes at the end."""
    figure.set_size_inches(6.5, 3.7)
    title(figure, "Schedules with decay lead only at the end")
    axes = figure.subplots()
    length = steps(1000, quick)
    schedules = {
        "constant 0.3": constant(0.3, length),
        "constant 0.03": constant(0.03, length),
        "cosine 0.3": cosine(0.3, length),
        "wsd 0.3": wsd(0.3, length, cooldown=0.2),
    }
    for i, (name, schedule) in enumerate(schedules.items()):
        losses = _noisy_losses(sgd(schedule), length)
        line(axes, i, np.arange(1, length + 1), losses, name)
    axes.set_yscale("log")
    finish(axes, "SGD on a noisy parabola, mean of 2,000 runs", "step", "loss", ends=True)


def _noisy_losses(tx, length: int, walks: int = 2000) -> np.ndarray:
    """Mean over ``walks`` of the loss |w|^2 / 2 after each step; gradients carry noise of unit size."""
    place = jnp.full((walks,), 3.0)

    def step(carry, key):
        place, state = carry
        updates, state = tx.update(place + jax.random.normal(key, place.shape), state, place)
        place = place + updates
        return (place, state), jnp.mean(place**2) / 2

    keys = jax.random.split(jax.random.key(0), length)
    return np.asarray(jax.lax.scan(step, (place, tx.init(place)), keys)[1])
