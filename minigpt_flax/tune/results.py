"""The results of a tuning: best setting, sensitivity, judgment, and a receipt of all trials. Imports no JAX itself."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt_flax.console.output import finite
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs import files
from minigpt_flax.runs.records import read_run
from minigpt_flax.text import aligned
from minigpt_flax.tune.tuning import Number, Tuning, Values

SCHEMA = "minigpt-tuning/1"  # names the fields of results.json; see docs/guides/tune.md
JUDGE = "judge"  # stage of the runs with other seeds
TRIALS_CSV, RESULTS_JSON, FIGURE = "trials.csv", "results.json", "sensitivity"
PICTURES = ("png", "svg")
RESULTS = frozenset({TRIALS_CSV, RESULTS_JSON, *(f"{FIGURE}.{form}" for form in PICTURES)})

Side = (
    tuple[Number, float | None] | None
)  # the value of a neighbor and its loss, if it was trained; None beyond the end


@dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
      stage: of the search, or ``judge``.
      values: by keyword; None is the optimizer's own.
      steps: of the run.
      seed: of the run.
      loss: final validation loss, nats per token; infinite if the run diverged.
      run: name of its folder.
    """

    stage: str
    values: Values
    steps: int
    seed: int
    loss: float
    run: str

    @classmethod
    def read(cls, stage: str, values: Values, path: Path) -> Trial:
        """Reads a finished run."""
        record = read_run(path)
        done = record.final["val_loss"] if record.state == "finished" and record.final else math.inf
        return cls(stage, values, record.config["steps"], record.config["seed"], done, path.name)


@dataclass(frozen=True)
class TuningResult:
    """The result of a tuning; ``print`` shows it.

    Attributes:
      tuning: what was searched.
      folder: of the tuning, with tables, figure and all runs.
      best: value of each keyword.
      loss: final validation loss of full runs with these values, mean over the search's seeds. As the lowest of many,
        it is biased downward.
      sides: keyword -> the next lower and next higher value, with their losses.
      judged: final losses on other seeds: of the ``best`` setting, and of the ``start``, the optimizer's own values.
      trials: every run, in the order of training.
    """

    tuning: Tuning
    folder: Path
    best: Mapping[str, Number]
    loss: float
    sides: Mapping[str, Sequence[Side]]
    judged: Mapping[str, Sequence[float]]
    trials: Sequence[Trial]

    @property
    def command(self) -> str:
        """The command that trains with the best setting."""
        return self.tuning.command(self.best)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per run, with ``stage``, ``steps``, ``seed``, the keywords, ``loss`` and ``run``."""
        return [
            {"stage": t.stage, "steps": t.steps, "seed": t.seed, **t.values, "loss": t.loss, "run": t.run}
            for t in self.trials
        ]

    @property
    def spent(self) -> int:
        """Steps of the search."""
        return sum(trial.steps for trial in self.trials if trial.stage != JUDGE)

    @property
    def share(self) -> float:
        """These steps as a share of an exhaustive search."""
        plan = self.tuning.plan
        return self.spent / (plan.grid * plan.steps * len(self.tuning.seeds))

    def __str__(self) -> str:
        """Best setting, sensitivity and command."""
        return text(self)


def text(result: TuningResult) -> str:
    """The result for a terminal."""
    best = ", ".join(f"{name} {value:g}" for name, value in result.best.items())
    tried = len({tuple(trial.values.items()) for trial in result.trials if trial.stage != JUDGE})
    first = f"best of {tried} settings: {best}; loss {result.loss:.4f} nats per token, lowest of the search"
    cost = f"search: {result.spent:,} steps, {100 * result.share:.0f} % of an exhaustive search"
    ends = [*at_ends(result), *transferred(result)]
    return "\n".join([first, cost, *judgment(result), "", *sensitivity(result), *ends, "", result.command])


def transferred(result: TuningResult) -> list[str]:
    """How the result of a proxy carries over to the model."""
    tuning = result.tuning
    if tuning.proxy_width is None:
        return []
    how = f"{tuning.transfer['parametrization']} with --base-width {tuning.proxy_width}"
    return [f"width: all runs had width {tuning.proxy_width}; {how} carries the setting over to width {tuning.width}"]


def judgment(result: TuningResult) -> list[str]:
    """The losses on other seeds."""
    if not result.judged:
        return ["not judged: the lowest of several losses is biased downward; --judging-seeds 2 trains other seeds"]
    best, start = (list(result.judged[what]) for what in ("best", "start"))
    own = ", ".join(f"{n} {'default' if v is None else format(v, 'g')}" for n, v in result.tuning.start.items())
    gains = [b - a for a, b in zip(best, start, strict=True)]
    seeds = ", ".join(map(str, result.tuning.judged))
    each = f" ({', '.join(f'{gain:+.4f}' for gain in gains)})" if len(gains) > 1 else ""
    means = [statistics.fmean(losses) for losses in (best, start)]
    return [
        f"judged with seed{'s' * (len(best) > 1)} {seeds}: {means[0]:.4f}; start ({own}): {means[1]:.4f}; "
        f"gain {statistics.fmean(gains):+.4f}{each}"
    ]


def sensitivity(result: TuningResult) -> list[str]:
    """A table: what the next lower and the next higher value of each keyword cost."""
    rows = [("keyword", "lower", "loss", "best", "higher", "loss")]
    for name, pair in result.sides.items():
        (low, less), (high, more) = (_cells(side, result.loss) for side in pair)
        rows.append((name, low, less, f"{result.best[name]:g}", high, more))
    return aligned(rows)


def _cells(side: Side, best: float) -> tuple[str, str]:
    if side is None:
        return "-", "-"
    value, loss = side
    return f"{value:g}", "not run" if loss is None else "diverged" if math.isinf(loss) else f"{loss - best:+.4f}"


def at_ends(result: TuningResult) -> list[str]:
    """Lines about the keywords whose best value has no trained neighbor on one side."""
    ends = [
        f"{name}: the best value, {result.best[name]:g}, is the {which} of its values: give further ones"
        for name, pair in result.sides.items()
        for side, which in zip(pair, ("lowest", "highest"), strict=True)
        if side is None
    ]
    left = any(side is not None and side[1] is None for pair in result.sides.values() for side in pair)
    return ends + ["not run: the budget was used up; a larger --budget, with another --name, has more runs"] * left


def as_values(result: TuningResult) -> dict[str, Any]:
    """The result as JSON values."""
    tuning = result.tuning
    return {
        "schema": SCHEMA,
        "best": dict(result.best),
        "loss": result.loss,
        "command": result.command,
        "sensitivity": [
            {"keyword": name, "side": which, "value": side[0], "loss": side[1]}
            for name, pair in result.sides.items()
            for which, side in zip(("lower", "higher"), pair, strict=True)
            if side is not None
        ],
        "judged": {"seeds": list(tuning.judged), **{what: list(losses) for what, losses in result.judged.items()}},
        "start": tuning.start,
        "proxy_width": tuning.proxy_width,
        "keywords": [{"name": a.name, "scale": a.scale, "values": list(a.values)} for a in tuning.axes],
        "steps": {"search": result.spent, "exhaustive": tuning.plan.grid * tuning.steps * len(tuning.seeds)},
        "trials": result.rows,
    }


def as_csv(result: TuningResult) -> str:
    """The trials as CSV; a diverged run has no loss."""
    out = io.StringIO()
    names = ["stage", "steps", "seed", *result.best, "loss", "run"]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in result.rows:
        writer.writerow({**row, "loss": row["loss"] if math.isfinite(row["loss"]) else ""})
    return out.getvalue()


def write_results(result: TuningResult) -> list[str]:
    """Writes tables and figure into the folder of the tuning; returns the names of the files.

    Raises:
      UserError: the folder can't be written.
    """
    folder = result.folder
    try:
        files.replace(folder / RESULTS_JSON, json.dumps(finite(as_values(result)), indent=2, allow_nan=False) + "\n")
        files.replace(folder / TRIALS_CSV, as_csv(result))
    except OSError as error:
        raise UserError(f"can't write into {show(folder)}: {error.strerror}") from error
    from minigpt_flax.tune.figures import save_figure  # takes half a second

    return [TRIALS_CSV, RESULTS_JSON, *save_figure(result, folder, PICTURES)]
