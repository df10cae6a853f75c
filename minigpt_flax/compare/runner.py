"""A comparison from beginning to end: say what it costs, train, alone or in several processes."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

from minigpt_flax.cli.parser import tell_repeated
from minigpt_flax.compare import comparison as contests
from minigpt_flax.compare.comparison import Contest, Contestant
from minigpt_flax.compare.progress import Meter
from minigpt_flax.compare.sweep import Share, Stopped, Sweep
from minigpt_flax.console.output import tell
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import line, show
from minigpt_flax.runs import files
from minigpt_flax.train.build import build, fits
from minigpt_flax.train.memory import require_training
from minigpt_flax.train.parallel import xla_flags
from minigpt_flax.train.stop import PARENT, Stop


def conduct(
    contest: Contest, folder: Path, *, vmap: bool = False, jobs: int = 1, share: str | None = None, shown: bool = True
) -> int:
    """Trains all runs of a comparison that aren't finished.

    Args:
      contest: what to run.
      folder: of the comparison; made if it isn't there.
      vmap: train runs of one contestant together.
      jobs: processes on this machine.
      share: ``I/N``: only this part of the work.
      shown: whether somebody wants to be told what goes on.

    Returns:
      Exit status: 0, or 128 + the signal that ended it.

    Raises:
      UserError: what was asked for can't be done.
      Failed: something can't be written.
    """
    mine = _share(share)
    xla_flags.require_jit()
    for who in contest.contestants:  # a mistake in the last one's words shows before the first one trains
        config = contest.config(who)
        require_training(config)
        fits(build(config), at_once(contest, who, vmap))
    link = files.find_link(folder, [who.folder for who in contest.contestants])
    if link is not None:
        raise UserError(f"{show(link)} is a symbolic link, through which files elsewhere would be changed: remove it")
    tell_repeated()
    contests.save(contest, folder)
    if shown and share is None:
        who = f"{len(contest.contestants)} contestants"
        tell(f"{show(folder)}: {who}, {contest.runs} runs, {contest.budget:,} steps in all")
    if jobs > 1 and share is None:
        return _spawn(folder, jobs, vmap, shown)
    with Stop() as stop, Meter(contest.budget, told=shown, moving=share is None) as meter:
        try:
            Sweep(contest, folder, stop, meter, vmap=vmap, share=mine).run()
        except Stopped:
            if shown:
                tell(f"stopped; continue with: {line('compare', '--resume', folder)}")
        return stop.status


def at_once(contest: Contest, who: Contestant, vmap: bool) -> int:
    """Runs that a process trains at the same time: with ``--vmap`` all of a contestant that have the same length."""
    if not vmap:
        return 1
    rates = len(contest.rates(who))
    return max(rates, len(contest.seeds)) if contest.search else rates * len(contest.seeds)


def _share(text: str | None) -> Share:
    """Reads ``--share``.

    >>> _share("1/4"), _share(None)
    ((1, 4), (0, 1))
    """
    if text is None:
        return 0, 1
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise UserError(f"--share takes I/N with I from 0 to N - 1, such as 0/2 and 1/2; got {text!r}")
    return int(found[1]), int(found[2])


def command(folder: Path, vmap: bool, shown: bool = True) -> list[str]:
    """What goes on with a comparison, as it is typed."""
    more = [*["--vmap"] * vmap, *["--quiet"] * (not shown)]
    return [sys.executable, "-m", "minigpt_flax", "compare", "--resume", str(folder), *more]


def _spawn(folder: Path, jobs: int, vmap: bool, shown: bool) -> int:
    """Gives each of so many processes its share and, where the system can, its cores; what one prints, all print."""
    with Stop() as stop, contextlib.ExitStack() as opened:
        # Told of the jobs, a share keeps its end to itself.
        words = [*command(folder, vmap, shown), f"--jobs={jobs}"]
        # The pipe, which nothing is written to, closes with this process, however it ends; the children end then.
        start = functools.partial(subprocess.Popen, stdin=subprocess.PIPE, env={**os.environ, PARENT: "stdin"})
        children = [opened.enter_context(start([*words, f"--share={i}/{jobs}"])) for i in range(jobs)]
        for i, child in enumerate(children):
            _keep_to_cores(child.pid, i, jobs)
        while any(child.poll() is None for child in children):
            if stop() or any(_by_signal(child.returncode) for child in children):
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
    """Whether a process was ended by a signal, or by the end of its output's reader."""
    return status is not None and (status < 0 or status > 128)


def _keep_to_cores(process: int, index: int, count: int) -> None:
    """Gives a new process its part of the cores, where the system can: pools of threads for all cores would quarrel."""
    if hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))[index::count]
        with contextlib.suppress(ProcessLookupError):  # it has ended already, and says why itself
            os.sched_setaffinity(process, mine or os.sched_getaffinity(0))
