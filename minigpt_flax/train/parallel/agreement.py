"""Checks before the first step that all processes have the same versions, flags, configuration, data and folder.

Processes that differ would train a run whose numbers match no configuration, or wait for each other forever. Imports
no JAX.
"""

from __future__ import annotations

import hashlib
import platform
import secrets
import shlex
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from minigpt_flax.errors import UserError
from minigpt_flax.invocation import ROOT, show
from minigpt_flax.runs import files
from minigpt_flax.train.config.run_config import FIELDS, RunConfig, flag_of
from minigpt_flax.train.parallel.multihost import broadcast_from_first, peers

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "jaxopt-mini")
SAME_LINE = "start all processes with the same command line"
SAME_VERSIONS = "install the same versions for all processes"
SAME_FILES = "give all processes the same files, preferably in a shared folder"
TOKEN = "shared".join(files.TEMPORARY)  # file in the run's folder that all processes must see
VISIBLE = 5.0  # seconds in which it must appear on a network file system


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect a run's numbers."""
    numbers = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            continue
    return numbers


def commit() -> str | None:
    """Returns the git commit of these sources; None outside of a repository or without git."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return result.stdout.strip() or None


def source_hash() -> str:
    """Returns the SHA-256 of the sources of both packages, which also covers uncommitted changes."""
    hashed = hashlib.sha256()
    for package in ("jaxopt_mini", "minigpt_flax"):
        for path in sorted((ROOT / package).rglob("*.py")):
            hashed.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return hashed.hexdigest()


def require_same(facts: Mapping[str, Any], remedy: str) -> None:
    """Refuses to continue when a fact differs between processes.

    Args:
      facts: name -> text with the name and the value (``--lr 0.01``).
      remedy: what the user should do.

    Raises:
      UserError: in every process; names the fact, with both values.
    """
    others = peers()
    if others is None:
        return
    problem = others.decide(dict(facts), lambda values: difference(values, remedy))
    if problem is not None:
        raise UserError(problem)


def difference(values: Mapping[int, Mapping[str, str]], remedy: str) -> str | None:
    """Describes the first process whose facts differ from those of process 0; None if all agree.

    >>> difference({0: {"lr": "--lr 0.01"}, 1: {"lr": "--lr 0.001"}}, "use one")
    'process 1 has --lr 0.001, process 0 has --lr 0.01: use one'
    """
    for process, facts in values.items():
        names = [name for name in {**values[0], **facts} if facts.get(name) != values[0].get(name)]
        if names:
            theirs, ours = (" ".join(one.get(name, f"no {name}") for name in names) for one in (facts, values[0]))
            return f"process {process} has {theirs}, process 0 has {ours}: {remedy}"
    return None


def require_same_programs() -> None:
    """Checks that versions and sources are the same.

    Raises:
      UserError: they differ.
    """
    names = {name: f"{name} {number}" for name, number in versions().items()}
    require_same(names | {"commit": f"commit {commit()}"}, SAME_VERSIONS)
    require_same({"sources": f"sources with the SHA-256 {source_hash()[:12]}"}, SAME_VERSIONS)


def require_same_flags(flags: Mapping[str, Any]) -> None:
    """Checks that flags outside of the configuration are the same.

    Args:
      flags: name -> value.

    Raises:
      UserError: they differ.
    """
    require_same({name: as_typed(name, value) for name, value in flags.items()}, SAME_LINE)


def require_same_config(config: RunConfig) -> None:
    """Checks that all fields of the configuration are the same; paths may differ in all but their last component.

    The hashes of the data and of the initial weights are compared once they have been read.

    Raises:
      UserError: they differ.
    """
    names = {name: as_typed(name, without_folders(getattr(config, name))) for name in ("data", "init")}
    require_same(typed(config) | names, SAME_LINE)


def without_folders(value: Any) -> Any:
    """Returns absolute paths without their folders, and other names as they are.

    >>> without_folders(("/home/me/book.txt", "pydocs"))
    ('book.txt', 'pydocs')
    """
    if isinstance(value, tuple):
        return tuple(map(without_folders, value))
    return Path(value).name if value is not None and Path(value).is_absolute() else value


def typed(config: RunConfig) -> dict[str, str]:
    """Formats every field of a configuration as a flag."""
    return {name: as_typed(name, getattr(config, name)) for name in FIELDS}


def as_typed(name: str, value: Any) -> str:
    """Formats a value as the flag that sets it.

    >>> as_typed("batch_size", 8), as_typed("bias", False), as_typed("mix", None)
    ('--batch-size 8', '--no-bias', 'no --mix')
    >>> as_typed("data", ("a", "b c"))
    "--data a --data 'b c'"
    """
    flag = flag_of(name)
    if isinstance(value, bool):
        return flag if value else f"--no-{flag.removeprefix('--')}"
    values = value if isinstance(value, tuple) else () if value is None else (value,)
    return " ".join(f"{flag} {shlex.quote(str(one))}" for one in values) or f"no {flag}"


def require_shared(folder: Path) -> None:
    """Refuses a folder that not every process sees: no checkpoint could be completed.

    Raises:
      UserError: a process doesn't see a file that process 0 has written there.
    """
    others = peers()
    if others is None:
        return
    path, token = folder / TOKEN, secrets.token_hex(16)
    try:
        token = broadcast_from_first(lambda: _write(path, token))
        without = others.decide(
            others.place.process == 0 or _sees(path, token),
            lambda seen: [process for process, sees in seen.items() if not sees],
        )
    finally:
        if others.place.process == 0:
            files.remove_file(path)
    if without:
        several = len(without) > 1
        names = f"processes {', '.join(map(str, without))} do not" if several else f"process {without[0]} does not"
        raise UserError(
            f"{names} see {show(folder)} of process 0: --out must be a folder on a file system that all processes share"
        )


def _write(path: Path, token: str) -> str:
    files.replace(path, token)
    return token


def _sees(path: Path, token: str) -> bool:
    end = time.monotonic() + VISIBLE
    while time.monotonic() < end:
        try:
            if path.read_text("utf-8") == token:
                return True
        except (OSError, UnicodeDecodeError):
            pass
        time.sleep(0.1)
    return False
