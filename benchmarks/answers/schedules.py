"""How the schedule changes the final result: all of them, at the same budget, each at the best of three rates."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks.answers import page
from benchmarks.answers.small import Kept, batches, config, final_loss
from jaxopt_mini import SCHEDULES
from minigpt_flax.lab.plots import COLOURS, DASHES, dress
from minigpt_flax.lab.program import Program, program, rate_tables
from minigpt_flax.lab.verdict import sem
from minigpt_flax.train.build import build

# Noisy, and long enough that settling pays: in 800 steps of 12 sequences a constant rate was ahead.
SIZES = {"width": 32, "batch_size": 4}
STEPS, RATES, SEEDS = 3000, (3e-3, 1e-2), (0, 1)
SHOWN = ("constant", "step", "cosine", "one_cycle", "inverse_sqrt", "wsd", "warmup_linear")  # in the picture of rates


@functools.cache
def parts() -> tuple[Program, Callable[..., Any]]:
    """The small GPT's program, and all steps of a run of it in one."""
    made = program(build(config(STEPS, **SIZES)), STEPS)

    def train(knobs: Any, data: jax.Array) -> Any:
        return jax.lax.scan(lambda state, batch: (made.step(knobs, state, batch)[0], None), made.init(knobs), data)[0]

    return made, jax.jit(train)


def final(schedule: str, rate: float, seed: int) -> float | None:
    """Validation loss at the end of a run."""
    made, train = parts()
    one = made.single(dataclasses.replace(config(STEPS, schedule=schedule, lr=rate, **SIZES), seed=seed))
    return final_loss(one, train(made.knobs(one.config), batches(one, STEPS)))


def measure(kept: Kept) -> dict[str, Any]:
    """Losses of every run, by its words; the rates of every schedule."""
    names = [(schedule, rate, seed) for schedule in SCHEDULES for rate in RATES for seed in SEEDS]
    found = {name: kept.get(" ".join(map(str, name)), functools.partial(final, *name)) for name in names}
    layout = parts()[0].run.layout
    shapes = {
        name: kept.get(
            f"rates {name}",
            lambda name=name: rate_tables(config(STEPS, schedule=name, **SIZES), layout, STEPS)[0].tolist(),
        )
        for name in SCHEDULES
    }
    return {"losses": found, "rates": shapes}


def best(losses: Mapping[tuple[str, float, int], float | None]) -> dict[str, tuple[float, list[float]]]:
    """Schedule -> its best rate and the losses at it, the best schedule first; a rate at which one broke is out."""
    found = {}
    for schedule in SCHEDULES:
        curves = {rate: [losses[schedule, rate, seed] for seed in SEEDS] for rate in RATES}
        whole = {rate: values for rate, values in curves.items() if None not in values}
        rate = min(whole, key=lambda rate: statistics.fmean(whole[rate]))
        found[schedule] = (rate, whole[rate])
    return dict(sorted(found.items(), key=lambda item: statistics.fmean(item[1][1])))


def pictures(found: Mapping[str, Any]) -> dict[str, Figure]:
    """The rates over the run, and the final losses."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    rates, finals = figure.subplots(1, 2, width_ratios=(1, 1.2))
    for i, name in enumerate(SHOWN):
        how = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
        rates.plot(np.array(found["rates"][name]) / max(found["rates"][name]), label=name, **how)
    rates.set_xlabel("step")
    rates.legend(frameon=False, fontsize=8)
    dress(rates, "rate / peak")
    ranked = best(found["losses"])
    for i, (_, values) in enumerate(reversed(ranked.values())):
        finals.plot(values, [i] * len(values), ".", color="0.6")
        finals.plot([statistics.fmean(values)], [i], "D", color=COLOURS[0])
    finals.set_yticks(range(len(ranked)), list(reversed(ranked)))
    finals.set_xlabel("final validation loss (nats/token): mean, and each seed")
    dress(finals, "")
    return {"final": figure}


def answer(kept: Kept) -> tuple[dict[str, Figure], dict[str, str]]:
    """Measures what is missing; returns the page's pictures and facts."""
    found = measure(kept)
    ranked = best(found["losses"])
    rows = [
        [f"`{name}`", f"{rate:g}", f"{statistics.fmean(values):.4f}", f"{sem(values):.4f}", _against(values, ranked)]
        for name, (rate, values) in ranked.items()
    ]
    first, last = next(iter(ranked)), list(ranked)[-1]
    spread = statistics.fmean(ranked[last][1]) - statistics.fmean(ranked[first][1])
    constant = statistics.fmean(ranked["constant"][1]) - statistics.fmean(ranked[first][1])
    facts = dict(
        first=first,
        last=last,
        constant=f"{constant:.2f}",
        spread=f"{spread:.2f}",
        table=page.table(["schedule", "best peak", "loss", "+- error", "behind the first"], rows),
        rates=", ".join(f"{rate:g}" for rate in RATES),
        seeds=str(len(SEEDS)),
        steps=f"{STEPS:,}",
        tokens=str(config(STEPS, **SIZES).step_tokens),
    )
    return pictures(found), facts


def _against(values: list[float], ranked: Mapping[str, tuple[float, list[float]]]) -> str:
    """The mean difference to the first, seed by seed, and its standard error."""
    first = next(iter(ranked.values()))[1]
    differences = [a - b for a, b in zip(values, first, strict=True)]
    return f"{statistics.fmean(differences):.4f} +- {sem(differences):.4f}"
