"""Read files that may be anybody's: a run folder from elsewhere, prepared data, a tokenizer, weights. Imports no JAX.

Every reader of such a file comes through here. It takes regular files only, of bounded size; JSON of bounded depth; and
fields of known names and types, whose numbers are checked before anything is computed or allocated from them.
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
from pathlib import Path
from typing import Any

from minigpt_flax.errors import UserError, nearest
from minigpt_flax.invocation import show
from minigpt_flax.text import shortened

SMALL = 1 << 20  # bytes of a file of settings, at most
LARGE = 1 << 31  # bytes of a log, a tokenizer or a text that is read whole, at most
WHOLE = 1 << 53  # whole numbers up to this are exact in JSON everywhere
_REPR = reprlib.Repr()  # looks at no more of a value than it shows
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60
_TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "an object"}


def read_bytes(path: Path, limit: int = LARGE) -> bytes:
    """The content of a regular file.

    Args:
      path: the file; a symbolic link is followed, as reading harms nothing.
      limit: bytes, at most.

    Raises:
      UserError: it is missing, unreadable, larger, or no regular file (a pipe or a device would never end).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"can't read {show(path)}: it is no regular file")
            if found.st_size > limit:
                raise UserError(f"{show(path)} has {found.st_size:,} bytes, more than the {limit:,} that it may have")
            return file.read(min(limit, found.st_size))  # Python allocates what it is told to read
    except OSError as error:
        raise UserError(f"can't read {show(path)}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise UserError(f"can't read {show(path)}: {error}") from error


def size_of(path: Path) -> int:
    """Bytes of a regular file, which is not read.

    Raises:
      UserError: it is missing, out of reach, or no regular file (a pipe or a device would never end).
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"can't read {show(path)}: {reason}") from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"can't read {show(path)}: it is no regular file")
    return found.st_size


def read_text(path: Path, limit: int = LARGE) -> str:
    """The text of a UTF-8 file; see :func:`read_bytes`.

    Raises:
      UserError: it can't be read, or isn't UTF-8.
    """
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{show(path)} is damaged: it isn't UTF-8 text (byte {error.start:,})") from error


def read_json(path: Path, limit: int = SMALL) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      UserError: it can't be read, or holds no JSON object.
    """
    return parse_json(read_text(path, limit), show(path))


def parse_json(text: str, where: str) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
      text: the JSON.
      where: what holds it, for the error.

    Raises:
      UserError: it is no JSON object, names a field twice, or is nested too deeply.
    """
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is damaged: it is no JSON at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise UserError(f"{where} is damaged: it is nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{where} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UserError(f"{where} is damaged: it holds no JSON object")
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise ValueError(f"it has the field {brief(next(n for n, _ in pairs if n in seen or seen.add(n)))} twice")
    return found


def check_fields(
    values: Mapping[str, Any], fields: Mapping[str, Any], where: str, optional: Collection[str] = ()
) -> dict[str, Any]:
    """Checks the names and types of fields; lists become tuples where the type says so.

    Args:
      values: as JSON gave them.
      fields: name -> type: int, float, str, bool, dict, ``X | None``, ``tuple[X, ...]``, ``Any``.
      where: what holds them, for the error.
      optional: names that may be missing.

    Raises:
      UserError: names the first field that is unknown, missing or of another type.
    """
    for name in values:
        if name not in fields:
            raise UserError(f"{where} has an unknown field {name!r}{nearest(name, fields)}")
    for name in fields:
        if name not in values and name not in optional:
            raise UserError(f"{where} has no field {name!r}: bring back the file as it was written")
    return {name: check_type(value, fields[name], f"{where}: {name}") for name, value in values.items()}


def check_type(value: Any, kind: Any, what: str) -> Any:
    """Returns ``value`` as a type from a JSON file.

    Raises:
      UserError: it is of another type, or a number that isn't finite or exact.
    """
    if kind is Any:
        return value
    if typing.get_origin(kind) is dict:
        kind = dict
    if isinstance(kind, types.UnionType):
        return None if value is None else check_type(value, next(p for p in kind.__args__ if p is not type(None)), what)
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
    """Refuses a number outside ``low`` to ``high``, both included.

    Raises:
      UserError: says both.
    """
    if not low <= value <= high:
        raise UserError(f"{what} must be from {low:,} to {high:,}, got {value:,}")


def types_of(kind: type) -> dict[str, Any]:
    """Name and type of every field of a dataclass."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def sha256(path: Path, limit: int = LARGE) -> str:
    """The SHA-256 of a regular file, in hexadecimal; see :func:`read_bytes`.

    Raises:
      UserError: it can't be read.
    """
    return hashlib.sha256(read_bytes(path, limit)).hexdigest()


def brief(value: Any) -> str:
    """A value as Python writes it, for an error; a long one is cut."""
    return shortened(_REPR.repr(value), 60)
