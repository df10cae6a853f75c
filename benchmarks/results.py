"""Where measurements are kept: a JSON file a machine, in it a section a benchmark, with what it was measured with."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from minigpt_flax.train.parallel.xla_flags import cores

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "optax", "flax", "torch")


def machine() -> str:
    """This machine as a part of a file's name: its accelerator, or its processor and the cores that JAX gets."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        name = f"{jax.device_count()} x {device.device_kind}"
    else:
        name = f"{_processor()} {cores()} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:  # not Linux
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """What a measurement depends on beside the code."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "versions": versions}


def load(path: Path) -> dict[str, Any]:
    """The sections of a file; none of a file that isn't there."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def save(path: Path, section: str, values: dict[str, Any]) -> None:
    """Puts one section into a file, in the place of an older one, and leaves the others."""
    merged = dict(sorted({**load(path), section: values}.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(merged, indent=1) + "\n", "utf-8")
    os.replace(scratch, path)  # an interrupted write loses nothing


def publish(folder: Path, section: str, title: str, table: str, found: dict[str, Any]) -> None:
    """Prints what was found, and keeps it with what it depends on.

    Args:
      folder: of the files of results.
      section: of this machine's file.
      title: says what was measured.
      table: for people.
      found: for the file, in the place of what the section held.
    """
    print(f"{title}, {machine()}\n{table}")
    path = folder / f"{machine()}.json"
    save(path, section, {**found, **environment()})
    print(f"wrote {path}")
