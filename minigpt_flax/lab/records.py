"""Read what a run left in its folder: its configuration and the lines of ``metrics.jsonl``. Imports no JAX."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from minigpt_flax.errors import UserError

Record = dict[str, Any]


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
    try:
        config = json.loads(read(path / "config.json"))
    except ValueError as error:
        raise UserError(f"{show(path / 'config.json')} is damaged: {error}") from error
    records = [record for _, record in lines(path / "metrics.jsonl")]
    return RunRecord(path.resolve().name, config, records, _env(path / "env.json"), path)


def _env(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(read(path))
    except ValueError as error:
        raise UserError(f"{show(path)} is damaged: {error}") from error


def lines(path: Path) -> Iterator[tuple[str, Record]]:
    """Every whole line of a ``metrics.jsonl`` and what it says; a last line cut short by a crash is left out.

    Raises:
      UserError: another line is damaged.
    """
    if not path.exists():
        return
    for number, line in enumerate(read(path).split("\n")[:-1], start=1):
        try:
            record = json.loads(line)
            int(record["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{show(path)}, line {number}, is no record of a step: mend or remove the line") from error
        yield line + "\n", record


def read(path: Path) -> str:
    """The text of a file of a run.

    Raises:
      UserError: it can't be read, or isn't UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"can't read {show(path)}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{show(path)} is damaged: it isn't UTF-8 text") from error


def show(path: Path | str) -> str:
    """A path as a person would type it: relative when it lies below the working directory."""
    path = Path(path).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
