"""Run a tuning: state its cost, train the settings that the search asks for, then judge the result on other seeds."""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from minigpt_flax.compare.jobs import WHOLE, OtherShares, Share, read_share, run_jobs, share_flag
from minigpt_flax.compare.progress import ComparisonProgress
from minigpt_flax.compare.runner import require_vmap
from minigpt_flax.compare.sweep import Stopped, final_loss, is_finished, train_group
from minigpt_flax.compare.traced_run import TracedRun, trace_run
from minigpt_flax.errors import Diverged, UserError
from minigpt_flax.invocation import line, show
from minigpt_flax.runs import files, loggers
from minigpt_flax.runs.records import read_run
from minigpt_flax.text import counted, tell
from minigpt_flax.train.build import build, check_memory
from minigpt_flax.train.clock import spell
from minigpt_flax.train.config.run_config import RunConfig, parsed
from minigpt_flax.train.memory import require_training
from minigpt_flax.train.optimizer import build_optimizer
from minigpt_flax.train.parallel import xla_flags
from minigpt_flax.train.stop import Stop
from minigpt_flax.tune import tuning as tunings
from minigpt_flax.tune.results import JUDGE, Trial, TuningResult
from minigpt_flax.tune.search import STAGES, Search, Setting, neighbors, spread
from minigpt_flax.tune.tuning import Tuning, Values

PAUSE = 0.5  # seconds between looks at the runs of other shares


def run_tuning(
    tuning: Tuning,
    folder: Path,
    *,
    vmap: bool = False,
    jobs: int = 1,
    share: str | None = None,
    shown: bool = True,
    notices: Sequence[str] = (),
) -> tuple[int, TuningResult | None]:
    """Trains all runs of a tuning that aren't finished.

    Args:
      tuning: what to search.
      folder: of the tuning, created if it doesn't exist.
      vmap: train the settings of a stage together, in one program.
      jobs: number of processes on this machine.
      share: ``I/N``: train only this part of each stage, and wait for the others; see `OtherShares`.
      shown: whether to print the plan and the progress.
      notices: lines to print to stderr after all checks.

    Returns:
      (0, the result), or (128 + the signal that ended it, None).

    Raises:
      UserError: the tuning can't be run as asked.
      TrainingFailed: every setting diverged, or a file can't be written.
    """
    xla_flags.require_jit()
    loggers.require(tuning.base.log)
    require_training(tuning.base)
    if (link := files.find_link(folder, [tunings.TRIALS])) is not None:
        raise UserError(f"{show(link)} is a symbolic link, through which files elsewhere would be changed: remove it")
    tuner = Tuner(tuning, folder, vmap=vmap, share=read_share(share), jobs=jobs)
    tuner.check()
    for text in notices:
        tell(text, file=sys.stderr)
    tunings.save(tuning, folder)
    if shown and share is None:
        tell(plan(tuning, folder))
    if jobs > 1 and share is None and (status := run_jobs(command(tuning, folder, vmap, shown), jobs, together=True)):
        return status, None
    shown = shown and (jobs == 1 or share is not None)
    with Stop() as stop, ComparisonProgress(tuning.total, shown=shown, moving=share is None) as progress:
        try:
            return 0, tuner.run(stop, progress)
        except Stopped:
            if shown:
                tell(f"stopped; continue with: {line('tune', '--resume', folder, *share_flag(share, jobs))}")
        return stop.status, None


def command(tuning: Tuning, folder: Path, vmap: bool, shown: bool) -> list[str]:
    """The command that continues a tuning."""
    more = [*["--vmap"] * vmap, *["--quiet"] * (not shown), *["--trust"] * tuning.trust]
    return [sys.executable, "-m", "minigpt_flax", "tune", "--resume", str(folder), *more]


def plan(tuning: Tuning, folder: Path) -> str:
    """What a tuning will train, in words."""
    sizes, seeds, count = tuning.plan, len(tuning.seeds), len(tuning.axes)
    each, full = f" x {seeds} seeds" * (seeds > 1), sizes.grid * sizes.steps * seeds
    if sizes.is_exhaustive:
        beyond = f", at most {sizes.refined - sizes.grid} beyond the ends of ranges" * (sizes.refined > sizes.grid)
        stages, share = f"all settings at {sizes.steps} steps{beyond}", "steps"
    else:
        stages = "at most " + ", ".join(f"{stage} {n} at {steps} steps" for stage, (n, steps) in sizes.lengths.items())
        share = f"steps, {100 * sizes.share:.0f} % of an exhaustive search ({full:,})"
    proxy = "" if tuning.proxy_width is None else f", width {tuning.proxy_width} in place of {tuning.width}"
    lines = [
        f"{show(folder)}: {tuning.base.opt} over {counted(count, 'keyword')}, {sizes.grid} settings{proxy}",
        *(f"  {axis}" for axis in tuning.axes),
        f"search: {stages}{each}: {sizes.budget * seeds:,} {share}",
    ]
    if tuning.judging_seeds:
        runs = 2 * tuning.judging_seeds
        lines.append(f"judging: at most {runs} runs with other seeds, {runs * sizes.steps:,} steps")
    return "\n".join(lines)


class Tuner:
    """The runs of a tuning.

    Args:
      tuning: what to search.
      folder: of the tuning.
      vmap: train runs of equal length in one program.
      share: (i, n): every n-th run of a stage from the i-th; the others are trained elsewhere.
      jobs: number of processes on this machine; if there are several, the one that started them watches them.
    """

    stop: Callable[[], bool]
    progress: ComparisonProgress

    def __init__(self, tuning: Tuning, folder: Path, *, vmap: bool = False, share: Share = WHOLE, jobs: int = 1):
        self.tuning, self.folder, self.vmap, self.share, self.jobs = tuning, folder, vmap, share, jobs
        self.programs: dict[RunConfig, TracedRun] = {}
        self.trials: list[Trial] = []
        self.started = time.monotonic()

    def check(self) -> None:
        """Checks every value of the grid, and the memory, before anything is trained.

        Raises:
          UserError: a value is refused, or the runs don't fit into memory.
        """
        center = spread(self.tuning.axes, 1)[0]
        for i, axis in enumerate(self.tuning.axes):
            for index in range(len(axis.values)):
                self.build((*center[:i], index, *center[i + 1 :]))
        run = self.program(self.tuning.config(self.tuning.values(center), traced=self.traced)).run
        check_memory(run, max(count for count, _ in self.tuning.plan.lengths.values()) if self.vmap else 1)
        if self.vmap:
            require_vmap(run)

    def build(self, setting: Setting) -> None:
        """Builds the optimizer of a setting.

        Raises:
          UserError: a value is refused.
        """
        build_optimizer(self.tuning.config(self.tuning.values(setting)), self.layout)

    def is_valid(self, setting: Setting) -> bool:
        """Whether the optimizer and the schedule accept a setting beyond the grid."""
        try:
            for axis, index in zip(self.tuning.axes, setting, strict=True):
                tunings.check_value(self.tuning, axis, axis.value(index) or 0.0)
            self.build(setting)
        except UserError:
            return False
        return True

    @cached_property
    def layout(self) -> object:
        """Layout of the parameters."""
        return build(self.tuning.base).layout

    @cached_property
    def traced(self) -> frozenset[str]:
        """The optimizer keywords that can be arguments of a compiled step; another one takes a program per value."""
        names = [axis.name for axis in self.tuning.axes if self.tuning.place(axis.name) == "opt"]
        return frozenset(names) if self.can_trace(names) else frozenset(n for n in names if self.can_trace([n]))

    def can_trace(self, names: Sequence[str]) -> bool:
        """Whether a program with these keywords as arguments can be built."""
        values = self.tuning.values(spread(self.tuning.axes, 1)[0])
        try:
            build(self.tuning.config(values, traced=names))
        except UserError:
            return False
        return True

    def run(self, stop: Callable[[], bool], progress: ComparisonProgress) -> TuningResult:
        """Searches, then judges.

        Args:
          stop: whether a stop was requested.
          progress: shows how far the runs are.

        Raises:
          Stopped: ``stop`` said so.
          Diverged: every setting did.
        """
        self.stop, self.progress, tuning = stop, progress, self.tuning
        search = Search(tuning.axes, tuning.plan, self.score, self.is_valid)
        best = search.run()
        loss = search.losses[STAGES[-1]][best]
        if not math.isfinite(loss):
            raise Diverged("every setting diverged, so there is no best one: search lower values, with another --name")
        values, near = tuning.values(best), neighbors(tuning.axes, best)
        known = {tuple(setting): value for setting, value in search.losses[STAGES[-1]].items()}
        sides = {
            name: [None if one is None else (tuning.values(one)[name], known.get(one)) for one in pair]
            for name, pair in near.items()
        }
        judged = {what: self.judge(chosen) for what, chosen in (("best", values), ("start", tuning.start))}
        return TuningResult(tuning, self.folder, values, loss, sides, judged if tuning.judged else {}, self.trials)

    def score(self, stage: str, settings: Sequence[Setting], steps: int) -> list[float]:
        """Mean final losses of settings over the search's seeds."""
        chosen = [self.tuning.values(setting) for setting in settings]
        losses = self.train(stage, [(values, seed) for values in chosen for seed in self.tuning.seeds], steps)
        count = len(self.tuning.seeds)
        return [statistics.fmean(losses[i : i + count]) for i in range(0, len(losses), count)]

    def judge(self, values: Values) -> list[float]:
        """Final losses with the judging seeds."""
        return self.train(JUDGE, [(values, seed) for seed in self.tuning.judged], self.tuning.steps)

    def train(self, stage: str, runs: Sequence[tuple[Values, int]], steps: int) -> list[float]:
        """Trains the unfinished ones of runs of equal length; returns the final losses of all.

        Raises:
          Stopped: ``stop`` said so.
        """
        paths: dict[Path, tuple[Values, RunConfig]] = {}
        for values, seed in runs:
            config = self.tuning.config(values, steps, seed, traced=self.traced)
            paths[self.tuning.path(self.folder, values, config)] = (values, config)
        index, count = self.share
        todo = {p: config for p, (_, config) in list(paths.items())[index::count] if not is_finished(p, config)}
        self.progress.over(steps * (len(paths) - len(todo)))
        for group in self.groups(todo):
            first = next(iter(group.values()))
            train_group(self.program(first), group, self.stop, self.shows(stage, group))
            self.report(stage, {path: paths[path][0] for path in group}, steps)
        self.await_others({path: config for path, (_, config) in paths.items()})
        trials = [Trial.read(stage, values, path) for path, (values, _) in paths.items()]
        self.trials += trials
        return [final_loss(path) for path in paths]

    def await_others(self, runs: Mapping[Path, RunConfig]) -> None:
        """Waits until the runs of the other shares have ended too.

        Raises:
          Stopped: ``stop`` said so.
          TrainingFailed: the others train nothing for a long time.
        """
        resume = ["tune", "--resume", str(self.folder), *["--trust"] * self.tuning.trust]
        others = OtherShares(resume, list(runs), self.share[1])
        for number, (path, config) in enumerate(runs.items()):
            while not is_finished(path, config):
                if self.stop():
                    raise Stopped
                if self.jobs == 1:
                    others.check(number)
                time.sleep(PAUSE)

    def groups(self, todo: Mapping[Path, RunConfig]) -> list[dict[Path, RunConfig]]:
        """Runs that train together: with ``vmap``, those of one program."""
        if not self.vmap:
            return [{path: config} for path, config in todo.items()]
        found: dict[RunConfig, dict[Path, RunConfig]] = {}
        for path, config in todo.items():
            found.setdefault(self.kind(config), {})[path] = config
        return list(found.values())

    def kind(self, config: RunConfig) -> RunConfig:
        """The configuration without what its program takes as arguments."""
        mark = lambda spec: dataclasses.replace(
            spec, keywords={n: None if isinstance(value, list) else value for n, value in spec.keywords.items()}
        )
        groups = tuple(dataclasses.replace(group, spec=mark(group.spec), lr=0.0) for group in config.group)
        constant = parsed("schedule", "constant")
        same = {"lr": 0.0, "seed": 0, "steps": self.tuning.steps, "eval_every": self.tuning.steps}
        return dataclasses.replace(config, **same, opt=mark(config.opt), group=groups, schedule=constant)

    def program(self, config: RunConfig) -> TracedRun:
        """The program of a run, compiled once; runs whose numbers are arguments share it."""
        kind = self.kind(config)
        if kind not in self.programs:
            self.programs[kind] = trace_run(build(config), self.tuning.steps)
        return self.programs[kind]

    def shows(self, stage: str, group: Mapping[Path, RunConfig]) -> Callable[[int, object], None]:
        """A callback that updates the progress bar."""
        count, steps = len(group), next(iter(group.values())).steps
        return lambda step, metrics: self.progress.at(f"{stage}, {count} runs: {step}/{steps}", step * count)

    def report(self, stage: str, group: Mapping[Path, Values], steps: int) -> None:
        """Reports the losses of runs, and removes their checkpoints.

        Raises:
          Stopped: the runs are unfinished because of a requested stop.
        """
        if self.stop():
            raise Stopped
        for path, values in group.items():
            files.remove_folder(path / "checkpoints")
            loss = final_loss(path)
            shown = "diverged" if math.isinf(loss) else f"loss {loss:.4f}"
            what = ", ".join(f"{name} {value:g}" for name, value in values.items() if value is not None)
            run = f"{stage}, {steps} steps, seed {read_run(path).config['seed']}: {what}"
            text = f"{spell(time.monotonic() - self.started):>7s}  {run}: {shown}"
            self.progress.over(steps, text)
