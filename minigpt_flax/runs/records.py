"""Read what a run left in its folder: its configuration and the lines of ``metrics.jsonl``. Imports no JAX."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any

from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.schema import LARGE, WHOLE, brief, check_fields, read_json, read_text

Record = dict[str, Any]
USED: dict[str, Any] = {
    **dict.fromkeys(("steps", "batch_size", "accum", "context", "seed"), int),
    "lr": float,
    "opt": str,
    "data": tuple[str, ...],
}


@dataclass(frozen=True)
class RunRecord:
    """What happened in a run.

    Attributes:
      name: of its folder.
      config: words and numbers.
      records: lines of ``metrics.jsonl``, by step.
      env: versions, devices, data; empty where they weren't kept.
      path: its folder.
    """

    name: str
    config: dict[str, Any]
    records: list[Record]
    env: dict[str, Any] = field(default_factory=dict)
    path: Path = Path()

    @property
    def state(self) -> str:
        """``finished``, ``diverged`` (a loss or gradient was no number) or ``unfinished``."""
        if any(record.get(name, 0.0) is None for record in self.records for name in ("loss", "grad_norm", "val_loss")):
            return "diverged"
        done = self.final is not None and self.final["step"] == self.config.get("steps")
        return "finished" if done else "unfinished"

    @property
    def tokens_per_step(self) -> int:
        """Tokens that a step trains on."""
        return self.config.get("accum", 1) * self.config.get("batch_size", 0) * self.config.get("context", 0)

    @property
    def ms_per_step(self) -> float | None:
        """Median time of a step, without compiling and validating; of runs trained together, this one's share."""
        speed = self.tokens_per_second
        return None if not speed else 1000 * self.tokens_per_step / speed / self.env.get("together", 1)

    @property
    def training(self) -> list[Record]:
        """Lines of training steps: ``loss``, ``lr``, ``grad_norm``."""
        return [record for record in self.records if record.get("loss") is not None]

    @property
    def validations(self) -> list[Record]:
        """Lines of validations: ``val_loss``, ``val_sem``."""
        return [record for record in self.records if record.get("val_loss") is not None]

    @property
    def final(self) -> Record | None:
        """The last validation."""
        return self.validations[-1] if self.validations else None

    @property
    def best(self) -> Record | None:
        """The validation with the lowest loss."""
        return min(self.validations, key=lambda record: record["val_loss"], default=None)

    @property
    def steps(self) -> int:
        """Steps done, as far as they are on record."""
        return max((record["step"] for record in self.records), default=0)

    @property
    def tokens_per_second(self) -> float | None:
        """Median speed between neighbouring lines, so that compiling and validating, which are rare, don't count."""
        speeds = [
            (after["tokens"] - before["tokens"]) / (after["seconds"] - before["seconds"])
            for before, after in pairwise(self.records)
            if after["tokens"] > before["tokens"] and after["seconds"] > before["seconds"]
        ]
        return statistics.median(speeds) if speeds else None


def read_run(path: Path | str) -> RunRecord:
    """Reads the folder of a run.

    Raises:
      UserError: it isn't one, or a file in it is damaged.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise UserError(f"{show(path)} is not the folder of a run: it has no config.json")
    config, records = _config(path / "config.json"), [record for _, record in lines(path / "metrics.jsonl")]
    env = read_json(path / "env.json") if (path / "env.json").is_file() else {}
    return RunRecord(path.resolve().name, config, records, env, path)


def _config(path: Path) -> dict[str, Any]:
    """The fields of a configuration; those that a comparison or a page computes with are checked, others only shown."""
    config = read_json(path)
    if isinstance(config.get("data"), str):  # the first runs had one source
        config["data"] = [config["data"]]
    used = {name: config[name] for name in USED if name in config}
    return {**config, **check_fields(used, USED, show(path), optional=("accum",))}


def lines(path: Path) -> Iterator[tuple[str, Record]]:
    """Every whole line of a ``metrics.jsonl`` and its record; a last line cut short by a crash is left out.

    Raises:
      UserError: another line is damaged.
    """
    if not path.exists():
        return
    for number, line in enumerate(read_text(path, LARGE).split("\n")[:-1], start=1):
        try:
            record = json.loads(line)
            problem = _problem(record)
        except (ValueError, RecursionError):
            problem = "it is no JSON"
        if problem:
            raise UserError(f"{show(path)}, line {number}, is no record of a step: {problem}; mend or remove the line")
        yield line + "\n", record


def _problem(record: Any) -> str | None:
    """What no record of a step has; None stands for a number that isn't finite."""
    step = record.get("step") if isinstance(record, dict) else None
    if type(step) is not int or not 0 <= step <= WHOLE:
        return f"step is {brief(step)}"
    for name in ("tokens", "seconds"):
        if record.get(name) is None:
            return f"it has no {name}"
    for name, value in record.items():
        if type(value) not in (int, float, NoneType) or (value is not None and not abs(value) < math.inf):
            return f"{brief(name)} is {brief(value)}"
    return None
