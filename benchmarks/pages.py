"""Losses that pages quote from short runs: ``python -m benchmarks.pages [--only NAME ...]``.

Each part runs a page's own commands in a temporary folder and reads the losses from ``metrics.jsonl``; ``nanogpt``
replays nanoGPT's recorded run. The results go to ``benchmarks/results/<machine>.json``; ``tests/test_claims.py``
compares the pages with them.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, publish
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser

ROOT = Path(__file__).parents[1]
SMALL = "--layers 2 --width 32 --heads 2 --context 32"
DEVICES = f"train.py {SMALL} --batch-size 16 --steps 20"
MESHES = {"data=8": "--mesh data=8", "zero=8": "--mesh zero=8", "data=2,fsdp=4": "--mesh data=2,fsdp=4"} | {
    "data=4,tensor=2": "--mesh data=4,tensor=2",
    "pmap": "--parallel pmap",
}
AMPLIFIERS = ("soap", "galore", "dion")  # their bases turn a difference in the last digit into a visible one
CHANGE = 1e-7  # relative, of the initial weights


def command(line: str, folder: Path, **environment: str) -> None:
    """Runs a command of a page in ``folder``.

    Raises:
      CalledProcessError: it failed.
    """
    program, *arguments = shlex.split(line)
    start = [str(ROOT / program)] if program.endswith(".py") else ["-m", program]
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    subprocess.run([sys.executable, *start, *arguments, "--quiet"], cwd=folder, env=variables, check=True)


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    """The records of a run."""
    return [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text("utf-8").splitlines()]


def losses(folder: Path, name: str) -> dict[str, Any]:
    """Training losses by step, the last validation loss, and its standard error."""
    lines = records(folder, name)
    last = [line for line in lines if "val_loss" in line][-1]
    training = {str(line["step"]): line["loss"] for line in lines if "loss" in line}
    return {"loss": training, "val_loss": last["val_loss"], "val_sem": last["val_sem"]}


def fine_tune(folder: Path) -> dict[str, Any]:
    """``docs/guides/fine-tune.md``: train, export, train on."""
    model = "--bias --mlp gelu_tanh --tokenizer byte"
    command(f"train.py {SMALL} {model} --steps 20 --name small", folder)
    command("minigpt_flax export runs/small --out folder", folder)
    command("train.py --init folder --tokenizer byte --steps 10 --lr 3e-5 --schedule constant --name tuned", folder)
    return {name: losses(folder, name) for name in ("small", "tuned")}


def devices(folder: Path) -> dict[str, Any]:
    """``docs/guides/devices.md``: the same run on eight simulated devices, in five ways."""
    found = {}
    for name, flags in MESHES.items():
        command(f"{DEVICES} {flags} --name {name}", folder, JAX_NUM_CPU_DEVICES="8")
        found[name] = losses(folder, name)
    return found


def rounding(folder: Path) -> dict[str, Any]:
    """``docs/guides/devices.md``: optimizers that amplify rounding, on eight devices, and from changed weights."""
    lines = f"import json; from benchmarks.pages import amplified; print(json.dumps(amplified({AMPLIFIERS!r})))"
    variables = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", lines], env=variables, check=True, stdout=subprocess.PIPE, cwd=folder)
    return json.loads(said.stdout.splitlines()[-1])


def amplified(names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Largest differences of the loss within 20 steps, by optimizer; needs eight devices."""
    import jax
    import numpy as np

    import minigpt_flax as mg

    def history(name: str, mesh: str, change: float = 0.0) -> np.ndarray:
        sizes = {"layers": 1, "width": 32, "heads": 2, "context": 32, "batch_size": 16, "steps": 20}
        run = mg.build(mg.RunConfig(preset="nano", opt=name, mesh=mesh, **sizes))
        state, found = run.init(), []
        state = state._replace(params=jax.tree.map(lambda p: p * (1 + change), state.params))
        for step in range(run.config.steps):
            state, metrics = run.step(state, run.batches(step))
            found.append(float(metrics["loss"]))
        return np.array(found)

    found = {}
    for name in names:
        one = history(name, "data=1")
        ways = {"eight devices": history(name, "data=8"), "changed weights": history(name, "data=1", CHANGE)}
        found[name] = {way: float(np.abs(losses - one).max()) for way, losses in ways.items()}
    return found


def nanogpt(folder: Path) -> dict[str, Any]:
    """README: 100 steps of nanoGPT's recorded training, replayed without and with biases."""
    from tests.minigpt_flax.train.test_nanogpt import deviations

    ways = {"without biases": False, "with biases": True}
    return {name: {key: float(value) for key, value in deviations(bias).items()} for name, bias in ways.items()}


def demo(folder: Path) -> dict[str, Any]:
    """README: the validation losses of ``make demo``, with their standard errors."""
    command("train.py --preset demo --name demo", folder)
    validations = [line for line in records(folder, "demo") if "val_loss" in line]
    return {str(line["step"]): {key: line[key] for key in ("val_loss", "val_sem")} for line in validations}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "fine-tune": fine_tune,
    "devices": devices,
    "rounding": rounding,
    "nanogpt": nanogpt,
    "demo": demo,
}


def run(arguments: list[str]) -> int:
    """Runs the parts that are asked for, and keeps what each found."""
    parser = Parser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=PARTS, default=tuple(PARTS))
    for name in parser.parse(arguments)["only"]:
        with tempfile.TemporaryDirectory() as folder:
            found = PARTS[name](Path(folder))
        publish(RESULTS, f"pages, {name}", name, json.dumps(found, indent=1), found)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.pages", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
