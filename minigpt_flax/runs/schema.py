"""Schemas of the files of a run, and checked reading of untrusted files. Imports no JAX.

``METRICS`` lists the keys of a record in ``metrics.jsonl``.

Run folders, prepared data, tokenizers and weights may come from anywhere, so every reader of such a file goes through
this module. It accepts only regular files of bounded size, JSON of bounded depth, and fields of known names and types;
numbers are checked before anything is computed or allocated from them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import reprlib
import stat
import types
import typing
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from minigpt_flax.errors import UserError, nearest
from minigpt_flax.invocation import show
from minigpt_flax.text import shortened

SMALL = 1 << 20  # size limit of a settings file, bytes
LARGE = 1 << 31  # size limit of a log, tokenizer or text that is read at once, bytes
WHOLE = 1 << 53  # every JSON implementation represents integers up to this exactly
_REPR = reprlib.Repr()  # visits only the part of a value that it shows
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60
_TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "an object"}

STEP, TOKENS, SECONDS = CLOCK = ("step", "tokens", "seconds")  # keys of every record
LOSS, LR, GRAD_NORM = "loss", "lr", "grad_norm"
VAL_LOSS, VAL_SEM = "val_loss", "val_sem"
EXPLOSION, SKIPPED, SKIPPED_IN_A_ROW = "explosion", "skipped", "skipped_in_a_row"
UPDATE_RATIO = "update_ratio/"  # prefix: a layer or role follows


class Metric(NamedTuple):
    """A key of the records in ``metrics.jsonl``.

    Attributes:
      unit: unit of the value; empty if it is dimensionless or depends on the parameter.
      meaning: one-line description.
    """

    unit: str
    meaning: str


METRICS: dict[str, Metric] = {  # by key or pattern of keys
    STEP: Metric("steps", "completed training steps"),
    TOKENS: Metric("tokens", "tokens trained on so far"),
    SECONDS: Metric("s", "wall time of the run so far, over all sessions"),
    LOSS: Metric("nats/token", "mean loss of the training batch"),
    LR: Metric("", "learning rate of the step"),
    GRAD_NORM: Metric("nats/token", "Euclidean norm of the gradient, before clipping"),
    VAL_LOSS: Metric("nats/token", "mean loss of the validation split; the mean over sources weighted by the mix"),
    VAL_SEM: Metric("nats/token", "standard error of val_loss, taking windows as independent"),
    "val_perplexity": Metric("", "exp(val_loss)"),
    "val_bits_per_char": Metric("bits/character", "cross-entropy per character of the validation text"),
    f"{VAL_LOSS}/*": Metric("nats/token", "validation loss of one source"),
    EXPLOSION: Metric("nats/token", "gradient norm that exceeded --explosion"),
    SKIPPED: Metric("steps", "skipped steps so far"),
    SKIPPED_IN_A_ROW: Metric("steps", "consecutive steps skipped up to this one"),
    f"{UPDATE_RATIO}*": Metric("", "RMS of the update over RMS of the parameters, by role or layer"),
    "update_cosine": Metric("", "cosine of this update and the previous one"),
    "clip/norm": Metric("nats/token", "gradient norm before clip_by_norm"),
    "clip/factor": Metric("", "factor that clip_by_norm applied; 1 leaves the gradient unchanged"),
    "clip/clipped": Metric("", "1 if clip_by_norm changed the gradient, else 0"),
    "clip/rate": Metric("", "fraction of steps clipped so far"),
    "noise/scale": Metric("tokens", "gradient noise scale"),
    "noise/spread": Metric("", "trace of the covariance of a token's gradient"),
    "noise/signal": Metric("", "squared norm of the true gradient"),
    "sharpness": Metric("", "largest eigenvalue of the Hessian"),
    "*_norm/*": Metric("", "norm of the gradients, updates, parameters or a field of the optimizer state, by role"),
}


def find_metric(key: str) -> Metric | None:
    """The metric of a record's key; None if the key is unknown.

    >>> find_metric("update_ratio/matrix").meaning
    'RMS of the update over RMS of the parameters, by role or layer'
    """
    return next((metric for pattern, metric in METRICS.items() if fnmatchcase(key, pattern)), None)


def read_bytes(path: Path, limit: int = LARGE) -> bytes:
    """Reads a regular file.

    Args:
      path: the file; a symbolic link is followed, as reading changes nothing.
      limit: largest accepted size in bytes.

    Raises:
      UserError: the file is missing, unreadable, too large, or not a regular file (a pipe or device has no end).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"can't read {show(path)}: it is a pipe, a device or a folder; give a file")
            if status.st_size > limit:
                raise UserError(f"{show(path)} has {status.st_size:,} bytes, more than the limit of {limit:,}")
            return file.read(min(limit, status.st_size))  # Python allocates as many bytes as requested
    except OSError as error:
        raise UserError(f"can't read {show(path)}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise UserError(f"can't read {show(path)}: {error}") from error


def size_of(path: Path) -> int:
    """Size of a regular file in bytes, without reading it.

    Raises:
      UserError: the file is missing, inaccessible, or not a regular file (a pipe or device has no end).
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"can't read {show(path)}: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"can't read {show(path)}: it is a pipe, a device or a folder; give a file")
    return status.st_size


def read_text(path: Path, limit: int = LARGE) -> str:
    """Reads a UTF-8 text file without a byte order mark; see :func:`read_bytes`.

    Raises:
      UserError: the file can't be read, or isn't UTF-8.
    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{show(path)} is damaged: it isn't UTF-8 text (byte {error.start:,})") from error


def read_json(path: Path, limit: int = SMALL) -> dict[str, Any]:
    """Reads a file that holds a JSON object.

    Raises:
      UserError: the file can't be read, or doesn't hold a JSON object.
    """
    return parse_json(read_text(path, limit), show(path))


def parse_json(text: str, where: str) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
      text: the JSON text.
      where: its source, for error messages.

    Raises:
      UserError: the text is not a JSON object, repeats a field, or is nested too deeply.
    """
    try:
        values = json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where} is damaged: it is not valid JSON at line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise UserError(f"{where} is damaged: it is nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{where} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{where} is damaged: it is not a JSON object")
    return values


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        raise ValueError(f"it has the field {brief(next(n for n, _ in pairs if n in seen or seen.add(n)))} twice")
    return values


def check_fields(
    values: Mapping[str, Any], fields: Mapping[str, Any], where: str, optional: Collection[str] = ()
) -> dict[str, Any]:
    """Checks the names and types of fields; converts a list to a tuple if the type is a tuple.

    Args:
      values: parsed JSON.
      fields: name -> type: int, float, str, bool, dict, ``X | None``, ``tuple[X, ...]``, ``Any``.
      where: source of the values, for error messages.
      optional: names of fields that may be missing.

    Raises:
      UserError: a field is unknown, missing or of the wrong type; names the first one.
    """
    for name in values:
        if name not in fields:
            raise UserError(f"{where} has an unknown field {name!r}{nearest(name, fields)}")
    for name in fields:
        if name not in values and name not in optional:
            raise UserError(f"{where} has no field {name!r}: restore the original file")
    return {name: check_type(value, fields[name], f"{where}: {name}") for name, value in values.items()}


def check_type(value: Any, kind: Any, what: str) -> Any:
    """Converts a JSON value to the type ``kind``; see :func:`check_fields`.

    Raises:
      UserError: the value has another type, or is a number that is not finite or not exact.
    """
    if kind is Any:
        return value
    if typing.get_origin(kind) is dict:
        kind = dict
    if isinstance(kind, types.UnionType):
        if value is None and type(None) in kind.__args__:
            return None
        kinds = [part for part in kind.__args__ if part is not type(None)]
        return check_type(value, next((part for part in kinds if type(value) is part), kinds[0]), what)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{what} must be a list, got {brief(value)}")
        return tuple(check_type(part, typing.get_args(kind)[0], what) for part in value)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) <= WHOLE else math.inf
    if type(value) is not kind:
        raise UserError(f"{what} must be {_TYPE_NAMES[kind]}, got {brief(value)}")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{what} must be a finite number, got {value}")
    return value


def check_range(value: int | float, low: int | float, high: int | float, what: str) -> None:
    """Checks that a number lies between ``low`` and ``high``, inclusive.

    Raises:
      UserError: the number is out of range; states the range.
    """
    if not low <= value <= high:
        raise UserError(f"{what} must be from {low:,} to {high:,}, got {value:,}")


def types_of(kind: type) -> dict[str, Any]:
    """Types of a dataclass's fields, by name."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def sha256(path: Path, limit: int = LARGE) -> str:
    """SHA-256 of a regular file, in hexadecimal; see :func:`read_bytes`.

    Raises:
      UserError: the file can't be read.
    """
    return hashlib.sha256(read_bytes(path, limit)).hexdigest()


def brief(value: Any) -> str:
    """The ``repr`` of a value for an error message, truncated to 60 characters."""
    return shortened(_REPR.repr(value), 60)
