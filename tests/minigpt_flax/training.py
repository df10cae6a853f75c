"""Runs small enough for a test, through the command line's own ``main``, and the parts of them that tests compare."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from minigpt_flax.console import summary
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.train import run
from minigpt_flax.train.build import build
from minigpt_flax.train.checkpoint import Checkpoints
from minigpt_flax.train.config.stored import from_json
from minigpt_flax.train.decay_rates import decay_rates
from train import main

ROOT = Path(__file__).parents[2]
TINY = {
    "preset": "nano",
    "data": ROOT / "LICENSE",
    "layers": 1,
    "heads": 2,
    "width": 16,
    "context": 8,
    "batch-size": 4,
    "steps": 24,
    "schedule": "warmup_cosine(warmup=4)",
    "eval-every": 8,
    "log-every": 1,
    "sample-tokens": 0,
    "mesh": "data=1",
}
KEPT = 0.1  # seconds; programs that take longer to compile are compiled once for all tests
ALONE = {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(KEPT), "PYTHONUNBUFFERED": "1"}
LASTING: list[tempfile.TemporaryDirectory] = []


def lasting_folder() -> Path:
    """A new folder that lasts until the session ends; ``conftest.py`` removes it."""
    LASTING.append(tempfile.TemporaryDirectory(prefix="minigpt-tests-", ignore_cleanup_errors=True))
    return Path(LASTING[-1].name)


@functools.cache
def compiled() -> str:
    """A folder for compiled programs: every test trains the same few."""
    return str(lasting_folder())


def flags(**changes) -> list[str]:
    """The command line of a tiny run, with changes (``log_every=2``)."""
    values = TINY | {name.replace("_", "-"): value for name, value in changes.items()}
    return [f"--{name}={value}" for name, value in values.items()]


def stated_decay(config, layout, shapes, known={}):  # noqa: B006
    """The weight decay that a plan states, measured once for all runs of the same configuration."""
    key = repr((config, layout, shapes))
    if key not in known:
        known[key] = decay_rates(config, layout, shapes)
    return known[key]


def call(*arguments: object) -> int:
    """Calls ``train.py`` in this process; returns its exit status."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (compiled(), KEPT), strict=True):
        jax.config.update(name, value)
    try:
        unwritten = mock.patch.object(run, "write_artifacts", return_value=None)  # sample and curves have own tests
        with unwritten, mock.patch.object(summary, "decay_rates", stated_decay):  # as has the stated decay
            return main([str(argument) for argument in arguments])
    finally:
        for name, value in zip(names, before, strict=True):
            jax.config.update(name, value)


def start(path: Path, *more: object, **changes) -> int:
    """Begins a tiny run in this folder."""
    return call(*flags(out=path.parent, name=path.name, **changes), *more)


def resume(path: Path, *more: object) -> int:
    """Continues the run in this folder."""
    return call("--resume", path, *more)


def spawn(*arguments: object, cwd: Path = ROOT, first: str = "pass", **variables: str) -> subprocess.Popen:
    """Calls ``train.py`` in its own process, with Ctrl-C at its default.

    Args:
      arguments: of the command line.
      cwd: where it starts.
      first: code to execute before.
      variables: added to this environment's.
    """
    code = (
        f"import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.path[0] = {str(ROOT)!r}; "
    )
    code += f"sys.argv[0] = 'train.py'; {first}; "
    code += "from minigpt_flax.cli.early import start; from train import main; start(main)"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | ALONE | {"JAX_COMPILATION_CACHE_DIR": compiled()} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def records(path: Path) -> list[dict]:
    """The records of a run, without the clock."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def last_state(path: Path) -> list[bytes]:
    """The newest checkpoint: every parameter and every tensor of the optimizer, bit for bit."""
    folder = RunFolder(path)
    config = from_json(folder.config.read_text(), "config").config
    with Checkpoints(folder.checkpoints, 1) as checkpoints:
        state = checkpoints.read(checkpoints.steps()[-1], jax.eval_shape(build(config).init))
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
