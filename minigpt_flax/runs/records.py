"""Read a run's folder: its configuration and the records in ``metrics.jsonl``. Imports no JAX."""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any

from minigpt_flax.errors import UserError, nearest
from minigpt_flax.invocation import show
from minigpt_flax.phases import SIZES, as_sizes, parse_size
from minigpt_flax.runs.schema import (
    GRAD_NORM,
    LARGE,
    LOSS,
    SECONDS,
    SKIPPED_IN_A_ROW,
    STEP,
    TOKENS,
    VAL_LOSS,
    WHOLE,
    brief,
    check_fields,
    check_type,
    read_json,
    read_text,
)

Record = dict[str, Any]
FOLDERS = {"run": ("config.json", "env.json"), "comparison": ("comparison.json",), "tuning": ("tuning.json",)}
CHECKED: dict[str, Any] = {  # types of the configuration's fields that a comparison or a report computes with
    **dict.fromkeys(("steps", "context", "seed"), int),
    **dict.fromkeys(("batch_size", "accum"), int | str),
    "seq_len": int | str | None,
    "lr": float,
    "opt": str,
    "data": tuple[str, ...],
}
CHECKED_ENV: dict[str, Any] = {"data": dict | None, "together": int, "state_bytes_per_param": float | None}


@dataclass(frozen=True)
class RunRecord:
    """What a run recorded.

    Attributes:
      name: name of its folder.
      config: fields of ``config.json``.
      records: records of ``metrics.jsonl``, by step; ``runs.schema.METRICS`` describes their keys.
      env: versions, devices and data; empty if the run didn't record them.
      path: its folder.
    """

    name: str
    config: dict[str, Any]
    records: list[Record]
    env: dict[str, Any] = field(default_factory=dict)
    path: Path = Path()

    @property
    def state(self) -> str:
        """``finished``, ``diverged`` (a loss or norm isn't finite, in a step that wasn't skipped) or ``unfinished``."""
        taken = [record for record in self.records if not record.get(SKIPPED_IN_A_ROW)]
        if any(record.get(name, 0.0) is None for record in taken for name in (LOSS, GRAD_NORM, VAL_LOSS)):
            return "diverged"
        done = self.final is not None and self.final[STEP] == self.config.get("steps")
        return "finished" if done else "unfinished"

    @property
    def data_id(self) -> Any:
        """What the data is: its SHA-256 if recorded, as a path can come to denote another file; else the sources."""
        return self.data_hash or self.config.get("data")

    @property
    def data_hash(self) -> str | None:
        """The data's SHA-256, if recorded."""
        return (self.env.get("data") or {}).get("sha256")

    def tokens_after(self, steps: int | float) -> int | float:
        """Tokens trained on in the first ``steps`` steps."""
        usual = {"steps": 1, "batch_size": 0, "accum": 1, "seq_len": None, "context": 0}
        config = usual | self.config
        sizes = {name: parse_size(config[name], name) for name in SIZES if config[name] is not None}
        return as_sizes(config | sizes).tokens_after(steps)

    @property
    def tokens_per_step(self) -> int:
        """Tokens in a training step; the mean, if they vary."""
        steps = self.config.get("steps", 1)
        return round(self.tokens_after(steps) / steps)

    @property
    def ms_per_step(self) -> float | None:
        """Median step time in milliseconds, without compilation and validation.

        For runs trained together by ``compare --vmap``, an equal share of the common step's time.
        """
        speed = self.tokens_per_second
        return None if not speed else 1000 * self.tokens_per_step / speed / self.env.get("together", 1)

    @property
    def training(self) -> list[Record]:
        """Records of training steps: ``loss``, ``lr``, ``grad_norm``."""
        return [record for record in self.records if record.get(LOSS) is not None]

    @property
    def validations(self) -> list[Record]:
        """Records of validations: ``val_loss``, ``val_sem``."""
        return [record for record in self.records if record.get(VAL_LOSS) is not None]

    @property
    def final(self) -> Record | None:
        """The last validation."""
        return self.validations[-1] if self.validations else None

    @property
    def best(self) -> Record | None:
        """The validation with the lowest loss."""
        return min(self.validations, key=lambda record: record[VAL_LOSS], default=None)

    @property
    def steps(self) -> int:
        """The last recorded step."""
        return max((record[STEP] for record in self.records), default=0)

    @property
    def tokens_per_second(self) -> float | None:
        """Median throughput between adjacent records, which ignores the rare compilations and validations."""
        speeds = [
            (after[TOKENS] - before[TOKENS]) / (after[SECONDS] - before[SECONDS])
            for before, after in pairwise(self.records)
            if after[TOKENS] > before[TOKENS] and after[SECONDS] > before[SECONDS]
        ]
        return statistics.median(speeds) if speeds else None


def read_run(path: Path | str) -> RunRecord:
    """Reads the folder of a run.

    Raises:
      UserError: the folder isn't a run's, or a file in it is damaged.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise wrong_folder(path, "run")
    config, records = _config(path / "config.json"), [record for _, record in lines(path / "metrics.jsonl")]
    return RunRecord(folder_name(path), config, records, _env(path / "env.json"), path)


def wrong_folder(path: Path, what: str) -> UserError:
    """The error of a path that is not the folder of a run, comparison or tuning; it names a near one that is.

    Args:
      path: the path; it lacks the file.
      what: key of `FOLDERS`.
    """
    reason = ""
    with contextlib.suppress(OSError):
        reason = _what_is_near(path, what)
    return UserError(f"{show(path)} is not the folder of a {what}: {reason or f'it has no {FOLDERS[what][0]}'}")


def _what_is_near(path: Path, what: str) -> str:
    """What a path is instead: missing, a part of such a folder, a folder of such folders, or one of another kind."""
    if not path.exists():
        beside = [show(found) for found in path.parent.glob("*") if _is_folder_of(what, found)]
        return f"it doesn't exist{nearest(show(path), beside)}"
    above = next((parent for parent in path.absolute().parents if _is_folder_of(what, parent)), None)
    if above is not None:
        return f"it is a part of {show(above)}; give that"
    for pattern in ("*", "*/*"):
        if below := sorted(found for found in path.glob(pattern) if _is_folder_of(what, found)):
            return f"give one of those in it, such as {show(below[0])}"
    return next((f"it is that of a {kind}" for kind in FOLDERS if _is_folder_of(kind, path)), "")


def _is_folder_of(kind: str, path: Path) -> bool:
    return all((path / name).is_file() for name in FOLDERS[kind])


def folder_name(path: Path) -> str:
    """Name of a folder, also of ``.``; a link to itself keeps its own, where ``Path.resolve`` fails on Python 3.11."""
    return os.path.basename(os.path.realpath(path))


def _config(path: Path) -> dict[str, Any]:
    """Reads ``config.json``; checks only the fields in ``CHECKED``, as the others are just displayed."""
    config = read_json(path)
    if isinstance(config.get("data"), str):  # early versions had a single source
        config["data"] = [config["data"]]
    used = {name: config[name] for name in CHECKED if name in config}
    checked = check_fields(used, CHECKED, show(path), optional=("accum", "seq_len"))
    for name in SIZES:
        parse_size(checked.get(name) or 1, f"{show(path)}: {name}")
    return {**config, **checked}


def _env(path: Path) -> dict[str, Any]:
    """Reads ``env.json``, if it exists; checks only the fields in ``CHECKED_ENV``, as the others are just displayed."""
    if not path.is_file():
        return {}
    env = read_json(path)
    used = {name: env[name] for name in CHECKED_ENV if name in env}
    check_fields(used, CHECKED_ENV, show(path), optional=CHECKED_ENV)
    check_type((env.get("data") or {}).get("sha256"), str | None, f"{show(path)}: data: sha256")
    if env.get("together", 1) < 1:
        raise UserError(f"{show(path)}: together must be at least 1, got {brief(env['together'])}")
    return env


def lines(path: Path) -> Iterator[tuple[str, Record]]:
    """Yields each line of a ``metrics.jsonl`` and its record; omits a last line that a crash truncated.

    Raises:
      UserError: any other line is damaged.
    """
    if not path.exists():
        return
    for number, line in enumerate(read_text(path, LARGE).split("\n")[:-1], start=1):
        try:
            record = json.loads(line)
            problem = _problem(record)
        except (ValueError, RecursionError):
            problem = "it is not valid JSON"
        if problem:
            raise UserError(
                f"{show(path)}, line {number}, is not a record of a step: {problem}; fix or remove the line"
            )
        yield line + "\n", record


def _problem(record: Any) -> str | None:
    """Why a value is not a record of a step, or None if it is one; None as a value denotes a non-finite number."""
    step = record.get(STEP) if isinstance(record, dict) else None
    if type(step) is not int or not 0 <= step <= WHOLE:
        return f"step is {brief(step)}"
    for name in (TOKENS, SECONDS):
        if record.get(name) is None:
            return f"it has no {name}"
    for name, value in record.items():
        if type(value) not in (int, float, NoneType) or (value is not None and not abs(value) < math.inf):
            return f"{brief(name)} is {brief(value)}"
    return None
