"""Coordinate check: how the activations of a model grow with its width or depth in the first steps of training.

Yang et al., "Tensor Programs V" (2022, arXiv 2203.03466), appendix D: if hyperparameters transfer, no activation grows
or shrinks with the width, before and after a few steps. One that does names the rule that is missing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

from minigpt_flax.diagnose.result import Report, StudyResult
from minigpt_flax.errors import UserError
from minigpt_flax.model.activations import activations
from minigpt_flax.runs.style import COLORS, DASHES, MARKERS, style_axes
from minigpt_flax.train.build import Setup, loss_sum, make_setup
from minigpt_flax.train.config.run_config import STANDARD, RunConfig, changed
from minigpt_flax.train.config.sizes import at_width
from minigpt_flax.train.dataset import Dataset
from minigpt_flax.train.state import TrainState, init_state
from minigpt_flax.train.step import make_step

PARTS = {  # measured part -> what a growth with the size means
    "embedding": "the embedding's learning rate or eps",
    "attention": "the learning rate of hidden matrices",
    "mlp": "the learning rate of hidden matrices",
    "stream": "the scale of the branches or the learning rate of hidden matrices",
    "logits": "the factor of the logits, or the learning rate of the head",
}
TOLERANCE = {"width": 0.2, "depth": 0.3}  # of a slope
TICKS = 3  # of the activations


class Slope(NamedTuple):
    """The slope of one part: that of the step whose slope is the largest.

    Attributes:
      value: d log(activation) / d log(size), the mean over seeds.
      error: standard error: over the seeds, or of the fit to each seed's activations, whichever is larger; 0 with one
        seed and two sizes, which show neither.
      step: the step, from 1.
    """

    value: float
    error: float
    step: int

    def is_within(self, limit: float) -> bool | None:
        """Whether it is within a limit; None if the standard error doesn't decide."""
        margin = limit - abs(self.value)
        return None if abs(margin) < self.error else margin >= 0


def sizes_of(config: RunConfig, axis: str, sizes: Sequence[int]) -> list[RunConfig]:
    """The configuration at every size; the base of a parametrization is the smallest.

    Raises:
      UserError: a size is impossible.
    """
    runs = []
    for size in sizes:
        own = at_width(config, "--widths", sizes[0], size) if axis == "width" else {"layers": size}
        if config.parametrization.name != STANDARD:
            first = {"width": sizes[0]} if axis == "width" else {"layers": sizes[0]}
            base = {"width": config.width, "layers": config.layers, **first}
            own |= {"base_width": base["width"], "base_layers": base["layers"], "base_heads": None}
        runs.append(changed(config, **own))
    return runs


def measure(config: RunConfig, data: Dataset, seed: int) -> dict[str, np.ndarray]:
    """The mean absolute activation of every part, before the first step and after each: float[steps + 1].

    That of the logits is their change: the initial ones shrink with the width in every parametrization that transfers.

    Raises:
      UserError: a spec or a number is wrong, or an activation is not finite.
    """
    setup = make_setup(dataclasses.replace(config, seed=seed), data.tokenizer)
    batches = data.batches(config.phases.largest.batch_size, config.phases.window, 0)
    stack = np.stack([np.asarray(batches(t), np.int32) for t in range(config.steps)])
    found = jax.device_get(jax.jit(functools.partial(_train, setup))(jax.random.key(seed), stack))
    if not all(np.isfinite(values).all() for values in found.values()):
        raise UserError(f"training diverged with --width {config.width} and --layers {config.layers}: lower --lr")
    return found


def _train(setup: Setup, key: Array, batches: Array) -> dict[str, Array]:
    tokens, losses = batches[0, :, :-1], loss_sum(setup.model)
    state = init_state(setup.draw(key), setup.tx)
    first = activations(setup.model, state.params, tokens)["logits"]
    update = make_step(losses, setup.tx, setup.schedule, key=key, layout=setup.layout, observed=False)

    def sizes(params: Any) -> dict[str, Array]:
        parts = activations(setup.model, params, tokens)
        return {name: jnp.mean(jnp.abs(x - first if name == "logits" else x)) for name, x in parts.items()}

    def step(state: TrainState, batch: Array) -> tuple[TrainState, dict[str, Array]]:
        state, _ = update(state, batch)
        return state, sizes(state.params)

    _, later = jax.lax.scan(step, state, batches)
    return jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), sizes(state.params), later)


def slopes(sizes: Sequence[int], found: Mapping[str, np.ndarray]) -> dict[str, Slope]:
    """The slope of every part, at the step after the first where it is the largest.

    Args:
      sizes: widths or depths.
      found: part -> activations, float[sizes, seeds, steps + 1].
    """
    at = np.log(np.asarray(sizes, float))
    at -= at.mean()

    def one(values: np.ndarray) -> Slope:
        moved = np.flatnonzero((values[..., 1:] > 0).all((0, 1))) + 1
        moved = moved if len(moved) else np.array([1])
        logs = np.log(np.maximum(values[..., moved], np.finfo(np.float32).tiny))
        each = np.tensordot(at, logs, 1) / (at @ at)  # [seeds, steps]
        index = int(np.argmax(np.abs(each.mean(0))))
        error = _standard_error(at, logs[..., index], each[:, index])
        return Slope(float(each[:, index].mean()), error, int(moved[index]))

    return {name: one(values) for name, values in found.items()}


def _standard_error(at: np.ndarray, logs: np.ndarray, found: np.ndarray) -> float:
    """Standard error of the mean slope: over the seeds, or of the fit, whichever is larger.

    Args:
      at: centered logarithms of the sizes, [sizes].
      logs: logarithms of the activations, [sizes, seeds].
      found: slope of each seed, [seeds].
    """
    sizes, seeds = logs.shape
    over_seeds = found.std(ddof=1) / seeds**0.5 if seeds > 1 else 0.0
    if sizes == 2:
        return float(over_seeds)
    residuals = logs - logs.mean(0) - np.outer(at, found)
    variance = np.square(residuals).sum() / (seeds * (sizes - 2))
    return float(max(over_seeds, (variance / (seeds * at @ at)) ** 0.5))


def study(
    config: RunConfig,
    data: Dataset,
    axis: str,
    sizes: Sequence[int],
    *,
    seeds: int,
    tolerance: float | None,
    report: Report,
) -> StudyResult:
    """Trains a few steps at every size and compares the activations.

    Args:
      config: configuration at the first size; ``config.steps`` steps.
      data: the data, the same for all.
      axis: "width" or "depth".
      sizes: widths or numbers of layers, in ascending order.
      seeds: number of initial weights to average over.
      tolerance: largest slope that passes; None takes that of ``TOLERANCE``.
      report: called after every run.

    Returns:
      The result; ``numbers["passed"]`` tells whether every slope is within the tolerance. It is None if no slope is
      beyond it, but one is too close to decide, given its standard error.

    Raises:
      UserError: a size is impossible, or a run diverges.
    """
    limit = TOLERANCE[axis] if tolerance is None else tolerance
    rows: dict[str, list[list[np.ndarray]]] = {name: [] for name in PARTS}
    for i, run in enumerate(sizes_of(config, axis, sizes)):
        found = []
        for seed in range(seeds):
            found.append(measure(run, data, seed))
            report(f"{axis}s", i * seeds + seed + 1, len(sizes) * seeds)
        for name in PARTS:
            rows[name].append([one[name] for one in found])
    arrays = {name: np.asarray(row) for name, row in rows.items()}
    fitted = slopes(sizes, arrays)
    numbers: dict[str, Any] = {
        "axis": axis,
        "sizes": list(sizes),
        "optimizer": str(config.opt),
        "parametrization": str(config.parametrization),
        "lr": config.lr,
        "steps": config.steps,
        "seeds": seeds,
        "tolerance": limit,
        "passed": _passed([slope.is_within(limit) for slope in fitted.values()]),
        "slopes": {name: slope._asdict() for name, slope in fitted.items()},
        "activations": {name: values.mean(1).T.tolist() for name, values in arrays.items()},
    }
    return StudyResult(_sentences(numbers), numbers, lambda figure: _draw(figure, numbers))


def _passed(within: Sequence[bool | None]) -> bool | None:
    """False if one is False, else None if one is None."""
    return False if False in within else None if None in within else True


def _sentences(numbers: Mapping[str, Any]) -> list[str]:
    axis, limit = numbers["axis"], numbers["tolerance"]
    texts = [_sentence(name, Slope(**slope), axis, limit) for name, slope in numbers["slopes"].items()]
    if numbers["passed"]:
        alike = f"activations change alike at every {axis}, which transfer requires"
        return [*texts, f"Every slope is within {limit:g}: {alike}."]
    if numbers["passed"] is None:
        return [*texts, f"Not decided: a slope is within its standard error of {limit:g}; give more --seeds."]
    how = "" if numbers["parametrization"] != STANDARD else "; --parametrization mup or completep has these rules"
    return [*texts, f"A slope is beyond {limit:g}: hyperparameters are not expected to transfer over the {axis}{how}."]


def _sentence(name: str, slope: Slope, axis: str, limit: float) -> str:
    """What one part does."""
    error = f" (standard error {slope.error:.2f})" if slope.error else ""
    value, within = f"slope {slope.value:+.2f}{error} at step {slope.step}", slope.is_within(limit)
    if within:
        return f"{name}: does not change with the {axis}, {value}."
    verb = "grows" if slope.value > 0 else "shrinks"
    if within is None:
        return f"{name}: may {verb.removesuffix('s')} with the {axis}, {value}."
    return f"{name}: {verb} with the {axis}, {value}; check {PARTS[name]}."


def _draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    """A panel for each part: activation over size, a line for each of a few steps."""
    figure.suptitle(f"{numbers['optimizer']}, {numbers['parametrization']}")
    steps = sorted({0, 1, numbers["steps"] // 2, numbers["steps"]})
    panels = figure.subplots(1, len(PARTS), squeeze=False)[0]
    for axes, (name, rows) in zip(panels, numbers["activations"].items(), strict=True):
        style_axes(axes, "mean absolute activation" if axes is panels[0] else "")
        for i, step in enumerate(steps):
            if any(rows[step]):
                style = {"color": COLORS[i], "linestyle": DASHES[i], "marker": MARKERS[i]}
                axes.plot(numbers["sizes"], rows[step], label=f"step {step}", **style)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(numbers["sizes"], labels=map(str, numbers["sizes"]))
        shown = [value for step in steps for value in rows[step] if value > 0]
        ticks = np.geomspace(min(shown), max(shown), TICKS) if shown else []  # a short axis has no power of ten
        axes.set_yticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_title(f"{name} {numbers['slopes'][name]['value']:+.2f}")
        axes.set_xlabel(numbers["axis"])
    figure.axes[0].legend()
