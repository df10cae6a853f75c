"""Train the runs of a comparison, one after the other or those of one optimizer together; what is finished stays."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from minigpt_flax.compare import successive_halving
from minigpt_flax.compare.comparison import Contest, Contestant
from minigpt_flax.compare.progress import Meter
from minigpt_flax.compare.traced_run import Program, program
from minigpt_flax.compare.trial import finished, trial
from minigpt_flax.compare.vmapped import together
from minigpt_flax.runs import files
from minigpt_flax.runs.records import read_run
from minigpt_flax.train.build import build
from minigpt_flax.train.clock import spell
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.stop import Stop

Share = tuple[int, int]  # (index, number of shares)


class Stopped(Exception):
    """Somebody asked to end before all runs were done."""


class Sweep:
    """The runs of a comparison, as far as they are this process's.

    Args:
      contest: what to run.
      folder: of the comparison.
      stop: tells when to end.
      meter: told where the runs stand.
      vmap: train the runs of a contestant that have the same length in one program.
      share: of the units of work (a contestant, or one seed of it where nothing is searched) every so-many-th.
    """

    def __init__(
        self, contest: Contest, folder: Path, stop: Stop, meter: Meter, *, vmap: bool = False, share: Share = (0, 1)
    ):
        self.contest, self.folder, self.stop, self.meter = contest, folder, stop, meter
        self.vmap, self.share = vmap, share
        self.programs: dict[RunConfig, Program] = {}
        self.started = time.monotonic()

    def run(self) -> None:
        """Trains everything.

        Raises:
          Stopped: a signal came.
        """
        for who, seeds in self.units():
            if self.contest.search:
                self.search(who)
            else:
                full = [self.contest.config(who, lr, None, s) for lr in self.contest.rates(who) for s in seeds]
                self.train(who, full)

    def units(self) -> list[tuple[Contestant, tuple[int, ...]]]:
        """The work of this process: contestants, and which of their seeds."""
        whole = [(who, self.contest.seeds) for who in self.contest.contestants]
        apart = [(who, (seed,)) for who, seeds in whole for seed in seeds]
        index, count = self.share
        return (apart if count > 1 and not self.contest.search else whole)[index::count]

    def search(self, who: Contestant) -> None:
        """Finds the contestant's learning rate with a seed that isn't judged, then trains those that are."""

        def score(rates: Sequence[float], steps: int) -> list[float]:
            configs = [self.contest.config(who, lr, steps, self.contest.search_seed) for lr in rates]
            self.train(who, configs)
            return [loss(self.contest.path(self.folder, who, config)) for config in configs]

        best = successive_halving.search(self.contest.rates(who), self.contest.steps, score)
        self.train(who, [self.contest.config(who, best, None, seed) for seed in self.contest.seeds])

    def train(self, who: Contestant, configs: Sequence[RunConfig]) -> None:
        """Trains those that aren't finished.

        Raises:
          Stopped: a signal came.
        """
        paths = {self.contest.path(self.folder, who, config): config for config in configs}
        todo = {path: config for path, config in paths.items() if not finished(path)}
        self.meter.over(sum(config.steps for path, config in paths.items() if path not in todo))
        if self.vmap and todo:
            together(self.program(who), todo, self.stop, self.watch(who, todo))
            self.tell(who, todo)
        for path, config in {} if self.vmap else todo.items():
            one = {path: config}
            trial(self.program(who).single(config), path, self.stop, self.watch(who, one))
            self.tell(who, one)

    def watch(self, who: Contestant, group: Mapping[Path, RunConfig]) -> Callable[[int], None]:
        """Moves the meter while these train."""
        first = next(iter(group.values()))
        what = who.name if len(group) > 1 else f"{who.name} lr {first.lr:g} seed {first.seed}"
        return lambda step: self.meter.at(f"{what}: {step}/{first.steps}", step * len(group))

    def program(self, who: Contestant) -> Program:
        """The contestant's program, compiled once; the next contestant's too, if only its schedule is another."""
        config = self.contest.config(who)
        kind = dataclasses.replace(config, lr=RunConfig.lr, schedule=RunConfig.schedule)
        if kind not in self.programs:
            self.programs = {kind: program(build(config), self.contest.steps)}
        return self.programs[kind]

    def tell(self, who: Contestant, group: Mapping[Path, RunConfig]) -> None:
        """Says what runs came to, and forgets what only a continuation of a search's run would need.

        Raises:
          Stopped: they came to nothing yet, as a signal came.
        """
        if self.stop():
            raise Stopped
        for path, config in group.items():
            if config.steps < self.contest.steps:
                files.remove_folder(path / "checkpoints")
            shown = "diverged" if math.isinf(loss(path)) else f"loss {loss(path):.4f}"
            what = f"{who.name} lr {config.lr:g}, {config.steps} steps, seed {config.seed}"
            self.meter.over(config.steps, f"{spell(time.monotonic() - self.started):>7s}  {what}: {shown}")


def loss(path: Path) -> float:
    """Final validation loss of a run; infinite if it broke."""
    record = read_run(path)
    final = record.final
    return final["val_loss"] if record.state == "finished" and final else math.inf
