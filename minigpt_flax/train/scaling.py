"""``--tuned-at RUN``: hyperparameters that were tuned on a shorter run or with another batch size.

The reference is the folder of a run, or a text such as ``batch=12,steps=1000``. The hyperparameters are rescaled once,
when a run's configuration is resolved; ``config.json`` holds the new values.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxopt_mini.scaling import RATE, SCALING_RULES, Change, rescale
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.phases import SIZES, Stepwise, as_sizes
from minigpt_flax.runs.records import read_run
from minigpt_flax.spec import Spec, settings
from minigpt_flax.text import shortened, spelled
from minigpt_flax.train.config.stored import read_config
from minigpt_flax.train.registry import REGISTRIES, is_frozen

KEYS = {"batch": "sequences per step", "steps": "number of steps"}
FORM = "--tuned-at takes the run that was tuned: its folder, or such as batch=12,steps=1000"
NUMBER = re.compile(r"[1-9][0-9]{0,17}")
WARMUP = "warmup"  # keyword of every schedule with a warm-up: steps, or a fraction of the run
LONGEST_WARMUP = 0.5  # of the run
FIELDS = ("lr", "opt", "group", "schedule")  # that change


def read_reference(text: str) -> dict[str, int]:
    """Parses ``batch=12,steps=1000``.

    Raises:
      UserError: a key is unknown, missing or repeated, or a value isn't a whole number above 0.

    >>> read_reference("batch=12,steps=1000")
    {'batch': 12, 'steps': 1000}
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in KEYS:
            known = ", ".join(f"{name} ({what})" for name, what in KEYS.items())
            raise UserError(f"{FORM}; it has no key {shortened(key)!r}{nearest(key, KEYS)}; it has: {known}")
        if key in found:
            raise UserError(f"{FORM}; {key} is given twice")
        if not NUMBER.fullmatch(value):
            raise UserError(f"{FORM}; {key} must be a whole number above 0, got {shortened(repr(value))}")
        found[key] = int(value)
    if missing := [key for key in KEYS if key not in found]:
        raise UserError(f"{FORM}; {missing[0]} is missing: add {missing[0]}=N, its {KEYS[missing[0]]}")
    return found


def reference_of(folder: str, values: Mapping[str, Any]) -> str:
    """The reference that the folder of a run is, as a text.

    Args:
      folder: of a finished run.
      values: all fields of the configuration that is to be rescaled.

    Raises:
      UserError: it is no finished run, its batch changes, or its hyperparameters are others.
    """
    run, config = read_run(folder), read_config(Path(folder) / "config.json").config
    if run.state != "finished":
        raise UserError(f"--tuned-at {folder}: this run is {run.state}: name a finished one")
    for name in FIELDS:
        if getattr(config, name) != values[name]:
            raise UserError(
                f"--tuned-at {folder}: this run was trained with {name}={spelled(getattr(config, name))}, and not with "
                f"{spelled(values[name])}: give both runs the same, as the new one is rescaled from it"
            )
    if changing_sizes(vars(config)):
        raise UserError(f"--tuned-at {folder}: the batch of this run changes: name a run with one batch size")
    return f"batch={config.phases.at(0).step_sequences},steps={config.steps}"


def changing_sizes(values: Mapping[str, Any]) -> list[str]:
    """The fields of the batch that change during a run."""
    return [name for name in SIZES if isinstance(values[name], Stepwise)]


def rescaled(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Rescales the learning rates, optimizers and warm-ups of a run to its own batch size and number of steps.

    Args:
      values: all fields of a configuration; ``tuned_at`` names the reference.

    Returns:
      The fields, and a line for each change.

    Raises:
      UserError: the reference is malformed, the batch changes during the run, or an optimizer has no rule.
    """
    reference = read_reference(values["tuned_at"])
    if changing := changing_sizes(values):
        flag = f"--{changing[0].replace('_', '-')}"
        raise UserError(f"--tuned-at needs a batch of one size, but {flag} changes during the run: give one number")
    batch = as_sizes(values).at(0).step_sequences / reference["batch"]
    steps = values["steps"] / reference["steps"]
    opt, lr, changes = _rescaled(values["opt"], values["lr"], batch, steps)
    schedule, more = _with_as_long_a_warmup(values["schedule"], steps)
    lines, groups = [str(change) for change in changes] + more, []
    for group in values["group"]:
        spec, peak, changes = _rescaled(group.spec, group.lr, batch, steps)
        own, more = _with_as_long_a_warmup(group.schedule, steps)
        groups.append(dataclasses.replace(group, spec=spec, lr=peak, schedule=own))
        lines += [f"{group.where}: {change}" for change in [*changes, *more]]
    header = f"batch x {batch:g}, steps x {steps:g}, tokens x {batch * steps:g}"
    new = {"opt": opt, "lr": lr, "group": tuple(groups), "schedule": schedule}
    return {**values, **new}, [header, *(lines or ["nothing changes"])]


def _with_as_long_a_warmup(schedule: Spec | None, steps: float) -> tuple[Spec | None, list[str]]:
    """A schedule whose warm-up, a fraction of the run, has as many steps in a shorter run, at most half of it."""
    fraction = None if schedule is None else warmup_fraction(schedule)
    if schedule is None or fraction is None or fraction >= LONGEST_WARMUP or steps >= 1:
        return schedule, []
    new = min(LONGEST_WARMUP, round(fraction / steps, 6))
    line = f"{WARMUP} {fraction:.3g} -> {new:.3g} of the run: the same number of steps, which stability depends on"
    return with_warmup(schedule, new), [line]


def warmup_fraction(schedule: Spec) -> float | None:
    """The warm-up of a schedule, if it is a fraction of the run."""
    warmup = settings(schedule, REGISTRIES["schedule"].row(schedule)).get(WARMUP)
    return warmup if isinstance(warmup, float) and 0 < warmup < 1 else None


def with_warmup(schedule: Spec, warmup: int | float) -> Spec:
    """The schedule with another warm-up, in steps or as a fraction of the run."""
    return dataclasses.replace(schedule, keywords={**schedule.keywords, WARMUP: warmup})


def _rescaled(spec: Spec, lr: int | float, batch: float, steps: float) -> tuple[Spec, float, list[Change]]:
    """An optimizer and its peak learning rate, rescaled; defaults that change become keywords."""
    if is_frozen(spec):
        return spec, lr, []
    if spec.name not in SCALING_RULES:
        raise UserError(
            f"--tuned-at: no rule is known for optimizer {spec.name!r} at another batch size or run length: omit the "
            f"flag, and tune it for this run; rules exist for {', '.join(SCALING_RULES)}"
        )
    known = settings(spec, REGISTRIES["optimizer"].row(spec))
    found, changes = rescale(spec.name, {**known, RATE: lr}, batch=batch, steps=steps)
    keywords = {change.name: change.after for change in changes if change.name != RATE}
    named = [change._replace(name="lr") if change.name == RATE else change for change in changes]
    return dataclasses.replace(spec, keywords=spec.keywords | keywords), found[RATE], named
