"""What a comparison is, before anything runs: contestants, learning rates, seeds, and the steps that they cost.

Imports no JAX.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt_flax.bounds import RATE, SEED, Bound
from minigpt_flax.compare import successive_halving
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs import files
from minigpt_flax.runs.schema import check_fields, check_type, read_json, types_of
from minigpt_flax.train.config.run_config import RunConfig, resolve

VALIDATIONS = 8  # in a run whose --eval-every isn't given: enough to interpolate the step of a loss
FILE = "comparison.json"
VERSION = 2  # of this file
LOSS = Bound(0, 1e6, above=True)  # a validation loss
PEAK = dataclasses.replace(RATE, above=True)  # a learning rate that trains
ALONE = {"parallel": "jit", "mesh": "data=1"}  # a run of a comparison has one device: several may share a program


@dataclass(frozen=True)
class Contestant:
    """One of those compared.

    Attributes:
      name: as it is printed: its words.
      folder: holds its runs, below the comparison's.
      given: fields of ``RunConfig`` in which it differs from the others.
    """

    name: str
    folder: str
    given: dict[str, str]


@dataclass(frozen=True)
class Contest:
    """A comparison, completely.

    Attributes:
      preset: what the runs start from.
      given: fields of ``RunConfig`` that all have.
      opts: optimizers, as typed.
      schedules: schedules, as typed; none takes the preset's.
      lr: learning rates to try; none takes each optimizer's own.
      search: find the rate, around each optimizer's own.
      seeds: of the runs that are judged.
      target: validation loss to be reached; None takes what the first contestant reached.
    """

    preset: str
    given: dict[str, Any]
    opts: tuple[str, ...]
    schedules: tuple[str, ...]
    lr: tuple[float, ...]
    search: bool
    seeds: tuple[int, ...]
    target: float | None = None

    @property
    def steps(self) -> int:
        """Length of the runs that count."""
        return self.config(self.contestants[0]).steps

    @property
    def search_seed(self) -> int:
        """Of the search's runs: one that isn't judged, as the best of several runs flatters itself."""
        return max(self.seeds) + 1

    @property
    def contestants(self) -> list[Contestant]:
        """Every optimizer under every schedule."""
        found: list[Contestant] = []
        for opt in self.opts or (None,):
            for schedule in self.schedules or (None,):
                given = {k: v for k, v in (("opt", opt), ("schedule", schedule)) if v is not None}
                several = [
                    given[k] for k, among in (("opt", self.opts), ("schedule", self.schedules)) if len(among) > 1
                ]
                name = " ".join(several)
                slug = re.sub(r"[^A-Za-z0-9.=_-]+", "-", name).strip("-")
                same = sum(other.folder == slug or other.folder.startswith(f"{slug}--") for other in found)
                found.append(Contestant(name, f"{slug}--{same + 1}" if same else slug, given))
        return found

    def config(
        self, who: Contestant, lr: float | None = None, steps: int | None = None, seed: int | None = None
    ) -> RunConfig:
        """The configuration of one run; what is None stays as the words and the preset have it.

        Raises:
          UserError: a word or number is wrong.
        """
        config = resolve({**self.given, **who.given, **ALONE, "lr": lr, "seed": seed}, self.preset)
        shorter = config if steps is None else dataclasses.replace(config, steps=steps)
        if steps is not None and steps < config.steps:
            return dataclasses.replace(shorter, eval_every=steps)  # a search looks at the end alone
        every = self.given.get("eval_every") or max(1, config.steps // VALIDATIONS)
        return dataclasses.replace(shorter, eval_every=every)

    def rates(self, who: Contestant) -> list[float]:
        """The learning rates to try: those given, or around the contestant's own, or its own alone."""
        own = self.config(who).lr
        if self.search:
            return successive_halving.around(own)
        return sorted(set(self.lr)) if self.lr else [own]

    def path(self, folder: Path, who: Contestant, config: RunConfig) -> Path:
        """Folder of a run."""
        return folder / who.folder / f"lr{config.lr:g}-steps{config.steps}-seed{config.seed}"

    @property
    def runs(self) -> int:
        """How many runs there will be."""
        return sum(len(stage) for _, stage in self._stages())

    @property
    def budget(self) -> int:
        """Steps of all runs together."""
        return sum(sum(stage) for _, stage in self._stages())

    def _stages(self) -> list[tuple[Contestant, list[int]]]:
        """The lengths of the runs of each contestant."""
        found = []
        for who in self.contestants:
            count, full = len(self.rates(who)), self.steps
            if self.search:
                lengths = successive_halving.lengths(full) + [full] * len(self.seeds)
            else:
                lengths = [full] * (count * len(self.seeds))
            found.append((who, lengths))
        return found


def check(contest: Contest) -> Contest:
    """Refuses what can't be compared.

    Raises:
      UserError: fewer than two contestants, one given twice, seeds or steps too few, a rate or target out of range.
    """
    names = [who.name for who in contest.contestants]
    if len(names) < 2:
        raise UserError(
            "a comparison needs two contestants: give --opt twice, or --schedule, or the folders of finished runs"
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"contestant {twice[0]!r} is given twice: write each once, or let its words differ")
    if len(contest.seeds) < 2:
        raise UserError(
            f"--seeds must be at least 2, got {len(contest.seeds)}: one run of each can't tell a difference from noise"
        )
    for seed in (min(contest.seeds), contest.search_seed):
        SEED.check("--seed, with the --seeds after it,", seed)
    for rate in contest.lr:
        PEAK.check("--lr", rate)
    if contest.search and contest.steps < successive_halving.SHORTEST:
        raise UserError(
            f"--lr auto searches with runs of a quarter of --steps: give at least {successive_halving.SHORTEST}, "
            f"got {contest.steps}"
        )
    if contest.target is not None:
        LOSS.check("--target", contest.target)
    return contest


def save(contest: Contest, folder: Path) -> None:
    """Writes ``comparison.json``; the same is there already, or nothing.

    Raises:
      UserError: another comparison is there, or the folder can't be written.
    """
    path = folder / FILE
    if path.exists():
        agree(load(folder), contest, folder)
        return
    if folder.exists() and not (folder.is_dir() and all(files.is_temporary(entry.name) for entry in folder.iterdir())):
        raise UserError(f"{show(folder)} exists already and is no comparison: give another --name")
    try:
        files.make_folder(folder)
        files.replace(path, json.dumps({"version": VERSION, **dataclasses.asdict(contest)}, indent=2) + "\n")
    except OSError as error:
        files.remove_empty_folder(folder)
        raise UserError(f"can't write {show(folder)}: {error.strerror}") from error


def agree(there: Contest, here: Contest, folder: Path) -> None:
    """Refuses to go on with another comparison's runs.

    Raises:
      UserError: names what differs.
    """
    for name, before in vars(there).items():
        after = getattr(here, name)
        if name != "target" and before != after:
            raise UserError(
                f"{show(folder)} holds a comparison with {name}={before!r}, not {after!r}: give another --name"
            )


def load(folder: Path) -> Contest:
    """Reads ``comparison.json``.

    Raises:
      UserError: the folder is no comparison, or the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{show(folder)} is not the folder of a comparison: it has no {FILE}")
    values, where = read_json(path), show(path)
    if check_type(values.pop("version", 1), int, f"{where}: version") not in (1, VERSION):
        raise UserError(f"{where} was written by a later release")
    found = check_fields(values, types_of(Contest), where, optional=("target",))
    fields = types_of(RunConfig)
    given = check_fields(found["given"], fields, f"{where}: given", optional=fields)
    return check(Contest(**{**found, "given": given}))
