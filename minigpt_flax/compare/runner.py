"""Run a comparison: report its cost, then train in one or several processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from minigpt_flax.compare import comparison as comparisons, rate_search, sequential
from minigpt_flax.compare.collect import collect_runs, summarize_comparison
from minigpt_flax.compare.comparison import Candidate, Comparison
from minigpt_flax.compare.jobs import read_share, run_jobs, share_flag
from minigpt_flax.compare.paired_tests import resolved
from minigpt_flax.compare.progress import ComparisonProgress
from minigpt_flax.compare.sweep import Stopped, Sweep
from minigpt_flax.compare.tables import power
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import line, show
from minigpt_flax.runs import files, loggers
from minigpt_flax.text import tell
from minigpt_flax.train.build import Run, build, check_memory
from minigpt_flax.train.memory import require_training
from minigpt_flax.train.parallel import xla_flags
from minigpt_flax.train.stop import Stop


def run_comparison(
    comparison: Comparison,
    folder: Path,
    *,
    vmap: bool = False,
    jobs: int = 1,
    share: str | None = None,
    shown: bool = True,
    notices: tuple[str, ...] = (),
) -> int:
    """Trains all runs of a comparison that aren't finished.

    Args:
      comparison: what to run.
      folder: of the comparison, created if it doesn't exist.
      vmap: train runs of one candidate together.
      jobs: number of processes on this machine.
      share: ``I/N``: only this part of the work.
      shown: whether to print the progress.
      notices: lines to print to stderr after all checks.

    Returns:
      0, or 128 + the signal that ended it.

    Raises:
      UserError: the comparison can't be run as asked.
      TrainingFailed: a file can't be written.
    """
    read_share(share)
    if share is not None and jobs == 1 and comparison.looks:
        raise UserError("--seeds auto decides in one process when to add seeds: omit --share, or use --jobs")
    xla_flags.require_jit()
    for candidate in comparison.candidates:  # a mistake in the last one's spec shows before the first one trains
        check_candidate(comparison, candidate, vmap)
    link = files.find_link(folder, [candidate.folder for candidate in comparison.candidates])
    if link is not None:
        raise UserError(f"{show(link)} is a symbolic link, through which files elsewhere would be changed: remove it")
    for text in notices:
        tell(text, file=sys.stderr)
    comparisons.save(comparison, folder)
    if shown and share is None:
        tell(f"{show(folder)}: {plan(comparison)}")
        for text in expected_power(comparison, folder):
            tell(text)
    how: dict[str, Any] = {"vmap": vmap, "jobs": jobs, "share": share, "shown": shown}
    status = train_seeds(comparison, folder, **how)
    while not status and share is None and (larger := with_more_seeds(comparison, folder)) is not None:
        comparison = larger
        comparisons.save(comparison, folder)
        if shown:
            tell(f"undecided: {len(comparison.seeds)} of at most {comparison.max_seeds} seeds")
        status = train_seeds(comparison, folder, **how)
    return status


def plan(comparison: Comparison) -> str:
    """What a comparison will train, in numbers of candidates, runs and steps."""
    most = "at most " * comparison.is_open
    runs, steps = f"{most}{comparison.runs} runs", f"{most}{comparison.budget:,} steps in all"
    return f"{len(comparison.candidates)} candidates, {runs}, {steps}"


def with_more_seeds(comparison: Comparison, folder: Path) -> Comparison | None:
    """The comparison with the seeds of the next look; None if all tests are decided, or their number is fixed."""
    if not comparison.looks:
        return None
    summary = summarize_comparison(comparison, collect_runs(comparison, folder))
    tested = len(comparison.seeds) - comparison.selecting_seeds
    more = sequential.next_look(summary.tests, tested, comparison.looks, comparison.resolution)
    return None if more is None else comparison.with_seeds(more + comparison.selecting_seeds)


def train_seeds(comparison: Comparison, folder: Path, *, vmap: bool, jobs: int, share: str | None, shown: bool) -> int:
    """Trains the unfinished runs of the seeds so far; see :func:`run_comparison`."""
    if jobs > 1 and share is None:
        return run_jobs(command(folder, vmap, shown, comparison.trust), jobs)
    with Stop() as stop, ComparisonProgress(comparison.budget, shown=shown, moving=share is None) as progress:
        try:
            Sweep(comparison, folder, stop, progress, vmap=vmap, share=read_share(share)).run()
        except Stopped:
            if shown:
                tell(f"stopped; continue with: {line('compare', '--resume', folder, *share_flag(share, jobs))}")
        return stop.status


def expected_power(comparison: Comparison, folder: Path) -> list[str]:
    """What a fixed number of seeds can decide, with the noise of the runs that have finished, if there are any."""
    seeds, needed = len(comparison.seeds), comparison.seeds_needed
    if comparison.widths:
        return []
    if seeds < needed:
        return [f"{seeds} seeds can't give a verdict, {needed} can: --seeds {needed} continues this comparison"]
    if comparison.looks:
        return []
    summary = summarize_comparison(comparison, collect_runs(comparison, folder))
    tested = seeds - comparison.selecting_seeds
    smallest = resolved(summary.tests, tested)
    return [] if smallest is None else [f"with the noise of the finished runs: {power(tested, smallest)}"]


def check_candidate(comparison: Comparison, candidate: Candidate, vmap: bool) -> None:
    """Refuses a candidate that can't be trained.

    Raises:
      UserError: a spec is wrong, a package is missing, or its runs don't fit into memory.
    """
    config = comparison.config(candidate)
    loggers.require(config.log)
    require_training(config)
    run = build(config)
    check_memory(run, runs_at_once(comparison, candidate, vmap))
    if vmap:
        require_vmap(run)


def require_vmap(run: Run) -> None:
    """Refuses a run that can't train together with others.

    Raises:
      UserError: it rolls back.
    """
    if run.on_nan.rollbacks:
        raise UserError(
            "--vmap trains runs in lockstep, and can't roll back a single run: omit --vmap, or use --on-nan skip"
        )


def runs_at_once(comparison: Comparison, candidate: Candidate, vmap: bool) -> int:
    """Number of runs that a process trains at once: with ``--vmap``, all runs of a candidate with the same length."""
    if not vmap:
        return 1
    seeds = len(comparison.seeds)
    return max(rate_search.COUNT_LONG, seeds) if comparison.search else len(comparison.rates(candidate)) * seeds


def command(folder: Path, vmap: bool, shown: bool = True, trust: bool = False) -> list[str]:
    """The command that continues a comparison."""
    more = [*["--vmap"] * vmap, *["--quiet"] * (not shown), *["--trust"] * trust]
    return [sys.executable, "-m", "minigpt_flax", "compare", "--resume", str(folder), *more]
