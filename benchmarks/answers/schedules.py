"""How the schedule changes the final result: all of them, at the same budget, each at the best of two rates."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks.answers import page
from benchmarks.answers.small import Kept, batches, config, final_loss
from jaxopt_mini import SCHEDULES
from minigpt_flax.compare.paired_tests import sem
from minigpt_flax.compare.traced_run import TracedRun, rate_tables, trace_run
from minigpt_flax.runs.style import COLORS, MUTED, style_axis, title
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import RunConfig


class Size(NamedTuple):
    """Of a run."""

    steps: int
    batch_size: int


LONG, SHORT = Size(3000, 4), Size(800, 12)  # noisy, and long enough that settling pays; and the opposite
RATES, SEEDS = (3e-3, 1e-2), (0, 1, 2, 3)
IN_SHORT = ("constant", "warmup_constant", "warmup_cosine", "wsd")
WARMED = {"cosine": "warmup_cosine", "linear": "warmup_linear", "constant": "warmup_constant"}
Losses = Mapping[tuple[str, float, int], float | None]
Ranked = dict[str, tuple[float, list[float]]]


def smaller(size: Size, **more: Any) -> RunConfig:
    """A run of a GPT that is smaller still."""
    return config(**size._asdict(), width=32, **more)


@functools.cache
def parts(size: Size) -> tuple[TracedRun, Callable[..., Any]]:
    """Its traced run, and a function that does all steps of one run in a single program."""
    made = trace_run(build(smaller(size)), size.steps)

    def train(knobs: Any, data: jax.Array) -> Any:
        return jax.lax.scan(lambda state, batch: (made.step(knobs, state, batch)[0], None), made.init(knobs), data)[0]

    return made, jax.jit(train)


def final(size: Size, schedule: str, rate: float, seed: int) -> float | None:
    """Validation loss at the end of a run."""
    made, train = parts(size)
    one = made.single(dataclasses.replace(smaller(size, schedule=schedule, lr=rate), seed=seed))
    return final_loss(one, train(made.knobs(one.config), batches(one, size.steps)))


def losses(kept: Kept, size: Size, schedules: Iterable[str]) -> Losses:
    """The loss of every run, by its words."""
    names = [(schedule, rate, seed) for schedule in schedules for rate in RATES for seed in SEEDS]
    return {
        name: kept.get(" ".join(map(str, (size.steps, *name))), functools.partial(final, size, *name)) for name in names
    }


def shapes(kept: Kept) -> dict[str, list[float]]:
    """The rate of every step of the long run, by schedule."""
    layout = parts(LONG)[0].run.layout
    table = lambda name: rate_tables(smaller(LONG, schedule=name), layout, LONG.steps)[0].tolist()
    return {name: kept.get(f"rates {name}", functools.partial(table, name)) for name in SCHEDULES}


def best(losses: Losses) -> dict[str, tuple[float, list[float]]]:
    """Schedule -> its best rate and the losses at it, the best schedule first; a rate at which one broke is out."""
    found = {}
    for schedule in dict.fromkeys(schedule for schedule, _, _ in losses):
        curves = {rate: [losses[schedule, rate, seed] for seed in SEEDS] for rate in RATES}
        whole = {rate: values for rate, values in curves.items() if None not in values}
        rate = min(whole, key=lambda rate: statistics.fmean(whole[rate]))
        found[schedule] = (rate, whole[rate])
    return dict(sorted(found.items(), key=lambda item: statistics.fmean(item[1][1])))


def pictures(shapes: Mapping[str, list[float]], ranked: Ranked) -> dict[str, Figure]:
    """The learning rates over the run, and the final losses."""
    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    means = [statistics.fmean(values) for _, values in ranked.values()]
    title(figure, f"{next(iter(ranked))} ends {means[-1] - means[0]:.2f} nats below {list(ranked)[-1]}")
    grid = figure.add_gridspec(len(ranked), 2, width_ratios=(1, 4), hspace=0.05)
    finals = figure.add_subplot(grid[:, 1])
    for i, (name, (_, values)) in enumerate(ranked.items()):
        finals.plot(values, [i] * len(values), ".", color=MUTED)
        finals.plot([statistics.fmean(values)], [i], "D", color=COLORS[0])
        shape = figure.add_subplot(grid[i, 0])
        shape.plot(np.array(shapes[name][:: max(1, len(shapes[name]) // 100)]), color=COLORS[0], linewidth=1.2)
        shape.set_axis_off()
    finals.set_yticks(range(len(ranked)), list(ranked))
    finals.set_xlabel("final validation loss (nats/character)")
    finals.set_title("mean (diamond) and each seed")
    finals.grid(True)
    finals.set_ylim(len(ranked) - 0.5, -0.5)
    style_axis(finals.xaxis)
    return {"final": figure}


def answer(kept: Kept) -> tuple[dict[str, Figure], dict[str, str]]:
    """Measures what is missing; returns the page's pictures and facts."""
    ranked, short = best(losses(kept, LONG, SCHEDULES)), best(losses(kept, SHORT, IN_SHORT))
    of = lambda name: ranked[name][1]
    first, last = next(iter(ranked)), list(ranked)[-1]
    facts = dict(
        first=first,
        last=last,
        constant=behind(of("constant"), of(first)),
        spread=behind(of(last), of(first)),
        table=table(ranked),
        short=table(short),
        warmed="\n".join(
            f"- `{warm}` ends {behind(of(cold), of(warm))} below `{cold}`" for cold, warm in WARMED.items()
        ),
        rates=", ".join(f"{rate:g}" for rate in RATES),
        seeds=str(len(SEEDS)),
        steps=f"{LONG.steps:,}",
        tokens=str(smaller(LONG).step_tokens),
        short_steps=str(SHORT.steps),
        short_tokens=str(smaller(SHORT).step_tokens),
    )
    return pictures(shapes(kept), ranked), facts


def table(ranked: Ranked) -> str:
    """The schedules, the best first."""
    first = next(iter(ranked.values()))[1]
    rows = [
        [f"`{name}`", f"{rate:g}", f"{statistics.fmean(values):.3f}", f"{sem(values):.3f}", behind(values, first)]
        for name, (rate, values) in ranked.items()
    ]
    rows[0][-1] = ""
    return page.table(["schedule", "best peak", "loss", "+- error", "behind the first"], rows)


def behind(values: Sequence[float], others: Sequence[float]) -> str:
    """The mean difference, seed by seed, and its standard error."""
    differences = [a - b for a, b in zip(values, others, strict=True)]
    return f"{statistics.fmean(differences):.3f} +- {sem(differences):.3f}"
