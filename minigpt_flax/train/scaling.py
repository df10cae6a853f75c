"""``--tuned-at "batch=12,steps=1000"``: hyperparameters that were tuned on a shorter run or with another batch size.

They are rescaled once, when a run's configuration is resolved; ``config.json`` holds the new values.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from jaxopt_mini.scaling import RATE, SCALING_RULES, Change, rescale
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.phases import SIZES, Stepwise, as_sizes
from minigpt_flax.spec import Spec, settings
from minigpt_flax.text import shortened
from minigpt_flax.train.registry import REGISTRIES, is_frozen

KEYS = {"batch": "sequences per step", "steps": "number of steps"}
FORM = "--tuned-at takes the run that was tuned, such as batch=12,steps=1000"
NUMBER = re.compile(r"[1-9][0-9]{0,17}")
LIMIT = (
    "limit: these rules hold while gradient noise limits the learning rate. On nano with width 64, from batch 12 to 48 "
    "with as many tokens, AdamW's loss was 0.19 nats above the tuned one, and 0.01 with the learning rate kept"
)
FIELDS = ("lr", "opt", "group")  # that change


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


def rescaled(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Rescales the learning rates and optimizers of a run to its own batch size and number of steps.

    Args:
      values: all fields of a configuration; ``tuned_at`` names the reference.

    Returns:
      The fields, and a line for each change.

    Raises:
      UserError: the reference is malformed, the batch changes during the run, or an optimizer has no rule.
    """
    reference = read_reference(values["tuned_at"])
    if changing := [name for name in SIZES if isinstance(values[name], Stepwise)]:
        flag = f"--{changing[0].replace('_', '-')}"
        raise UserError(f"--tuned-at needs a batch of one size, but {flag} changes during the run: give one number")
    batch = as_sizes(values).at(0).step_sequences / reference["batch"]
    steps = values["steps"] / reference["steps"]
    opt, lr, changes = _rescaled(values["opt"], values["lr"], batch, steps)
    lines, groups = [str(change) for change in changes], []
    for group in values["group"]:
        spec, peak, changes = _rescaled(group.spec, group.lr, batch, steps)
        groups.append(dataclasses.replace(group, spec=spec, lr=peak))
        lines += [f"{group.where}: {change}" for change in changes]
    if batch > 1 and lines:
        lines.append(LIMIT)
    header = f"batch x {batch:g}, steps x {steps:g}, tokens x {batch * steps:g}"
    return {**values, "opt": opt, "lr": lr, "group": tuple(groups)}, [header, *(lines or ["nothing changes"])]


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
