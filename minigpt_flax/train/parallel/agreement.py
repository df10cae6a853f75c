"""What all processes of a run must have in common before the first step: versions, flags, configuration, data, folder.

Processes that differ would train as one run whose numbers are those of no configuration, or wait for each other for
ever. Imports no JAX.
"""

from __future__ import annotations

import dataclasses
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

from minigpt_flax.cli.parser import Request
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import ROOT, show
from minigpt_flax.runs import files
from minigpt_flax.train.config.run_config import RunConfig, flag_of
from minigpt_flax.train.parallel.multihost import from_first, peers

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "jaxopt-mini")
SAME_LINE = "start all processes with the same command line"
SAME_VERSIONS = "install the same versions for all processes"
SAME_FILES = "give all processes the same files, best in a folder that they share"
REQUEST = ("resume", "out", "name", "stop_after", "profile")  # flags beside the configuration that change what is done
TOKEN = "shared".join(files.TEMPORARY)  # file in the run's folder that all processes must see
VISIBLE = 5.0  # seconds that a network file system gets to show it


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of these sources, if git knows it."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return said.stdout.strip() or None


def source_hash() -> str:
    """SHA-256 of the sources of both packages: a commit says nothing of changes that aren't committed."""
    hashed = hashlib.sha256()
    root = ROOT
    for package in ("jaxopt_mini", "minigpt_flax"):
        for path in sorted((root / package).rglob("*.py")):
            hashed.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return hashed.hexdigest()


def require_same(facts: Mapping[str, Any], remedy: str) -> None:
    """Refuses to continue when a fact differs between processes.

    Args:
      facts: name -> text that shows the value and says what it is of (``--lr 0.01``).
      remedy: what to do.

    Raises:
      UserError: in every process; names what differs, with both values.
    """
    others = peers()
    if others is None:
        return
    found = others.decide(dict(facts), lambda values: difference(values, remedy))
    if found is not None:
        raise UserError(found)


def difference(values: Mapping[int, Mapping[str, str]], remedy: str) -> str | None:
    """The first process whose facts differ from those of process 0, in words; None if all agree.

    >>> difference({0: {"lr": "--lr 0.01"}, 1: {"lr": "--lr 0.001"}}, "use one")
    'process 1 has --lr 0.001, process 0 has --lr 0.01: use one'
    """
    for process, facts in values.items():
        names = [name for name in {**values[0], **facts} if facts.get(name) != values[0].get(name)]
        if names:
            theirs, ours = (" ".join(found.get(name, f"no {name}") for name in names) for found in (facts, values[0]))
            return f"process {process} has {theirs}, process 0 has {ours}: {remedy}"
    return None


def require_same_programs() -> None:
    """Compares versions and sources.

    Raises:
      UserError: they differ.
    """
    names = {name: f"{name} {number}" for name, number in versions().items()}
    require_same(names | {"commit": f"commit {commit()}"}, SAME_VERSIONS)
    require_same({"sources": f"sources with the SHA-256 {source_hash()[:12]}"}, SAME_VERSIONS)


def require_same_request(request: Request) -> None:
    """Compares the flags beside the configuration.

    Raises:
      UserError: they differ.
    """
    require_same({name: as_typed(name, getattr(request, name)) for name in REQUEST}, SAME_LINE)


def require_same_config(config: RunConfig) -> None:
    """Compares all fields of the configuration.

    Raises:
      UserError: they differ.
    """
    require_same(typed(config), SAME_LINE)


def typed(config: RunConfig) -> dict[str, str]:
    """Every field of a configuration, as the flag that sets it."""
    names = (field.name for field in dataclasses.fields(config))
    return {name: as_typed(name, getattr(config, name)) for name in names}


def as_typed(name: str, value: Any) -> str:
    """A value as the flag that sets it.

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
    """Refuses a folder that not every process sees: checkpoints could never be completed.

    Raises:
      UserError: a process doesn't see what process 0 has written there.
    """
    others = peers()
    if others is None:
        return
    path, token = folder / TOKEN, secrets.token_hex(16)
    try:
        token = from_first(lambda: _write(path, token))
        blind = others.decide(
            others.place.process == 0 or _sees(path, token),
            lambda seen: [process for process, sees in seen.items() if not sees],
        )
    finally:
        if others.place.process == 0:
            files.remove_file(path)
    if blind:
        who = f"process {blind[0]} does not" if len(blind) == 1 else f"processes {', '.join(map(str, blind))} do not"
        raise UserError(
            f"{who} see {show(folder)} of process 0: --out must be one folder on a file system that all processes share"
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
