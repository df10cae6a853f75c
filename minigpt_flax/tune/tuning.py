"""The specification of a tuning: one optimizer, the keywords to search, seeds and budget."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from minigpt_flax.bounds import SEED, SIZE, Bound
from minigpt_flax.compare.comparison import ALONE, PEAK, UNLESS_GIVEN, scaled, untrusted
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.invocation import line, show
from minigpt_flax.literals import problem
from minigpt_flax.spec import THRESHOLD, Spec, keywords_of, parse as parse_spec
from minigpt_flax.text import counted
from minigpt_flax.train.config.run_config import STANDARD, RunConfig, flag_of, resolve
from minigpt_flax.train.config.sizes import at_width
from minigpt_flax.train.config.study_file import StudyFile
from minigpt_flax.train.registry import REGISTRIES, RunInfo
from minigpt_flax.tune.axes import Axis, distinct, parse
from minigpt_flax.tune.search import Plan, Setting, make_plan, smallest_budget

FILE = "tuning.json"
VERSION = 2  # of this file
TRIALS = "trials"  # folder of the runs
LR, CLIP, DROPOUT = "lr", "clip", "dropout"  # keywords that belong to neither the optimizer nor the schedule
MUP = "mup"  # parametrization of a proxy, unless it is given
UNUSED = ("eval_every", "keep", "keep_every")  # a run is evaluated at its end, and keeps no checkpoint
MOST_KEYWORDS = 8
Number = int | float
Values = Mapping[str, Number | None]  # by keyword; None is the optimizer's own
SEEDS = Bound(1, 100, whole=True)  # runs per setting
JUDGING = Bound(0, 100, whole=True)  # runs of the result
BUDGET = Bound(1, 1e6)  # full runs


@dataclass(frozen=True)
class Tuning:
    """The complete specification of a tuning.

    Attributes:
      preset: defaults of the runs' fields.
      given: fields of ``RunConfig`` that all runs share, as ``config.json`` holds them.
      over: the keywords to search, as on the command line; see :mod:`minigpt_flax.tune.axes`.
      seeds: of the search; the loss of a setting is the mean over them.
      judging_seeds: number of further seeds, on which the result and the starting point are trained.
      budget: of the search, in full runs per seed; None takes a fifth of an exhaustive search.
      proxy_width: width of the trials, which is the base of a parametrization; None trains the model itself.
      trust: whether optimizer code that the spec names may be executed; not stored.
    """

    preset: str
    given: dict[str, Any]
    over: tuple[str, ...]
    seeds: tuple[int, ...]
    judging_seeds: int
    budget: float | None = None
    proxy_width: int | None = None
    trust: bool = field(default=True, compare=False)

    @cached_property
    def base(self) -> RunConfig:
        """The configuration of the starting point: the optimizer with its own values."""
        return self._trusted(resolve(self.fields, self.preset))

    @cached_property
    def fields(self) -> dict[str, Any]:
        """Fields of the trials."""
        given = {**UNLESS_GIVEN, **self.given, **ALONE, **self.transfer}
        if self.proxy_width is None:
            return given
        target = resolve(given, self.preset)
        return given | at_width(target, f"--proxy-width {self.proxy_width}", target.width, self.proxy_width)

    @property
    def transfer(self) -> dict[str, Any]:
        """Fields that carry the result from the proxy over to the model; none without a proxy."""
        if self.proxy_width is None:
            return {}
        return {"parametrization": self.given.get("parametrization", MUP), "base_width": self.proxy_width}

    @property
    def width(self) -> int:
        """Width of the model that the result is for."""
        return resolve({**self.given, **self.transfer}, self.preset).width

    def _trusted(self, config: RunConfig) -> RunConfig:
        return config if self.trust else untrusted(config)

    @property
    def steps(self) -> int:
        """Steps of a full run."""
        return self.base.steps

    @cached_property
    def axes(self) -> list[Axis]:
        """The keywords with their values."""
        names = [text.partition("=")[0] for text in self.over]
        known = self.parameters
        return list(
            distinct([parse(text, _number(known.get(name))) for name, text in zip(names, self.over, strict=True)])
        )

    @cached_property
    def plan(self) -> Plan:
        """Sizes of the search."""
        return make_plan(self.axes, self.steps, self.budget)

    @property
    def judged(self) -> tuple[int, ...]:
        """Seeds on which the result is judged: the ones after those of the search, as its lowest loss is biased."""
        return tuple(range(max(self.seeds) + 1, max(self.seeds) + 1 + self.judging_seeds))

    @property
    def runs(self) -> int:
        """Number of runs, at most."""
        return sum(count for count, _ in self.plan.lengths.values()) * len(self.seeds) + 2 * self.judging_seeds

    @property
    def total(self) -> int:
        """Steps of all runs, at most."""
        return self.plan.budget * len(self.seeds) + 2 * self.judging_seeds * self.steps

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The numeric keywords by name: of the optimizer, which take precedence, of the schedule, and of the run."""
        found = dict(self._run_parameters)
        for spec, kind in ((self.base.schedule, "schedule"), (self.base.opt, "optimizer")):
            registry = REGISTRIES[kind]
            row = registry.row(spec)
            parameters = inspect.signature(row).parameters
            for name in keywords_of(row, registry.leading):
                if name not in RunInfo._fields and (spec.is_external or _is_numeric(parameters[name])):
                    default = spec.keywords.get(name, parameters[name].default)
                    found[name] = parameters[name].replace(default=default)
        return found

    @cached_property
    def _run_parameters(self) -> dict[str, inspect.Parameter]:
        """The threshold of the clip, if it has one, and the dropout probability."""
        clip = self.base.clip
        values = {DROPOUT: self.base.dropout}
        if THRESHOLD in inspect.signature(REGISTRIES["clip"].row(clip)).parameters:
            values[CLIP] = clip.keywords.get(THRESHOLD, *clip.args[:1])
        keyword = inspect.Parameter.KEYWORD_ONLY
        return {name: inspect.Parameter(name, keyword, default=x, annotation="float") for name, x in values.items()}

    def place(self, name: str) -> str:
        """Where a keyword belongs: ``opt``, ``schedule``, or its own name for ``lr``, ``clip`` and ``dropout``.

        Raises:
          UserError: neither has it, or it isn't a number.
        """
        if name == LR:
            return LR
        known = self.parameters
        if name not in known:
            raise UserError(
                f"--over {name}: neither optimizer {self.base.opt.name!r} nor schedule {self.base.schedule.name!r} has "
                f"a numeric keyword of this name{nearest(name, [LR, *known])}; there are: {', '.join([LR, *known])}"
            )
        for place, kind in (("opt", "optimizer"), ("schedule", "schedule")):
            registry = REGISTRIES[kind]
            if name in keywords_of(registry.row(getattr(self.base, place)), registry.leading):
                return place
        return name

    @property
    def start(self) -> dict[str, Number | None]:
        """The values of the starting point; None for a keyword whose default is not a number."""
        return {
            axis.name: self.base.lr if axis.name == LR else _number(self.parameters[axis.name]) for axis in self.axes
        }

    def values(self, setting: Setting) -> dict[str, Number]:
        """The values of a setting by keyword.

        Raises:
          UserError: an index is beyond the end of an axis.
        """
        found = {axis.name: axis.value(index) for axis, index in zip(self.axes, setting, strict=True)}
        if None in found.values():
            raise UserError("a value is out of range")
        return {name: self.spelled(name, value) for name, value in found.items() if value is not None}

    def spelled(self, name: str, value: float) -> Number:
        """A value as a spec has it: whole, for a keyword that takes whole numbers or counts steps."""
        if name == LR:
            return value
        parameter = self.parameters[name]
        whole = value == round(value) and not _is_real(parameter)
        return round(value) if whole or _is_duration(parameter) and value >= 1 else value

    def config(
        self,
        values: Values,
        steps: int | None = None,
        seed: int | None = None,
        traced: Collection[str] = (),
    ) -> RunConfig:
        """The configuration of one run.

        Args:
          values: by keyword; None keeps the default.
          steps: None takes a full run; the schedule of a shorter one is scaled.
          seed: None takes that of the fields.
          traced: optimizer keywords to write as values that vary, so that runs share a compiled program.

        Raises:
          UserError: a value is refused.
        """
        given = {**self.fields, "seed": self.seeds[0] if seed is None else seed}
        given |= {name: str(getattr(self.base, name)) for name in ("opt", "schedule")}
        given |= self.changes(values, traced)
        config = self._trusted(resolve(given, self.preset))
        length = config.steps if steps is None else steps
        schedule = scaled(config.schedule, config.steps, length) if length < config.steps else config.schedule
        return dataclasses.replace(config, steps=length, schedule=schedule, eval_every=length)

    def changes(self, values: Values, traced: Collection[str] = ()) -> dict[str, Any]:
        """Fields of the configuration that the values change; see :meth:`config`."""
        found: dict[str, Any] = {}
        specs: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if value is None:
                continue
            place = self.place(name)
            if place == CLIP:
                specs[CLIP] = {THRESHOLD: value}
            elif place == name:
                found[name] = value
            else:
                specs.setdefault(place, {})[name] = [(0, value)] if name in traced else value
        return found | {place: str(with_keywords(getattr(self.base, place), x)) for place, x in specs.items()}

    def path(self, folder: Path, values: Values, config: RunConfig) -> Path:
        """Folder of a run."""
        name = "-".join(f"{name}={value:g}" for name, value in values.items() if value is not None) or "start"
        return folder / TRIALS / f"{name}-steps{config.steps}-seed{config.seed}"

    def command(self, values: Values) -> str:
        """The command that trains with these values."""
        config = self.config(values)
        own = {name: value for name, value in self.changes(values).items() if name in (CLIP, DROPOUT)}
        fields = {**self.given, **self.transfer, **own}
        words = ["--preset", self.preset, "--opt", str(config.opt)]
        if str(config.schedule) != str(self.base.schedule) or "schedule" in self.given:
            words += ["--schedule", str(config.schedule)]
        words += ["--lr", f"{config.lr:g}"]
        for name, value in fields.items():
            if name not in ("opt", "schedule", LR, "seed"):
                words += _flag(name, value)
        return line("train", *words)


def with_keywords(spec: Spec, keywords: Mapping[str, Any]) -> Spec:
    """The spec with other values of some keywords; a threshold may have been positional."""
    args = () if THRESHOLD in keywords else spec.args
    return dataclasses.replace(spec, args=args, keywords={**spec.keywords, **keywords})


def _flag(name: str, value: Any) -> list[str]:
    """A field as words of the command line."""
    if isinstance(value, bool):
        return [flag_of(name) if value else f"--no-{flag_of(name)[2:]}"]
    values = value if isinstance(value, list | tuple) else [value]
    return [word for one in values for word in (flag_of(name), str(one))]


def _is_numeric(parameter: inspect.Parameter) -> bool:
    return parameter.default is not True and parameter.default is not False and problem(parameter, 1) is None


def _is_duration(parameter: inspect.Parameter) -> bool:
    """Whether it is a fraction of the run below 1, and a number of steps from 1 up."""
    return "Duration" in str(parameter.annotation)


def _is_real(parameter: inspect.Parameter) -> bool:
    return problem(parameter, 0.5) is None


def _number(value: Any) -> Number | None:
    """The default of a parameter, if it is a number."""
    value = getattr(value, "default", value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def check(tuning: Tuning) -> Tuning:
    """Returns the tuning after checking everything that needs no model.

    Raises:
      UserError: a keyword is unknown or not numeric, a value is refused, or the budget is too small.
    """
    if unused := [name for name in UNUSED if name in tuning.given]:
        raise UserError(f"tune evaluates each run at its end and keeps no checkpoint: omit {flag_of(unused[0])}")
    if tuning.proxy_width is not None:
        check_proxy(tuning, tuning.proxy_width)
    axes = tuning.axes
    for axis in axes:
        tuning.place(axis.name)
        for value in axis.values:
            check_value(tuning, axis, value)
    if len(axes) > MOST_KEYWORDS:
        raise UserError(f"--over takes at most {MOST_KEYWORDS} keywords, got {len(axes)}")
    SEEDS.check("--seeds", len(tuning.seeds))
    JUDGING.check("--judging-seeds", tuning.judging_seeds)
    for seed in (min(tuning.seeds), max((*tuning.seeds, *tuning.judged))):
        SEED.check("--seed, with the seeds after it,", seed)
    for axis in axes:
        if axis.name in tuning.given and axis.name in (LR, DROPOUT):
            raise UserError(f"--{axis.name} and --over {axis.name} exclude each other: omit one")
    if tuning.budget is not None:
        BUDGET.check("--budget", tuning.budget)
        least = smallest_budget(axes)
        if not tuning.plan.is_exhaustive and tuning.budget < least:
            what = f"{least} full runs to search {counted(len(axes), 'keyword')}"
            raise UserError(f"--budget must be at least {what}, got {tuning.budget:g}")
    return tuning


def check_proxy(tuning: Tuning, width: int) -> None:
    """Checks the width of the trials.

    Raises:
      UserError: it is not below that of the model, or nothing carries the result over.
    """
    SIZE.check("--proxy-width", width)
    if "base_width" in tuning.given:
        raise UserError("--proxy-width is the width of the base: omit --base-width")
    if parse_spec(tuning.transfer["parametrization"], "parametrization").name == STANDARD:
        raise UserError("--proxy-width needs a parametrization that transfers: give --parametrization mup or completep")
    if width >= tuning.width:
        raise UserError(f"--proxy-width must be below --width {tuning.width}, got {width}")


def check_value(tuning: Tuning, axis: Axis, value: float) -> None:
    """Checks one value of a keyword by its annotation.

    Raises:
      UserError: it is of another kind, or out of range.
    """
    if axis.name == LR:
        PEAK.check("--over lr", value)
        return
    parameter = tuning.parameters[axis.name]
    wrong = problem(parameter, tuning.spelled(axis.name, value))
    if wrong is not None:
        hint = ": give a list of them" if not _is_real(parameter) else ""
        raise UserError(f"--over {axis.name}: {wrong}{hint}")
    if _is_duration(parameter) and (value < 1) != (axis.values[0] < 1):
        raise UserError(
            f"--over {axis.name} mixes fractions of the run, which are below 1, and numbers of steps: give one kind"
        )


def folder_name(tuning: Tuning) -> str:
    """Folder name derived from the optimizer and the keywords, so that the same command continues its tuning."""
    names = "-".join(axis.name for axis in tuning.axes)
    name = f"tune-{tuning.preset}-{tuning.steps}-{tuning.base.opt.name}-{names}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:100].rstrip("-")


STORED = StudyFile(Tuning, "tuning", FILE, VERSION, ("proxy_width",))


def save(tuning: Tuning, folder: Path) -> None:
    """Writes ``tuning.json``; if the folder already holds the same tuning, its number of judging seeds may change.

    Raises:
      UserError: the folder holds another tuning or other files, or can't be written.
    """
    if STORED.is_in(folder):
        there = load(folder, trust=tuning.trust)
        STORED.require_same(there, tuning, folder, lambda name, before, after: name == "judging_seeds")
    STORED.write(tuning, folder)


def load(folder: Path, *, trust: bool = False) -> Tuning:
    """Reads ``tuning.json``.

    Args:
      folder: of the tuning.
      trust: whether optimizer code that it names may be executed.

    Raises:
      UserError: the folder is no tuning, or the file is damaged.
    """
    found = STORED.read(folder)
    if not found["seeds"]:
        raise UserError(f"{show(folder / FILE)}: seeds is empty: restore the original file")
    return check(Tuning(**found, trust=trust))
