"""What a run survives: ``python -m benchmarks.faults [--kills N] [--terms N] [--work DIR]``.

Tiny runs get a signal at a random moment of one of four phases (starting, compiling, training, saving) and are then
resumed until they are done; some get further signals while they are resumed. Every one must end like an undisturbed
run: the same checkpoints, each tensor bit for bit, and the same records but for the clock. After SIGTERM the
status must be 143 and, where the run has a folder, the state saved.

Each run is a process of its own: every tenth a new interpreter, the others forked from one that has done the imports.
What is done is kept in DIR, so that this may be interrupted too. The figures go to
``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import json
import multiprocessing
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
from typing import Any, Protocol

import jax
import numpy as np

from benchmarks.results import RESULTS, environment, machine, save
from minigpt_flax.cli.entry import guarded, leave
from minigpt_flax.cli.parser import Parser, whole
from minigpt_flax.data import load_tokenizer
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.runs.records import lines
from minigpt_flax.train.build import make_setup
from minigpt_flax.train.checkpoint import Checkpoints
from minigpt_flax.train.config.stored import from_json
from minigpt_flax.train.parallel.xla_flags import device_per_core
from train import main as train

ROOT = Path(__file__).parents[1]
STEPS, EVERY, KEPT = 40, 5, 16
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
    "keep-every": KEPT,
    "log-every": 1,
    "sample-tokens": 0,
}
FLAGS = [f"--{name}={value}" for name, value in TINY.items()]
PATIENCE = 600.0  # seconds until a run counts as hanging
AGAIN = 0.25  # share of the resumed runs that get a signal too
COLD = 10  # one in so many runs is a new interpreter
AT_ONCE = 2
POLL = 0.002  # seconds


class Process(Protocol):
    """What ``subprocess`` and ``multiprocessing`` have in common."""

    @property
    def pid(self) -> int | None:
        """Its number."""

    def poll(self) -> int | None:
        """The status, as ``subprocess`` counts; None before the end."""


def cold(arguments: list[str], told: Path) -> Process:
    """Runs the command in a new interpreter; what it says on standard error goes to a file."""
    with told.open("wb") as file:
        command = [sys.executable, "-W", "error", str(ROOT / "train.py"), *arguments]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)


class Warm(multiprocessing.get_context("forkserver").Process):
    """Runs the command in a process that is forked after the imports."""

    def __init__(self, arguments: list[str], told: Path):
        super().__init__()
        self.arguments, self.told = arguments, told
        self.start()

    def run(self) -> None:
        """In the new process."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(self.told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        leave(train(self.arguments))

    def poll(self) -> int | None:
        """As ``subprocess`` has it."""
        return self.exitcode


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


def starting(folder: RunFolder, pid: int | None) -> bool:
    """The signals have handlers: the process imports, reads the data, builds the step."""
    status = _text(Path(f"/proc/{pid}/status"))
    caught = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt")), 0)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def compiling(folder: RunFolder, pid: int | None) -> bool:
    """The process holds the folder of the run; what takes time then is compiling."""
    return f"process {pid} " in _text(folder.path / ".lock")


def training(folder: RunFolder, pid: int | None) -> bool:
    """The log has changed since."""
    return compiling(folder, pid) and _time(folder.metrics) > _time(folder.path / ".lock")


def saving(folder: RunFolder, pid: int | None) -> bool:
    """A checkpoint is being written."""
    names = os.listdir(folder.checkpoints) if folder.checkpoints.is_dir() else []
    return training(folder, pid) and any(not name.isdecimal() for name in names)


PHASES = {phase.__name__: phase for phase in (starting, compiling, training, saving)}
"""Phase -> whether it has begun."""


def disturb(
    path: Path, number: signal.Signals, moments: random.Random, lengths: dict[str, float], launch: Callable
) -> Iterator[tuple[str, int, str]]:
    """Runs to the end, with signals on the way; yields (phase, status, standard error) of each that ended early.

    Raises:
      RuntimeError: a run failed without a signal, or hangs.
    """
    folder, told, disturbed = RunFolder(path), path.with_suffix(".err"), True
    while True:
        begun = folder.config.is_file()
        place = ["--resume", str(path)] if begun else [*FLAGS, f"--out={path.parent}", f"--name={path.name}"]
        process, phase = launch(place, told), moments.choice(list(PHASES))
        if disturbed:
            _until(lambda pid=process.pid, begun=PHASES[phase]: begun(folder, pid), process)
            time.sleep(moments.uniform(0, lengths[phase]))
            if process.poll() is None:
                os.kill(process.pid, number)
        if not _until(lambda: False, process):
            os.kill(process.pid, signal.SIGKILL)
            raise RuntimeError(f"hangs after {number.name} while {phase}")
        status, err = process.poll(), _text(told)
        if status == 0:
            return
        if not disturbed or status not in (-number, 128 + number):
            raise RuntimeError(f"status {status} after {number.name} while {phase}: {err.strip()[-300:]}")
        yield phase, status, err
        disturbed = moments.random() < AGAIN


def _until(happened: Callable[[], bool], process: Process) -> bool:
    """Waits for something, or for the end of the process; False if neither comes."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and not happened():
        if time.monotonic() > end:
            return False
        time.sleep(POLL)
    return True


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


def contents(path: Path, like: Any) -> dict[str, Any]:
    """What must be the same of two runs: a stop adds checkpoints of other steps."""
    with Checkpoints(path / "checkpoints", 1) as checkpoints:
        kept = [step for step in checkpoints.steps() if step == STEPS or (step and step % KEPT == 0)]
        states = {step: jax.tree.leaves(checkpoints.read(step, like)) for step in kept}
    bits = {f"checkpoint {step}": [np.asarray(leaf).tobytes() for leaf in state] for step, state in states.items()}
    records = [{k: v for k, v in record.items() if k != "seconds"} for _, record in lines(path / "metrics.jsonl")]
    return {"metrics.jsonl": records, **bits}


class Trial:
    """All runs of one folder, against the undisturbed one."""

    def __init__(self, work: Path):
        self.work, self.lock, self.log = work, threading.Lock(), work / "outcomes.jsonl"
        whole = work / "whole"
        self.lengths = self.undisturbed(whole)
        config = from_json((whole / "config.json").read_text(), "config").config
        self.like = jax.eval_shape(make_setup(config, load_tokenizer(whole)).init)
        self.expected = contents(whole, self.like)

    def undisturbed(self, path: Path) -> dict[str, float]:
        """Makes the run that the others are compared with; returns how long each phase lasted.

        It is made twice: the first time everything is compiled, and kept.
        """
        for _ in range(2):
            shutil.rmtree(path, ignore_errors=True)
            process = Warm([*FLAGS, f"--out={path.parent}", f"--name={path.name}"], path.with_suffix(".err"))
            times = {}
            for name in ("starting", "compiling", "training"):
                _until(lambda begun=PHASES[name], pid=process.pid: begun(RunFolder(path), pid), process)
                times[name] = time.monotonic()
            _until(lambda: (path / "checkpoints" / str(STEPS)).is_dir(), process)
            ends = [*list(times.values())[1:], time.monotonic()]
            _until(lambda: False, process)
            if process.poll():
                raise RuntimeError(_text(path.with_suffix(".err")))
        lengths = {name: end - begin for (name, begin), end in zip(times.items(), ends, strict=True)}
        return {**lengths, "saving": 2 * lengths["training"] / (STEPS / EVERY)}

    def known(self) -> list[Outcome]:
        """What is done."""
        return [Outcome(**json.loads(line)) for line in _text(self.log).splitlines()]

    def run(self, number: signal.Signals, index: int) -> Outcome:
        """One run, from its first start to the comparison."""
        path, moments = self.work / f"{number.name}-{index}", random.Random(f"{number.name} {index}")
        launch = Warm if index % COLD else cold
        phases, wrong = [], ""
        try:
            while not phases:  # the signal may come too late
                shutil.rmtree(path, ignore_errors=True)
                for phase, status, err in disturb(path, number, moments, self.lengths, launch):
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
    print(", ".join(f"{phase} {length:.2f} s" for phase, length in trial.lengths.items()), flush=True)
    done = {(outcome.signal, outcome.number) for outcome in trial.known()}
    every = [(number, i) for i in range(max(wanted.values())) for number, count in wanted.items() if i < count]
    rest = [(number, i) for number, i in every if (number.name, i) not in done]
    begin = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for outcome in pool.map(lambda task: trial.run(*task), rest):
            phases = ", ".join(outcome.phases)
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
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["minigpt_flax.train.run", "matplotlib.pyplot"])
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    device_per_core()  # the process that the others are forked from imports JAX before train.py says it
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
