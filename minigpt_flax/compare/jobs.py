"""Divide the work of a command among processes on one machine, or among hosts with one folder."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from minigpt_flax.errors import TrainingFailed, UserError
from minigpt_flax.invocation import line
from minigpt_flax.progress import Reminder
from minigpt_flax.train.stop import PARENT, Stop

Share = tuple[int, int]  # (index, number of shares)
WHOLE: Share = (0, 1)
SILENCE = 30 * 60.0  # seconds in which the runs of another share don't change, after which this one stops to wait


def read_share(text: str | None) -> Share:
    """Reads ``--share``.

    Raises:
      UserError: it has another form.

    >>> read_share("1/4"), read_share(None)
    ((1, 4), (0, 1))
    """
    if text is None:
        return WHOLE
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise UserError(f"--share takes I/N with I from 0 to N - 1, such as 0/2 and 1/2; got {text!r}")
    return int(found[1]), int(found[2])


def share_flag(share: str | None, jobs: int) -> list[str]:
    """The flag of a share on another host, for the command that continues it; a job is continued with all others.

    >>> share_flag("1/4", 1), share_flag("0/2", 2), share_flag(None, 1)
    (['--share=1/4'], [], [])
    """
    return [] if share is None or jobs > 1 else [f"--share={share}"]


class OtherShares:
    """The runs of the other shares, for a process that waits until these have ended.

    Args:
      command: that trains them, without ``--share``.
      runs: folders of all runs, in the order in which they were divided.
      count: number of shares.
    """

    def __init__(self, command: Sequence[str], runs: Sequence[Path], count: int):
        self._command, self._runs, self._count = command, runs, count
        self._remind = Reminder()
        self._seen: list[int] = []
        self._changed = time.monotonic()

    def check(self, number: int) -> None:
        """Says which share is awaited, each minute.

        Args:
          number: of the first run that isn't finished.

        Raises:
          TrainingFailed: the unfinished runs haven't changed for `SILENCE` seconds.
        """
        name = f"{number % self._count}/{self._count}"
        start = line(*self._command, f"--share={name}")
        seen = [_changed_at(run) for run in self._runs[number:]]
        if seen != self._seen:
            self._seen, self._changed = seen, time.monotonic()
        if time.monotonic() - self._changed > SILENCE:
            raise TrainingFailed(
                f"share {name} has trained nothing for {SILENCE / 60:.0f} min: start it with {start}, then repeat this "
                "command; finished runs are kept"
            )
        self._remind(f"waiting for share {name}; if it isn't running: {start}")


def _changed_at(run: Path) -> int:
    """Time in ns at which a run was last written to; 0 if it doesn't exist."""
    times = [0]
    for path in (run, run / "metrics.jsonl", run / "checkpoints"):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime_ns)
    return max(times)


def leave_accelerator_to(jobs: int) -> None:
    """Before JAX starts: with several jobs, the first process must not reserve most of an accelerator's memory."""
    if jobs > 1:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def run_jobs(words: Sequence[str], jobs: int, *, together: bool = False) -> int:
    """Runs a command in several processes, each with its share of the work and of the cores.

    Args:
      words: the command, which takes ``--jobs`` and ``--share``.
      jobs: number of processes.
      together: whether the others can't finish after one has failed.

    Returns:
      0, or the status of a process that failed, or 128 + the signal that ended one.
    """
    with Stop() as stop, contextlib.ExitStack() as opened:
        # The pipe, which nothing is written to, closes with this process, however it ends; the children end then.
        start = functools.partial(subprocess.Popen, stdin=subprocess.PIPE, env={**os.environ, PARENT: "stdin"})
        # Told of the jobs, a share keeps its end to itself.
        shares = [[*words, f"--jobs={jobs}", f"--share={i}/{jobs}"] for i in range(jobs)]
        children = [opened.enter_context(start(share)) for share in shares]
        for i, child in enumerate(children):
            _keep_to_cores(child.pid, i, jobs)
        while any(child.poll() is None for child in children):
            if stop() or any(_by_signal(child.returncode) or together and child.returncode for child in children):
                for child in children:
                    child.terminate()
            for child in children:
                try:
                    child.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    continue
        failed = [child.returncode for child in children if child.returncode]
        return stop.status or (abs(failed[0]) + 128 * (failed[0] < 0) if failed else 0)


def _by_signal(status: int | None) -> bool:
    """Whether a signal or a closed output pipe ended a process."""
    return status is not None and (status < 0 or status > 128)


def _keep_to_cores(process: int, index: int, count: int) -> None:
    """Pins a new process to its share of the cores, if the system supports it, so that thread pools don't compete."""
    if hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))[index::count]
        with contextlib.suppress(ProcessLookupError):  # it has ended already, and says why itself
            os.sched_setaffinity(process, mine or os.sched_getaffinity(0))
