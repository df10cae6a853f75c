"""What a run survives: ``python -m benchmarks.faults [--kills N] [--terms N] [--work DIR]``.

Tiny runs of the real command, each in a process of its own, get a signal at a random moment of one of four phases
(importing, compiling, training, saving) and are then resumed until they are done; half of them get further signals
while they are resumed. Every one must end as the run that nobody disturbed: the same checkpoints, each tensor bit for
bit, and the same records but for the clock. After SIGTERM the status must be 143 and, where the run has a folder, the
state saved.

What is done is kept in DIR, so that this may be interrupted too. The figures go to
``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.results import RESULTS, environment, machine, save
from minigpt_flax.data import load_tokenizer
from minigpt_flax.lab.records import lines
from minigpt_flax.train.build import design
from minigpt_flax.train.checkpoint import Checkpoints
from minigpt_flax.train.cli import Parser, guarded, whole
from minigpt_flax.train.config import from_json
from minigpt_flax.train.folder import RunFolder

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-W", "error", str(ROOT / "train.py")]
STEPS, EVERY = 120, 8
TINY = {
    "preset": "nano",
    "data": ROOT / "LICENSE",
    "layers": 1,
    "heads": 2,
    "width": 16,
    "context": 8,
    "batch-size": 4,
    "steps": STEPS,
    "schedule": "warmup_cosine(warmup=4)",
    "eval-every": EVERY,
    "keep-every": 32,
    "log-every": 1,
    "sample-tokens": 0,
}
FLAGS = [f"--{name}={value}" for name, value in TINY.items()]
PATIENCE = 300.0  # seconds until a run counts as hanging
AGAIN = 0.5  # share of the resumed runs that get a signal too
AT_ONCE = 2
POLL = 0.002  # seconds


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
      signal: its name.
      number: of the run.
      phases: what it was doing at each signal.
      wrong: what differs from the undisturbed run; empty if nothing does.
    """

    signal: str
    number: int
    phases: list[str]
    wrong: str


def started(folder: RunFolder, process: subprocess.Popen) -> bool:
    """The signals have handlers: the process is importing."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    caught = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt")), 0)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def building(folder: RunFolder, process: subprocess.Popen) -> bool:
    """The folder of the run is there, or a resumed run has claimed it: what follows is compiling."""
    return started(folder, process) and str(process.pid) in _text(folder.path / ".lock")


def training(folder: RunFolder, process: subprocess.Popen) -> bool:
    """A step has been recorded since the run was claimed."""
    return building(folder, process) and _time(folder.metrics) > _time(folder.path / ".lock")


def saving(folder: RunFolder, process: subprocess.Popen) -> bool:
    """A checkpoint is being written."""
    names = os.listdir(folder.checkpoints) if folder.checkpoints.is_dir() else []
    return training(folder, process) and any(not name.isdecimal() for name in names)


PHASES: dict[str, tuple[Callable[[RunFolder, subprocess.Popen], bool], float]] = {
    "importing": (started, 2.5),
    "compiling": (building, 1.5),
    "training": (training, 2.0),
    "saving": (saving, 0.1),
}
"""Phase -> when it has begun, and the seconds from there within which the signal is sent."""


def disturb(path: Path, number: signal.Signals, moments: random.Random) -> Iterator[tuple[str, int, str]]:
    """Runs to the end, with signals on the way; yields (phase, status, standard error) of each that ended early.

    Raises:
      RuntimeError: a run failed by itself, or hangs.
    """
    folder, disturbed = RunFolder(path), True
    while True:
        begun = folder.config.is_file()
        place = ["--resume", str(path)] if begun else [*FLAGS, f"--out={path.parent}", f"--name={path.name}"]
        process = subprocess.Popen(
            [*COMMAND, *place],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        phase = moments.choice(list(PHASES))
        began, length = PHASES[phase]
        if disturbed:
            _when(lambda began=began, process=process: began(folder, process), process)
            time.sleep(moments.uniform(0, length))
            process.send_signal(number)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise RuntimeError(f"hangs after {number.name} while {phase}") from error
        if process.returncode == 0:
            return
        if not disturbed or process.returncode not in (-number, 128 + number):
            raise RuntimeError(f"status {process.returncode} after {number.name} while {phase}: {err.strip()[-300:]}")
        yield phase, process.returncode, err
        disturbed = moments.random() < AGAIN


def _when(begun: Callable[[], bool], process: subprocess.Popen) -> None:
    """Waits for a phase, or for the end."""
    while process.poll() is None and not begun():
        time.sleep(POLL)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


@functools.cache
def _like(path: Path) -> Any:
    config = from_json((path / "config.json").read_text(), "config")
    return jax.eval_shape(design(config, load_tokenizer(path).vocab_size).init)


def contents(path: Path, like: Any) -> dict[str, Any]:
    """What must be the same of two runs."""
    with Checkpoints(path / "checkpoints", 1) as checkpoints:
        states = {step: jax.tree.leaves(checkpoints.read(step, like)) for step in checkpoints.steps()}
    bits = {f"checkpoint {step}": [np.asarray(leaf).tobytes() for leaf in state] for step, state in states.items()}
    records = [{k: v for k, v in record.items() if k != "seconds"} for _, record in lines(path / "metrics.jsonl")]
    return {"metrics.jsonl": records, **bits}


class Trial:
    """All runs of one folder, against the one that nobody disturbed."""

    def __init__(self, work: Path):
        self.work, self.lock = work, threading.Lock()
        self.log = work / "outcomes.jsonl"
        self.whole = work / "whole"
        if not (self.whole / "curves.png").is_file():
            shutil.rmtree(self.whole, ignore_errors=True)
            subprocess.run([*COMMAND, *FLAGS, f"--out={work}", "--name=whole"], check=True, stdout=subprocess.PIPE)
        self.like = _like(self.whole)
        self.expected = contents(self.whole, self.like)

    def known(self) -> list[Outcome]:
        """What is done."""
        return [Outcome(**json.loads(line)) for line in _text(self.log).splitlines()]

    def run(self, number: signal.Signals, index: int) -> Outcome:
        """One run, from its first start to the comparison."""
        path = self.work / f"{number.name}-{index}"
        shutil.rmtree(path, ignore_errors=True)
        phases, wrong = [], ""
        try:
            for phase, status, err in disturb(path, number, random.Random(f"{number.name} {index}")):
                phases.append(phase)
                wrong = wrong or self.unsaved(path, number, status, err)
            with self.lock:
                found = contents(path, self.like)
            differing = [key for key in self.expected | found if self.expected.get(key) != found.get(key)]
            wrong = wrong or ", ".join(differing)
        except RuntimeError as error:
            wrong = str(error)
        outcome = Outcome(number.name, index, phases, wrong)
        with self.lock, self.log.open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
        if not wrong:
            shutil.rmtree(path)
        return outcome

    def unsaved(self, path: Path, number: signal.Signals, status: int, err: str) -> str:
        """What a run that was asked to end failed to do."""
        if number == signal.SIGKILL:
            return ""
        folder = RunFolder(path)
        last = max((record["step"] for _, record in lines(folder.metrics)), default=0)
        saved = (folder.checkpoints / str(last)).is_dir() or not folder.config.is_file()
        if status != 128 + number or "Traceback" in err or not saved:
            return f"status {status} after {number.name}, step {last} {'saved' if saved else 'not saved'}: {err[-300:]}"
        return ""


def measure(work: Path, wanted: dict[signal.Signals, int]) -> dict[str, Any]:
    """Runs what isn't done yet and counts."""
    trial = Trial(work)
    done = {(outcome.signal, outcome.number) for outcome in trial.known()}
    rest = [(s, i) for s, count in wanted.items() for i in range(count) if (s.name, i) not in done]
    begin = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for outcome in pool.map(lambda task: trial.run(*task), rest):
            phases = ", ".join(outcome.phases) or "undisturbed"
            print(f"{outcome.signal} {outcome.number}: {phases}: {outcome.wrong or 'identical'}", flush=True)
    print(f"{len(rest)} runs in {time.monotonic() - begin:.0f} s")
    return {number.name: figures(trial.known(), number.name) for number in wanted}


def figures(outcomes: list[Outcome], name: str) -> dict[str, Any]:
    """Counts of one signal."""
    mine = [outcome for outcome in outcomes if outcome.signal == name]
    phases = Counter(phase for outcome in mine for phase in outcome.phases)
    return {
        "runs": len(mine),
        "identical": sum(not outcome.wrong for outcome in mine),
        "signals": sum(phases.values()),
        "by phase": {phase: phases[phase] for phase in PHASES},
        "most in one run": max((len(outcome.phases) for outcome in mine), default=0),
    }


def parser() -> Parser:
    """Declares the arguments."""
    build = Parser(prog="python -m benchmarks.faults", description="Signals at random moments of tiny runs.")
    build.add_argument("--kills", type=whole, default=200, metavar="N", help="runs that get SIGKILL [200]")
    build.add_argument("--terms", type=whole, default=50, metavar="N", help="runs that get SIGTERM [50]")
    build.add_argument("--work", metavar="DIR", help="folder to keep what is done in [a temporary one]")
    return build


def run(arguments: list[str]) -> int:
    """Measures, prints, saves."""
    options = parser().parse(arguments)
    work = Path(options["work"] or tempfile.mkdtemp(prefix="faults-")).resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    found = measure(work, {signal.SIGKILL: options["kills"], signal.SIGTERM: options["terms"]})
    for name, counts in found.items():
        print(f"{name}: {counts['identical']} of {counts['runs']} runs identical after {counts['signals']} signals")
        print(f"  {', '.join(f'{count} {phase}' for phase, count in counts['by phase'].items())}")
    save(RESULTS / f"{machine()}.json", "faults", {**environment(), **found})
    return int(any(counts["identical"] < counts["runs"] for counts in found.values()))


def main() -> int:
    """The command."""
    return guarded("faults", lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
