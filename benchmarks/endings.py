"""What every command leaves when it is killed: ``python -m benchmarks.endings [--kills N] [--work DIR]``.

The commands ``train``, ``compare --jobs 2``, ``export``, ``prepare``, ``report`` and ``diagnose`` are each started in a
session of their own, get SIGKILL, SIGTERM or SIGHUP at a random moment, and are then typed again. After
the signal no process of the session may be left, and under every final name there is nothing or the complete file;
after the end everything must be as in the run that got no signal: every tensor of every checkpoint bit for bit, every
record but for the clock, every other file byte for byte. The figures go to ``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from benchmarks.results import RESULTS, environment, machine, save
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, whole
from minigpt_flax.runs.records import lines
from minigpt_flax.train.build import make_setup
from minigpt_flax.train.checkpoint import Checkpoints
from minigpt_flax.train.restore import settings_of

ROOT = Path(__file__).parents[1]
TINY = "--preset nano --layers 1 --heads 2 --width 16 --context 8 --batch-size 4 --log-every 1"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
LEFT = 5.0  # seconds after which no process may be left
AT_ONCE = 2


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
      words: as typed, with ``{out}`` for the path that it makes and ``{run}`` for a finished run.
      again: what continues it; None types the same words.
      path: that it makes, below the work folder of the case.
    """

    words: str
    path: str
    again: str | None = None


COMMANDS = {
    "train": Command(
        f"train {TINY} --data {{text}} --steps 400 --eval-every 50 --sample-tokens 8 --bias --mlp gelu_tanh "
        "--out {work} --name out",
        "out",
        again="train --resume {out}",
    ),
    "compare": Command(
        f"compare {TINY} --data {{text}} --steps 60 --eval-every 20 --opt adamw --opt lion --seeds 3 --jobs 2 "
        "--out {work} --name out",
        "out",
    ),
    "export": Command("export {run} --out {out}", "out"),
    "prepare": Command("prepare {text} --tokenizer byte --out {out}", "out"),
    "report": Command("report {run} --out {out}", "out.html"),
    "diagnose": Command("diagnose {run} --only noise --out {out}", "out"),
}


class Case:
    """One command in a folder of its own."""

    def __init__(self, name: str, work: Path, run: Path):
        self.command, self.work, self.run = COMMANDS[name], work, run
        self.out = work / self.command.path
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)

    def start(self) -> subprocess.Popen:
        """Types the command, or what continues it."""
        begun = self.command.again and (self.out / "config.json").is_file()
        words = (self.command.again if begun else self.command.words) or ""
        places = {"out": self.out, "work": self.work, "run": self.run, "text": ROOT / "LICENSE"}
        typed = [part.format(**places) for part in words.split()]
        with (self.work / "stderr").open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "minigpt_flax", *typed],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,
            )

    def contents(self) -> dict[str, str]:
        """Digest of everything that it made, by name; clocks and names of machines left out."""
        if self.out.is_file():
            return {self.out.name: digest(self.out)}
        found: dict[str, str] = {}
        for folder in sorted({path.parent for path in self.out.rglob("config.json")}):
            if (folder / "env.json").is_file():
                found |= {f"{folder.relative_to(self.out)}/{name}": value for name, value in of_run(folder)}
        plain = [path for path in self.out.rglob("*") if path.is_file() and not inside_run(path, self.out)]
        return found | {str(path.relative_to(self.out)): digest(path) for path in plain}


def inside_run(path: Path, top: Path) -> bool:
    """Whether a file lies in the folder of a run."""
    between = [path.parent, *path.parents]
    return any((folder / "env.json").is_file() for folder in between if folder.is_relative_to(top))


CLOCK = re.compile(rb'"?(seconds|ms_per_step|tokens_per_second|secs|ms)"?[:,]\s*[-0-9.e]+')


def digest(path: Path) -> str:
    """Hash of a file; results of a comparison tell times, and pictures draw them."""
    if path.name.startswith("results.") or path.suffix in (".png", ".svg"):
        return "there"
    return hashlib.sha256(CLOCK.sub(b"", path.read_bytes())).hexdigest()


def of_run(folder: Path) -> Iterator[tuple[str, str]]:
    """Digest of a run's records and of its last checkpoint."""
    records = [{k: v for k, v in record.items() if k != "seconds"} for _, record in lines(folder / "metrics.jsonl")]
    yield "metrics.jsonl", hashlib.sha256(repr(records).encode()).hexdigest()
    _, config, tokenizer = settings_of(folder)
    with Checkpoints(folder / "checkpoints", 1) as checkpoints:
        for step in checkpoints.steps()[-1:]:
            state = checkpoints.read(step, jax.eval_shape(make_setup(config, tokenizer).init))
            leaves = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
            yield f"checkpoint {step}", hashlib.sha256(leaves).hexdigest()


def killed(case: Case, number: signal.Signals, moment: float) -> str:
    """Signals the command; returns what it left that it should not."""
    process = case.start()
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    status = process.wait(timeout=300)
    if status not in (0, -number, 128 + number):
        return f"status {status} after {number.name}"
    end = time.monotonic() + LEFT
    while left := session_of(process.pid):
        if time.monotonic() > end:
            return f"processes {left} are left"
        time.sleep(0.05)
    return ""


def session_of(leader: int) -> list[int]:
    """Processes that run in the session of another."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if entry.name.isdecimal() and int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def outcome(name: str, work: Path, run: Path, expected: dict[str, str], seconds: float, seed: int) -> str:
    """One case from its first start to the comparison; returns what was wrong, or nothing."""
    moments, case = random.Random(seed), Case(name, work, run)
    wrong = killed(case, moments.choice(SIGNALS), moments.uniform(0, seconds))
    if not wrong and case.command.again is None and case.out.exists() and name not in ("compare", "diagnose"):
        differing = [key for key, value in case.contents().items() if expected.get(key) != value]
        wrong = f"under its final name, and not complete: {', '.join(differing)}" if differing else ""
    if name in ("export", "prepare") and case.out.exists():
        shutil.rmtree(case.out)
    process = case.start()
    if not wrong and process.wait(timeout=600):
        wrong = f"status {process.returncode} when typed again: {(work / 'stderr').read_text()[-300:]}"
    if not wrong:
        found = case.contents()
        differing = [key for key in found | expected if found.get(key) != expected.get(key)]
        wrong = f"differs in {', '.join(differing)}" if differing else ""
    extra = [entry.name for entry in work.iterdir() if entry.name not in ("stderr", case.command.path)]
    if "Traceback" in (work / "stderr").read_text():
        wrong = wrong or f"traceback: {(work / 'stderr').read_text()[-300:]}"
    return wrong or (f"left behind: {', '.join(extra)}" if extra else "")


def measure(work: Path, kills: int) -> dict[str, dict[str, int]]:
    """Runs all cases and counts."""
    whole_run = Case("train", work / "whole", work)
    wait_for(whole_run.start())
    expected, seconds = {}, {}
    for name in COMMANDS:
        case, begun = Case(name, work / f"{name}-whole", whole_run.out), time.monotonic()
        wait_for(case.start())
        expected[name], seconds[name] = case.contents(), time.monotonic() - begun
        print(f"{name}: {seconds[name]:.1f} s, {len(expected[name])} things to compare", flush=True)
    names = list(COMMANDS)

    def one(number: int) -> tuple[str, str]:
        name = names[number % len(names)]
        where = work / f"{name}-{number}"
        wrong = outcome(name, where, whole_run.out, expected[name], seconds[name], number)
        print(f"{number} {name}: {wrong or 'as if undisturbed'}", flush=True)
        return name, wrong

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(one, range(kills)))
    right = Counter(name for name, wrong in results if not wrong)
    every = Counter(name for name, _ in results)
    return {name: {"kills": every[name], "as if undisturbed": right[name]} for name in names}


def wait_for(process: subprocess.Popen) -> None:
    """Waits for a command that nothing disturbs."""
    if process.wait():
        raise RuntimeError(f"{process.args} ended with status {process.returncode}")


def run(arguments: list[str]) -> int:
    """Measures, prints, saves."""
    build = Parser(prog="python -m benchmarks.endings", description="Signals at random moments of every command.")
    build.add_argument("--kills", type=whole, default=100, metavar="N", help="commands that get a signal [100]")
    build.add_argument("--work", metavar="DIR", help="folder to work in [a temporary one]")
    options = build.parse(arguments)
    work = Path(options["work"] or tempfile.mkdtemp(prefix="endings-")).resolve()
    os.environ |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(work / "cache")}
    found = measure(work, options["kills"])
    for name, counts in found.items():
        print(f"{name}: {counts['as if undisturbed']} of {counts['kills']}")
    save(RESULTS / f"{machine()}.json", "endings", {**environment(), **found})
    return int(any(counts["as if undisturbed"] < counts["kills"] for counts in found.values()))


def main() -> int:
    """The command."""
    report: Callable[[], int] = lambda: run(sys.argv[1:])
    return guarded("endings", report)


if __name__ == "__main__":
    sys.exit(main())
