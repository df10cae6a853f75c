"""How the schedule changes the final result: all of them, at the same budget, each at its best rate."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks.answers import page
from benchmarks.answers.judged import (
    HEAD,
    SEARCH_SEEDS,
    SEEDS,
    against,
    best_rate,
    columns,
    difference,
    mean,
    p_text,
)
from benchmarks.answers.small import Kept, batches, config, final_loss
from jaxopt_mini import SCHEDULES
from minigpt_flax.compare.paired_tests import PairedTest, holm
from minigpt_flax.compare.traced_run import TracedRun, schedule_tables, trace_run
from minigpt_flax.runs.style import COLORS, MUTED, style_axis, title
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import RunConfig


class Size(NamedTuple):
    """Of a run."""

    steps: int
    batch_size: int


LONG, SHORT = Size(3000, 4), Size(800, 12)  # noisy, and long enough that settling pays; and the opposite
RATES = (1e-3, 3e-3, 1e-2)
BASELINE = "warmup_cosine"  # the default of ``train.py``
IN_SHORT = ("constant", "warmup_constant", "warmup_cosine", "wsd")
WARMED = {"cosine": "warmup_cosine", "linear": "warmup_linear", "constant": "warmup_constant"}


class Result(NamedTuple):
    """Of a schedule.

    Attributes:
      rate: peak learning rate that the search chose.
      inner: whether the rates on both sides of it were tried.
      losses: at that rate, by seed; None for a run that broke.
    """

    rate: float
    inner: bool
    losses: list[float | None]


Ranked = dict[str, Result]


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


def shapes(kept: Kept) -> dict[str, list[float]]:
    """The rate of every step of the long run, by schedule."""
    table = lambda name: schedule_tables(smaller(LONG, schedule=name), LONG.steps)[0].tolist()
    return {name: kept.get(f"rates {name}", functools.partial(table, name)) for name in SCHEDULES}


def ranked(kept: Kept, size: Size, schedules: Iterable[str]) -> Ranked:
    """The schedules at their best rates, the lowest mean loss first."""

    def runs(schedule: str, rate: float, seeds: Sequence[int]) -> list[float | None]:
        name = lambda seed: f"{size.steps} {schedule} {rate:g} {seed}"
        return [kept.get(name(seed), functools.partial(final, size, schedule, rate, seed)) for seed in seeds]

    found = {}
    for schedule in schedules:
        rate, inner = best_rate(RATES, lambda rate, schedule=schedule: mean(runs(schedule, rate, SEARCH_SEEDS)))
        found[schedule] = Result(rate, inner, runs(schedule, rate, SEEDS))
    return dict(sorted(found.items(), key=lambda item: mean(item[1].losses)))


def pictures(shapes: Mapping[str, list[float]], ranked: Ranked) -> dict[str, Figure]:
    """The learning rates over the run, and the final losses."""
    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    means = [mean(result.losses) for result in ranked.values()]
    title(figure, f"{next(iter(ranked))} ends {means[-1] - means[0]:.2f} nats below {list(ranked)[-1]}")
    grid = figure.add_gridspec(len(ranked), 2, width_ratios=(1, 4), hspace=0.05)
    finals = figure.add_subplot(grid[:, 1])
    for i, (name, result) in enumerate(ranked.items()):
        values = [loss for loss in result.losses if loss is not None]
        finals.plot(values, [i] * len(values), ".", color=MUTED)
        finals.plot([mean(values)], [i], "D", color=COLORS[0])
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
    long, short = ranked(kept, LONG, SCHEDULES), ranked(kept, SHORT, IN_SHORT)
    tests = tested(long)
    first, last = next(iter(long)), list(long)[-1]
    pairs = {
        warm: against(cold, {name: long[name].losses for name in (cold, warm)})[warm] for cold, warm in WARMED.items()
    }
    warmed = dict(zip(pairs, holm(list(pairs.values())), strict=True))
    facts = dict(
        first=first,
        last=last,
        baseline=BASELINE,
        spread=f"{mean(long[last].losses) - mean(long[first].losses):.2f}",
        worse=str(sum(test.significant and test.better == BASELINE for test in tests.values())),
        better=are_better([name for name, test in tests.items() if test.significant and test.better == name]),
        tests=str(len(tests)),
        table=table(long),
        short=table(short),
        warmed="\n".join(warm_up_line(cold, warm, warmed[warm]) for cold, warm in WARMED.items()),
        rates=", ".join(f"{rate:g}" for rate in RATES),
        search_seeds=str(len(SEARCH_SEEDS)),
        seeds=str(len(SEEDS)),
        steps=f"{LONG.steps:,}",
        tokens=str(smaller(LONG).step_tokens),
        short_steps=str(SHORT.steps),
        short_tokens=str(smaller(SHORT).step_tokens),
    )
    return pictures(shapes(kept), long), facts


def tested(ranked: Ranked) -> dict[str, PairedTest]:
    """Every schedule but the baseline against it."""
    return against(BASELINE, {name: result.losses for name, result in ranked.items()})


def are_better(names: Sequence[str]) -> str:
    """A sentence with the schedules that are better than the baseline."""
    if not names:
        return "none is better"
    return f"{' and '.join(f'`{name}`' for name in names)} {'is' if len(names) == 1 else 'are'} better"


def warm_up_line(cold: str, warm: str, test: PairedTest) -> str:
    """What a warm-up adds to a schedule."""
    gap, interval = difference(warm, test)
    return f"- `{warm}` minus `{cold}`: {gap} (95 %: {interval}), p = {p_text(test)}"


def table(ranked: Ranked) -> str:
    """The schedules, the best first."""
    tests = tested(ranked)
    rows = [
        [
            f"`{name}`",
            f"{result.rate:g}{'' if result.inner else '*'}",
            f"{mean(result.losses):.3f}",
            *columns(name, tests.get(name)),
        ]
        for name, result in ranked.items()
    ]
    return page.table(["schedule", "peak", "loss", *HEAD], rows)
