"""Train the unfinished runs of a comparison: sequentially, or with ``--vmap`` those of one optimizer at once."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from minigpt_flax.compare import rate_search
from minigpt_flax.compare.comparison import Candidate, Comparison
from minigpt_flax.compare.jobs import WHOLE, Share
from minigpt_flax.compare.progress import ComparisonProgress
from minigpt_flax.compare.traced_run import TracedRun, trace_run
from minigpt_flax.errors import Diverged
from minigpt_flax.runs import files
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.runs.metrics_log import MetricsLog
from minigpt_flax.runs.records import read_run
from minigpt_flax.runs.schema import LOSS
from minigpt_flax.text import counted
from minigpt_flax.train.artifacts import write_sample
from minigpt_flax.train.build import build
from minigpt_flax.train.callbacks import StepCallback, as_callback
from minigpt_flax.train.clock import spell
from minigpt_flax.train.config.run_config import RunConfig, parsed
from minigpt_flax.train.fit_many import fit_many
from minigpt_flax.train.loop import fit
from minigpt_flax.train.registry import REGISTRIES
from minigpt_flax.train.restore import restore


class Stopped(Exception):
    """The user asked to end before all runs were done."""


class Sweep:
    """The runs of a comparison that this process trains.

    Args:
      comparison: what to run.
      folder: of the comparison.
      stop: whether a stop was requested.
      progress: shows how far the runs are.
      vmap: train the runs of a candidate that have the same length in one program.
      share: (i, n): every n-th unit of work from the i-th; a unit is a candidate, or one of its seeds without a search.
    """

    def __init__(
        self,
        comparison: Comparison,
        folder: Path,
        stop: Callable[[], bool],
        progress: ComparisonProgress,
        *,
        vmap: bool = False,
        share: Share = WHOLE,
    ):
        self.comparison, self.folder, self.stop, self.progress = comparison, folder, stop, progress
        self.vmap, self.share = vmap, share
        self.programs: dict[RunConfig, TracedRun] = {}
        self.found: dict[str, float] = {}  # the learning rate that a search selected, by the candidate's name
        self.started = time.monotonic()

    def run(self) -> None:
        """Trains everything.

        Raises:
          Stopped: ``stop`` said so.
        """
        for candidate, seeds in self.units():
            rates = self.rates(candidate)
            full = [self.comparison.config(candidate, lr, None, seed) for lr in rates for seed in seeds]
            self.train(candidate, full)

    def units(self) -> list[tuple[Candidate, tuple[int, ...]]]:
        """The work of this process: pairs of a candidate and its seeds, of which there are none while it only searches.

        Several processes that compare widths first divide the searches, and the compared runs after all of them.
        """
        comparison, (index, count) = self.comparison, self.share
        whole = [(candidate, comparison.seeds) for candidate in comparison.candidates]
        single = [(candidate, (seed,)) for candidate, seeds in whole for seed in seeds]
        if count == 1 or comparison.search and not comparison.widths:
            return whole[index::count]
        if not is_searched(comparison, self.folder):
            return [(candidate, ()) for candidate in comparison.searching][index::count]
        return single[index::count]

    def rates(self, candidate: Candidate) -> list[float]:
        """The learning rates of the compared runs, searched if that was asked for."""
        if not self.comparison.search:
            return self.comparison.rates(candidate)
        source = self.comparison.source(candidate)
        if source.name not in self.found:
            self.found[source.name] = self.search(source)
        best, widths = self.found[source.name], self.comparison.widths
        return rate_search.for_widths(best, widths) if widths else [best]

    def search(self, candidate: Candidate) -> float:
        """Searches the candidate's learning rate with a separate seed."""
        comparison, unspent = self.comparison, sum(rate_search.lengths(self.comparison.steps))

        def score(rates: Sequence[float], steps: int) -> list[float]:
            nonlocal unspent
            configs = [comparison.config(candidate, lr, steps, comparison.search_seed) for lr in rates]
            self.train(candidate, configs)
            unspent -= steps * len(rates)
            return [final_loss(comparison.path(self.folder, candidate, config)) for config in configs]

        best = rate_search.search(comparison.rates(candidate)[0], comparison.steps, score)
        self.progress.over(unspent)
        return best

    def train(self, candidate: Candidate, configs: Sequence[RunConfig]) -> None:
        """Trains the unfinished runs.

        Raises:
          Stopped: ``stop`` said so.
        """
        paths = {self.comparison.path(self.folder, candidate, config): config for config in configs}
        todo = {path: config for path, config in paths.items() if not is_finished(path, config)}
        self.progress.over(sum(config.steps for path, config in paths.items() if path not in todo))
        for path, config in paths.items():
            if path not in todo:
                write_missing_sample(path, config)
        if not todo:
            return
        program = self.program(candidate)
        for group in [todo] if self.vmap else [{path: config} for path, config in todo.items()]:
            train_group(program, group, self.stop, self.shows(candidate, group))
            self.report(candidate, group)

    def shows(self, candidate: Candidate, group: Mapping[Path, RunConfig]) -> StepCallback:
        """A callback that updates the progress bar."""
        first = next(iter(group.values()))
        what = candidate.name if len(group) > 1 else f"{candidate.name} lr {first.lr:g} seed {first.seed}"
        return lambda step, metrics: self.progress.at(f"{what}: {step}/{first.steps}", step * len(group))

    def program(self, candidate: Candidate) -> TracedRun:
        """The candidate's program, compiled once; the next candidate shares it if only its schedule differs."""
        config = self.comparison.config(candidate)
        kind = dataclasses.replace(config, lr=RunConfig.lr, schedule=parsed("schedule", "constant"))
        if kind not in self.programs:
            self.programs = {kind: trace_run(build(config), self.comparison.steps)}
        return self.programs[kind]

    def report(self, candidate: Candidate, group: Mapping[Path, RunConfig]) -> None:
        """Reports the losses of runs, and removes files that only a continuation of the search's runs needs.

        Raises:
          Stopped: the runs are unfinished because of a requested stop.
        """
        if self.stop():
            raise Stopped
        for path, config in group.items():
            if config.steps < self.comparison.steps:
                files.remove_folder(path / "checkpoints")
            loss = final_loss(path)
            shown = "diverged" if math.isinf(loss) else f"loss {loss:.4f}"
            what = f"{candidate.name} lr {config.lr:g}, {counted(config.steps, 'step')}, seed {config.seed}"
            self.progress.over(config.steps, f"{spell(time.monotonic() - self.started):>7s}  {what}: {shown}")


def is_searched(comparison: Comparison, folder: Path) -> bool:
    """Whether every run of the searches is finished."""

    def is_done(candidate: Candidate) -> bool:
        def score(rates: Sequence[float], steps: int) -> list[float]:
            runs = [comparison.config(candidate, lr, steps, comparison.search_seed) for lr in rates]
            paths = {comparison.path(folder, candidate, run): run for run in runs}
            if not all(is_finished(path, run) for path, run in paths.items()):
                raise LookupError
            return [final_loss(path) for path in paths]

        try:
            rate_search.search(comparison.rates(candidate)[0], comparison.steps, score)
        except LookupError:
            return False
        return True

    return all(map(is_done, comparison.searching))


def train_group(
    program: TracedRun, group: Mapping[Path, RunConfig], stop: Callable[[], bool], callback: StepCallback
) -> None:
    """Trains one run, or several in one program, from their newest checkpoints; records which diverged.

    Raises:
      UserError: a folder can't be used.
      TrainingFailed: a file can't be written.
    """
    runs = [program.single(config) for config in group.values()]
    if len(runs) == 1:
        (path,) = group
        try:
            fit(runs[0], folder=path, callbacks=[callback], stop=stop)
        except Diverged:
            record_divergence(path)
    else:
        knobs = program.stacked(list(group.values()))
        step = lambda states, batches: program.step_many(knobs, states, batches)
        init = lambda: program.init_many(knobs)
        for path, diverged in zip(
            group, fit_many(runs, list(group), step, init, stop=stop, callback=as_callback(callback)), strict=True
        ):
            if diverged is not None:
                record_divergence(path)
    for path, config in group.items():
        if not stop():
            write_missing_sample(path, config)


def write_missing_sample(path: Path, config: RunConfig) -> None:
    """Writes the sample of a finished run that asks for one and has none."""
    if config.sample_tokens and not RunFolder(path).samples.exists() and read_run(path).state == "finished":
        model = restore(path, "last")
        write_sample(model, model.params, model.folder)


def record_divergence(path: Path) -> None:
    """Records that a run diverged: one more step, with the loss ``null``."""
    record = read_run(path)
    if record.state != "diverged":
        seconds = record.records[-1]["seconds"] if record.records else 0.0
        with MetricsLog(RunFolder(path), record.tokens_after, seconds) as log:
            log.write(record.steps + 1, {"loss": math.nan})


def is_finished(path: Path, config: RunConfig) -> bool:
    """Whether nothing is left to do for a run: all steps are done, or it diverged.

    A run whose last record is a non-finite step but which has rollbacks left was killed before it could roll back.
    """
    if not (path / "config.json").is_file():
        return False
    record = read_run(path)
    if record.state != "diverged" or not record.records or record.records[-1].get(LOSS, 0.0) is not None:
        return record.state != "unfinished"
    return len(RunFolder(path).passed_over()) >= REGISTRIES["policy"].bind(config.on_nan).rollbacks


def final_loss(path: Path) -> float:
    """Final validation loss of a run; infinite if it diverged."""
    record = read_run(path)
    final = record.final
    return final["val_loss"] if record.state == "finished" and final else math.inf
