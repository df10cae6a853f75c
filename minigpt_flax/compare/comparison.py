"""The specification of a comparison: candidates, learning rates, seeds, and the resulting number of steps.

Imports no JAX.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from minigpt_flax.bounds import RATE, SEED, Bound
from minigpt_flax.compare import rate_search, sequential
from minigpt_flax.compare.paired_tests import RESOLUTION, seeds_needed
from minigpt_flax.compare.statistics import find_baseline
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.spec import Spec, parse
from minigpt_flax.text import counted
from minigpt_flax.train.config.run_config import BASE_SIZES, STANDARD, RunConfig, absolute, flag_of, resolve
from minigpt_flax.train.config.sizes import PROPORTIONAL, at_width, check_widths
from minigpt_flax.train.config.study_file import StudyFile

VALIDATIONS = 8  # in a run whose --eval-every isn't given: enough to interpolate the step of a loss
FILE = "comparison.json"
AUTO = "auto"  # in place of learning rates, or of a number of seeds
VERSION = 5  # of this file
NEW_SEARCH = 4  # version since which a search tries these learning rates
FEWEST_SEEDS = 3  # per candidate: two don't show how much runs vary
WIDTH_SEEDS = 2  # of a comparison over widths, which has no tests, unless it is given
WITH_AND_WITHOUT = (STANDARD, "mup")  # parametrizations of a comparison over widths, unless they are given
FEWEST_RATES = 3  # of a comparison over widths: a parabola has three points
MOST_SEEDS = 10_000
LOSS = Bound(0, 1e6, above=True)  # a validation loss, or a difference
PEAK = dataclasses.replace(RATE, above=True)  # a learning rate that trains
ALONE = {"parallel": "jit", "mesh": "data=1"}  # a run of a comparison has one device: several may share a program
LATER = ("target", "baseline", "pairs", "resolution", "max_seeds", "widths", "parametrizations")  # added to the file
DURATIONS = (  # arguments of schedules, in steps if >= 1
    *("warmup", "cooldown", "period", "step_size", "milestones", "plateau", "fast"),
)
UNLESS_GIVEN = {"sample_tokens": 0}  # differs from a single run


@dataclass(frozen=True)
class Candidate:
    """One candidate of a comparison.

    Attributes:
      name: as it is printed: its specs.
      folder: holds its runs, below the comparison's.
      given: fields of ``RunConfig`` in which it differs from the others.
    """

    name: str
    folder: str
    given: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """The complete specification of a comparison.

    Attributes:
      preset: defaults of the runs' fields.
      given: fields of ``RunConfig`` that all runs share, as ``config.json`` holds them.
      opts: specs of the optimizers.
      schedules: specs of the schedules; none takes the preset's.
      lr: learning rates to try; none takes each optimizer's own.
      search: search the learning rate around each optimizer's own.
      seeds: of the runs that are compared.
      target: validation loss to reach; None uses the final loss of the baseline.
      baseline: name of the candidate that the others are tested against; None takes the first.
      pairs: test every two candidates instead.
      resolution: differences up to this size count as equal, nats per token.
      max_seeds: largest number of seeds, which are added until the tests are decided; None if ``seeds`` are all.
      widths: widths of the model, the first of which is the base of a parametrization; none takes the preset's. With
        widths, the best learning rates of all widths are compared, and nothing is tested.
      parametrizations: specs of the parametrizations; none takes that of ``given``.
      trust: whether optimizer code that the specs name may be executed; not stored.
    """

    preset: str
    given: dict[str, Any]
    opts: tuple[str, ...]
    schedules: tuple[str, ...]
    lr: tuple[float, ...]
    search: bool
    seeds: tuple[int, ...]
    target: float | None = None
    baseline: str | None = None
    pairs: bool = False
    resolution: float = RESOLUTION
    max_seeds: int | None = None
    widths: tuple[int, ...] = ()
    parametrizations: tuple[str, ...] = ()
    trust: bool = field(default=True, compare=False)

    @cached_property
    def steps(self) -> int:
        """Number of steps of each compared run."""
        return self.config(self.candidates[0]).steps

    @property
    def search_seed(self) -> int:
        """Seed of the search's runs: one that isn't compared, as the best of several runs is biased.

        The first after the seeds that the comparison began with; :func:`with_seeds` leaves it out.
        """
        seed = min(self.seeds)
        while seed in self.seeds:
            seed += 1
        return seed

    @property
    def tests(self) -> int:
        """Number of planned tests."""
        count = 1 if self.widths else len(self.candidates)
        return count * (count - 1) // 2 if self.pairs else count - 1

    @property
    def seeds_needed(self) -> int:
        """Smallest number of seeds with which a test can give a verdict; with widths, the usual number."""
        if self.widths:
            return WIDTH_SEEDS
        return (self.looks[0] if self.looks else seeds_needed(self.tests)) + self.selecting_seeds

    @cached_property
    def looks(self) -> tuple[int, ...]:
        """Numbers of tested seeds at which it is decided whether to add seeds; empty if their number is fixed."""
        if self.max_seeds is None:
            return ()
        return sequential.looks(self.tests, self.max_seeds - self.selecting_seeds)

    @property
    def fewest_seeds(self) -> int:
        """Smallest number of seeds."""
        return 1 if self.widths else FEWEST_SEEDS

    @property
    def selecting_seeds(self) -> int:
        """Number of seeds that select the learning rates, and aren't tested."""
        return int(len(set(self.lr)) > 1)

    def with_seeds(self, count: int) -> Comparison:
        """The same comparison with so many seeds: the ones that it has, and the next ones that no search used."""
        seeds, last = list(self.seeds[:count]), max(self.seeds)
        while len(seeds) < count:
            last += 1
            if not self.search or last != self.search_seed:
                seeds.append(last)
        return dataclasses.replace(self, seeds=tuple(seeds))

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Every optimizer under every schedule, in every parametrization, at every width."""
        found: list[Candidate] = []
        shown = _short_names(self.opts)
        axes = {"opt": self.opts, "schedule": self.schedules, "parametrization": self.parametrizations}
        specs = itertools.product(*(axis or (None,) for axis in axes.values()))
        for values, width in itertools.product(specs, self.widths or (None,)):
            chosen = {name: value for name, value in zip(axes, values, strict=True) if value is not None}
            words = [shown.get(chosen[name], chosen[name]) for name, axis in axes.items() if len(axis) > 1]
            given: dict[str, Any] = dict(chosen)
            if width is not None:
                given |= self._sizes(width, chosen.get("parametrization", STANDARD))
                words.append(f"width {width}")
            name = " ".join(words)
            slug = re.sub(r"[^A-Za-z0-9.=_-]+", "-", name).strip("-")
            same = sum(other.folder == slug or other.folder.startswith(f"{slug}--") for other in found)
            found.append(Candidate(name, f"{slug}--{same + 1}" if same else slug, given))
        return found

    def _sizes(self, width: int, parametrization: str) -> dict[str, Any]:
        """Fields of a candidate at a width; the base is the first width."""
        given = {name: self.given[name] for name in PROPORTIONAL if name in self.given}
        own = at_width(resolve(given, self.preset), "--widths", self.widths[0], width)
        if parse(parametrization, "parametrization").name == STANDARD:
            return {**own, **dict.fromkeys(BASE_SIZES)}
        return {**own, "base_width": self.widths[0]}

    def config(
        self, candidate: Candidate, lr: float | None = None, steps: int | None = None, seed: int | None = None
    ) -> RunConfig:
        """The configuration of one run; None keeps the value of the specs and the preset.

        Raises:
          UserError: a spec or number is wrong.
        """
        given = {**UNLESS_GIVEN, **self.given, **candidate.given, **ALONE, "lr": lr, "seed": seed}
        config = resolve(given, self.preset)
        if not self.trust:
            config = untrusted(config)
        if steps is not None and steps < config.steps:
            schedule = scaled(config.schedule, config.steps, steps)
            return dataclasses.replace(config, steps=steps, schedule=schedule, eval_every=steps)  # only the last loss
        validations = 1 if self.widths else VALIDATIONS  # only the last loss, or a curve
        every = self.given.get("eval_every") or max(1, config.steps // validations)
        return dataclasses.replace(config, eval_every=every)

    def rates(self, candidate: Candidate) -> list[float]:
        """The learning rates to try: the given ones, or the candidate's default, where a search starts."""
        return sorted(set(self.lr)) if self.lr else [self.config(candidate).lr]

    def path(self, folder: Path, candidate: Candidate, config: RunConfig) -> Path:
        """Folder of a run."""
        return folder / candidate.folder / f"lr{config.lr:g}-steps{config.steps}-seed{config.seed}"

    @property
    def is_open(self) -> bool:
        """Whether results decide how many runs are trained."""
        return self.search or self.max_seeds is not None

    @property
    def runs(self) -> int:
        """Number of runs; of those possible, if the search or the tests decide how many are trained."""
        return sum(map(len, self._lengths()))

    @property
    def budget(self) -> int:
        """Total steps of all :attr:`runs`."""
        return sum(map(sum, self._lengths()))

    def _lengths(self) -> list[list[int]]:
        """The lengths of the runs of each candidate."""
        full, seeds = self.steps, self.max_seeds or len(self.seeds)
        if self.search:
            return [rate_search.lengths(full) + [full] * seeds for _ in self.candidates]
        return [[full] * (len(self.rates(candidate)) * seeds) for candidate in self.candidates]


def scaled(schedule: Spec, steps: int, shorter: int) -> Spec:
    """The schedule of a shorter run of the same shape: durations in steps scale with the run.

    >>> str(scaled(parse("warmup_cosine(warmup=20, floor=0.1)", "schedule"), 160, 40))
    'warmup_cosine(warmup=5, floor=0.1)'
    """

    def scale(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return tuple(map(scale, value))
        return value if isinstance(value, str) or value is None or value < 1 else value * shorter // steps

    keywords = {name: scale(value) if name in DURATIONS else value for name, value in schedule.keywords.items()}
    return dataclasses.replace(schedule, keywords=keywords)


def _short_names(opts: tuple[str, ...]) -> dict[str, str]:
    """Maps each spec of an optimizer in a file to its short form without the folder, if that is unique.

    >>> _short_names(("adamw", "/home/me/opt.py:mine(b1=0.5)"))
    {'/home/me/opt.py:mine(b1=0.5)': 'opt.py:mine(b1=0.5)'}
    """
    short = {opt: re.sub(r"^.*/([^/]+\.py:)", r"\1", opt) for opt in opts if ".py:" in opt}
    return {opt: name for opt, name in short.items() if list(short.values()).count(name) == 1}


def untrusted(config: RunConfig) -> RunConfig:
    """The configuration, with specs whose optimizer code isn't imported."""
    mark = lambda spec: dataclasses.replace(spec, trusted=False)
    groups = tuple(dataclasses.replace(group, spec=mark(group.spec)) for group in config.group)
    return dataclasses.replace(config, opt=mark(config.opt), group=groups)


def located(opt: str) -> str:
    """The spec of an optimizer, with the file that it names by an absolute path."""
    spec = parse(opt, "optimizer")
    return str(spec.located()) if spec.is_external else opt


def shared_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that all runs share, as a comparison stores them: data with absolute paths.

    Raises:
      UserError: a field is for single runs.
    """
    if given.get("tuned_at") is not None:
        raise UserError("tuned_at is for a single run, as the runs of a search are tuned themselves: omit it")
    data = given.get("data")
    if data is None:
        return dict(given)
    return {**given, "data": tuple(map(absolute, (data,) if isinstance(data, str) else data))}


def with_parametrizations(
    given: Mapping[str, Any], parametrizations: Sequence[str], widths: Sequence[int]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The shared fields, and the parametrizations to compare; a single one is a shared field unless there are widths.

    Args:
      given: shared fields.
      parametrizations: specs as given.
      widths: widths to compare.
    """
    if widths:
        return dict(given), tuple(parametrizations or WITH_AND_WITHOUT)
    if len(parametrizations) == 1:
        return {**given, "parametrization": parametrizations[0]}, ()
    return dict(given), tuple(parametrizations)


def folder_name(comparison: Comparison) -> str:
    """Folder name derived from the candidates, so that the same command continues its comparison."""
    names = "-".join(candidate.folder for candidate in comparison.candidates)
    return re.sub(r"-+", "-", f"compare-{comparison.preset}-{comparison.steps}-{names}")[:100].rstrip("-")


def check(comparison: Comparison, fewest: int = FEWEST_SEEDS) -> Comparison:
    """Returns the comparison after checking it.

    Args:
      comparison: the comparison.
      fewest: smallest number of seeds of a comparison with tests; an earlier release allowed 2.

    Raises:
      UserError: fewer than two candidates, one given twice, too few seeds or steps, a rate or target out of range, a
        baseline that is no candidate.
    """
    if comparison.widths:
        check_over_widths(comparison)
    names = [candidate.name for candidate in comparison.candidates]
    if len(names) < 2:
        raise UserError(
            "a comparison needs two candidates: give --opt twice, or --schedule, or the folders of finished runs"
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"candidate {twice[0]!r} is given twice: give each once, or with different arguments")
    if comparison.max_seeds is not None:
        check_max_seeds(comparison)
    if comparison.widths:
        Bound(1, MOST_SEEDS, whole=True).check("--seeds", len(comparison.seeds))
    elif len(comparison.seeds) < fewest:
        raise UserError(
            f"--seeds must be at least {fewest}, got {len(comparison.seeds)}: fewer don't show how much runs vary; a "
            f"verdict takes {comparison.seeds_needed}"
        )
    find_baseline(names, comparison.baseline)
    LOSS.check("--resolution", comparison.resolution)
    for seed in (min(comparison.seeds), max(comparison.seeds), comparison.search_seed):
        SEED.check("--seed, with the --seeds after it,", seed)
    for rate in comparison.lr:
        PEAK.check("--lr", rate)
    if comparison.search and comparison.steps < rate_search.SHORTEST:
        raise UserError(
            f"--lr auto searches with runs of an eighth of --steps: give at least {rate_search.SHORTEST}, "
            f"got {comparison.steps}"
        )
    if comparison.target is not None:
        LOSS.check("--target", comparison.target)
    return comparison


def check_over_widths(comparison: Comparison) -> None:
    """Checks what a comparison over widths needs, and refuses what has no effect on it.

    Raises:
      UserError: the widths are not ascending, there are too few learning rates, or a flag of the tests is given.
    """
    check_widths(comparison.widths)
    if len(set(comparison.lr)) < FEWEST_RATES:
        raise UserError(
            f"--widths compares the best of several learning rates: give at least {FEWEST_RATES} with --lr, such as "
            "1e-3,2e-3,4e-3,8e-3"
        )
    unused = {
        "--baseline": comparison.baseline is not None,
        "--pairs": comparison.pairs,
        "--target": comparison.target is not None,
        "--resolution": comparison.resolution != RESOLUTION,
        "--seeds auto": comparison.max_seeds is not None,
    }
    if any(unused.values()):
        raise UserError(f"--widths compares best learning rates and tests nothing: omit {_first(unused)}")
    sizes = {flag_of(name): name in comparison.given for name in ("width", "base_width")}
    if any(sizes.values()):
        raise UserError(f"--widths sets the widths of the models, and the first one as the base: omit {_first(sizes)}")


def _first(flags: Mapping[str, bool]) -> str:
    return next(flag for flag, used in flags.items() if used)


def most_seeds(seeds: int | str | None, most: int | None, resolution: float | None) -> int | None:
    """The largest number of seeds if they are added as needed, else None.

    Args:
      seeds: number of seeds, or ``auto``.
      most: largest number as given.
      resolution: as given.

    Raises:
      UserError: ``auto`` without a resolution, or a largest number without ``auto``.
    """
    if seeds == AUTO:
        if resolution is None:
            raise UserError("--seeds auto needs --resolution LOSS, a difference that doesn't matter, such as 0.01")
        return sequential.USUAL_MOST if most is None else most
    if most is not None:
        raise UserError("--max-seeds limits --seeds auto: add that, or omit it")
    return None


def check_max_seeds(comparison: Comparison) -> None:
    """Checks the budget of ``--seeds auto``.

    Raises:
      UserError: it is too small to decide the tests, or out of range.
    """
    most = comparison.max_seeds or 0
    Bound(FEWEST_SEEDS, MOST_SEEDS, whole=True).check("--max-seeds", most)
    needed = seeds_needed(comparison.tests) + comparison.selecting_seeds
    if most < needed:
        tests = counted(comparison.tests, "test")
        raise UserError(f"--max-seeds must be at least {needed} to decide {tests}, got {most}")


STORED = StudyFile(Comparison, "comparison", FILE, VERSION, LATER)


def save(comparison: Comparison, folder: Path) -> None:
    """Writes ``comparison.json``, unless the folder already holds the same comparison; it may have fewer seeds.

    Raises:
      UserError: the folder holds another comparison, or can't be written.
    """
    if STORED.is_in(folder):
        there = load(folder)
        require_same(there, comparison, folder)
        if comparison.search and STORED.version_in(folder) < NEW_SEARCH:
            raise UserError(f"{show(folder)} holds a search of an earlier release: start another with --name")
        if there.seeds == comparison.seeds:
            return
    STORED.write(comparison, folder)


def require_same(there: Comparison, here: Comparison, folder: Path) -> None:
    """Checks that the stored comparison is the same; seeds may have been added.

    Raises:
      UserError: names what differs.
    """

    def same(name: str, before: Any, after: Any) -> bool:
        added = name == "seeds" and there.with_seeds(max(len(before), len(after))).seeds == after
        return added or name == "target"

    STORED.require_same(there, here, folder, same)


def load(folder: Path, *, trust: bool = False) -> Comparison:
    """Reads ``comparison.json``.

    Args:
      folder: of the comparison.
      trust: whether optimizer code that it names may be executed.

    Raises:
      UserError: the folder is no comparison, or the file is damaged.
    """
    return check(Comparison(**STORED.read(folder), trust=trust), fewest=2)


def continued(comparison: Comparison, folder: Path, count: int | None) -> Comparison:
    """The comparison with all of its seeds: those of its folder, if that holds it, and then new ones.

    Args:
      comparison: as requested; its first seed counts.
      folder: of the comparison.
      count: number of seeds; None takes those of the folder, else as many as a verdict needs.
    """
    first = comparison.seeds[0]
    if (folder / FILE).is_file() and (there := load(folder)).seeds[0] == first:
        if len(there.seeds) <= (count or len(there.seeds)):
            return dataclasses.replace(comparison, seeds=there.with_seeds(count or len(there.seeds)).seeds)
    seeds = tuple(range(first, first + (count or max(comparison.fewest_seeds, comparison.seeds_needed))))
    return check(dataclasses.replace(comparison, seeds=seeds))
