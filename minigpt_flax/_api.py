"""The functions of the public interface: train, compare, and open a trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from jaxopt_mini import GradientTransformation
from minigpt_flax.compare import comparison as comparisons
from minigpt_flax.compare.collect import collect_runs, summarize_comparison
from minigpt_flax.compare.comparison import AUTO, FEWEST_SEEDS, Comparison, folder_name, located, shared_fields
from minigpt_flax.compare.paired_tests import RESOLUTION
from minigpt_flax.compare.results import RESULTS, ComparisonResult, write_comparison
from minigpt_flax.compare.runner import run_comparison
from minigpt_flax.console.reporters import Quiet, Terminal
from minigpt_flax.errors import Interrupted, UserError
from minigpt_flax.runs import files
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.train.callbacks import Callback, StepCallback
from minigpt_flax.train.clock import Clock
from minigpt_flax.train.dataset import IN_MEMORY, Dataset, from_tokens
from minigpt_flax.train.external import is_transformation, name_of
from minigpt_flax.train.loop import Result
from minigpt_flax.train.optimizer import IN_PLACE_OF_SPECS
from minigpt_flax.train.restore import TrainedModel, reopen, restore
from minigpt_flax.train.run import start_or_resume
from minigpt_flax.train.session import RunOptions, Session
from minigpt_flax.train.stop import Stop
from minigpt_flax.tune import results as tuning_results, tuning as tunings
from minigpt_flax.tune.results import TuningResult
from minigpt_flax.tune.runner import run_tuning
from minigpt_flax.tune.tuning import SEEDS, Tuning

Factory = Callable[..., GradientTransformation]
"""``(learning_rate, **keywords) -> transformation``; the learning rate is a schedule."""


def train(
    *,
    opt: str | GradientTransformation | Factory | None = None,
    data: str | Path | Sequence[str] | Dataset | Any = None,
    preset: str | None = None,
    out: str | Path | None = "runs",
    name: str | None = None,
    resume: str | Path | None = None,
    callbacks: Iterable[Callback | StepCallback] = (),
    stop_after: int | None = None,
    quiet: bool = False,
    trust: bool = False,
    **fields: Any,
) -> Result:
    """Trains a GPT, as the command ``train`` does.

    Args:
      opt: a spec such as ``"adamw(b2=0.95)"``; a factory, a function of the learning rate (a schedule); or an
        Optax-compatible transformation, which is then the whole optimizer, with its own learning rate and clipping.
      data: a corpus, file, folder, pattern or ``hf:NAME``, or several; an array of token ids, or a pair of arrays to
        train and validate on; or a :class:`Dataset`.
      preset: defaults of the fields that aren't given; None selects ``nano`` on a CPU and ``char`` on an accelerator.
      out: folder that holds the runs; None saves nothing to disk.
      name: the run's folder is ``out/name``; None chooses one.
      resume: folder of a run to continue; larger ``steps`` extend it, if its schedule allows that.
      callbacks: :class:`Callback` objects or functions ``(step, metrics)``, called one step late.
      stop_after: save and end after this step.
      quiet: print warnings only.
      trust: execute optimizer code that the resumed run names.
      **fields: fields of :class:`RunConfig`, such as ``steps``, ``lr`` or ``width``.

    Returns:
      The run after training, with ``params``, ``val_loss``, ``history``, ``folder``.

    Raises:
      UserError: an argument is wrong.
      Diverged: the loss, a gradient or a parameter isn't finite.
      TrainingFailed: a file can't be written.
      KeyboardInterrupt: a signal ended the run; it is saved.

    >>> result = train(opt="lion", preset="nano", steps=2, layers=1, out=None, quiet=True)
    >>> int(result.state.step)
    2
    """
    optimizer, chosen = _optimizer(opt, fields, resume is not None)
    dataset = _dataset(data, fields.get("vocab_size"))
    given = {**chosen, **({} if data is None else {"data": IN_MEMORY if dataset else data}), **fields}
    given = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    options = RunOptions(None if out is None else str(out), name, stop_after, trust=trust)
    reporter = Quiet() if quiet else Terminal()
    with Stop() as stop:
        session = Session(given, preset, options, reporter, stop, optimizer, dataset, tuple(callbacks))
        result = start_or_resume(session, None if resume is None else str(resume))
    if stop.signal is not None:
        raise Interrupted(stop.signal)
    if result is None:  # it was finished already
        return _finished(Path(str(resume)), optimizer, dataset, trust)
    return result


def _optimizer(
    opt: str | GradientTransformation | Factory | None, fields: Mapping[str, Any], resumes: bool
) -> tuple[GradientTransformation | None, dict[str, Any]]:
    """The optimizer as an object, if it is one, and the fields that follow from it."""
    if opt is None or isinstance(opt, str):
        return None, {} if opt is None else {"opt": opt}
    if isinstance(opt, GradientTransformation) or is_transformation(opt):
        if both := sorted(IN_PLACE_OF_SPECS.keys() & fields.keys()):
            raise UserError(f"{both[0]} is part of the optimizer that you pass as an object: omit it")
        return cast(GradientTransformation, opt), {} if resumes else {**IN_PLACE_OF_SPECS, "group": "none"}
    if callable(opt):
        return None, {"opt": name_of(opt)}
    raise UserError(f"opt must be a spec, a gradient transformation or a factory, got {type(opt).__name__}")


def _dataset(data: Any, vocab_size: int | None) -> Dataset | None:
    """The data, if it is in memory."""
    if isinstance(data, Dataset):
        return data
    if data is None or isinstance(data, str | Path) or _are_names(data):
        return None
    pair = isinstance(data, tuple) and len(data) == 2 and all(hasattr(part, "__len__") for part in data)
    return from_tokens(*data, vocab_size=vocab_size) if pair else from_tokens(data, vocab_size=vocab_size)


def _are_names(data: Any) -> bool:
    return isinstance(data, list | tuple) and len(data) > 0 and all(isinstance(name, str | Path) for name in data)


def _finished(path: Path, optimizer: Any, data: Dataset | None, trust: bool) -> Result:
    """The result of a run that is finished already."""
    run, state = reopen(path, "last", trust=trust, optimizer=optimizer, dataset=data)
    return Result(run, state, path, RunFolder(path).records(), Clock())


def load(path: str | Path, step: str | int = "best") -> TrainedModel:
    """Opens the model of a run; executes no code that its folder names.

    Args:
      path: the run's folder.
      step: a number of steps, "last", or "best": the checkpoint with the lowest validation loss.

    Raises:
      UserError: no such run or checkpoint, or it can't be read.
    """
    return restore(Path(path), str(step))


def compare(
    *,
    opt: Sequence[str | Factory],
    schedule: Sequence[str] = (),
    parametrization: str | Sequence[str] = (),
    widths: Sequence[int] = (),
    lr: float | Sequence[float] | str | None = None,
    seeds: int | str | None = None,
    max_seeds: int | None = None,
    target: float | None = None,
    baseline: str | None = None,
    pairs: bool = False,
    resolution: float | None = None,
    preset: str = "nano",
    out: str | Path = "runs",
    name: str | None = None,
    vmap: bool = False,
    quiet: bool = False,
    **fields: Any,
) -> ComparisonResult:
    """Compares optimizers, as the command ``compare`` does; finished runs aren't trained again.

    Args:
      opt: specs or factories, at least two of them, or one with several schedules.
      schedule: specs of learning-rate schedules; none takes the preset's.
      parametrization: specs of parametrizations; none takes the standard one, and with ``widths`` also ``"mup"``.
      widths: widths of the model, smallest first: how the best of ``lr`` changes with the width. Nothing is tested.
      lr: learning rate or rates to try; ``"auto"`` searches; None takes each optimizer's own.
      seeds: number of runs of each candidate, with seeds from ``seed`` up, at least 3, or 1 with ``widths``; more
        continue a comparison of fewer. None takes as many as a verdict needs, or 2 with ``widths``; ``"auto"`` adds
        them until the tests are decided.
      max_seeds: largest number of seeds for ``"auto"``; None takes 20.
      target: validation loss to reach; None uses the final loss of the baseline.
      baseline: name of the candidate that the others are tested against; None takes the first.
      pairs: test every two candidates instead.
      resolution: differences up to this size count as equal, nats per token; None takes 0.0001.
      preset: defaults of the fields that aren't given.
      out: folder that holds the comparison.
      name: its folder is ``out/name``; None derives one from the candidates.
      vmap: train runs of one optimizer together, in one program.
      quiet: print nothing.
      **fields: fields of :class:`RunConfig` that all runs share.

    Returns:
      The results; ``print`` shows them as a table, ``rows`` holds them as dictionaries.

    Raises:
      UserError: an argument is wrong.
      KeyboardInterrupt: a signal ended the comparison; the same call continues it.
    """
    first = fields.pop("seed", 0)
    rates = (lr,) if isinstance(lr, int | float) else () if lr is None or isinstance(lr, str) else tuple(lr)
    for argument, value in (("lr", lr), ("seeds", seeds)):
        if isinstance(value, str) and value != AUTO:
            raise UserError(f'{argument} takes numbers or "auto", got {value!r}')
    count = None if isinstance(seeds, str) else seeds
    parametrization = (parametrization,) if isinstance(parametrization, str) else tuple(parametrization)
    fields, parametrizations = comparisons.with_parametrizations(fields, parametrization, widths)
    comparison = comparisons.check(
        Comparison(
            preset=preset,
            given=shared_fields(fields),
            opts=tuple(one if isinstance(one, str) else name_of(one) for one in opt),
            schedules=tuple(schedule),
            lr=tuple(map(float, rates)),
            search=lr == AUTO,
            seeds=tuple(range(first, first + (FEWEST_SEEDS if count is None else count))),
            target=target,
            baseline=baseline,
            pairs=pairs,
            resolution=RESOLUTION if resolution is None else float(resolution),
            max_seeds=comparisons.most_seeds(seeds, max_seeds, resolution, tuple(widths)),
            widths=tuple(widths),
            parametrizations=parametrizations,
        )
    )
    folder = files.folder_in(out, name or folder_name(comparison))
    comparison = comparisons.continued(comparison, folder, count)
    files.require_replaceable(folder, RESULTS)
    status = run_comparison(comparison, folder, vmap=vmap, shown=not quiet)
    if status:
        raise Interrupted(status - 128)
    comparison = comparisons.continued(comparison, folder, None)  # with the seeds that were added
    candidates = collect_runs(comparison, folder)
    summary = summarize_comparison(comparison, candidates, target)
    return write_comparison(comparison, candidates, summary, folder)


def tune(
    *,
    opt: str | Factory,
    over: Mapping[str, str | Sequence[float]],
    budget: float | None = None,
    seeds: int = 1,
    judging_seeds: int = 2,
    proxy_width: int | None = None,
    preset: str = "nano",
    out: str | Path = "runs",
    name: str | None = None,
    vmap: bool = False,
    quiet: bool = False,
    **fields: Any,
) -> TuningResult:
    """Searches hyperparameters of one optimizer, as the command ``tune`` does; finished runs aren't trained again.

    Args:
      opt: spec or factory of the optimizer; its other keywords stay as they are.
      over: keyword -> its range, such as ``"1e-4..1e-2"``, or its values. A keyword is ``lr``, or a number of the
        optimizer or of the schedule, ``clip`` (its threshold) or ``dropout``.
      budget: of the search, in full runs per seed; None takes a fifth of an exhaustive search.
      seeds: number of runs per setting, with seeds from ``seed`` up.
      judging_seeds: number of further seeds, on which the best setting and the starting point are trained; 0 for none.
      proxy_width: train models of this width, as the base of ``parametrization`` ("mup" unless it is given), in place
        of ``width``; None trains the model itself.
      preset: defaults of the fields that aren't given.
      out: folder that holds the tuning.
      name: its folder is ``out/name``; None derives one from the optimizer and the keywords.
      vmap: train the settings of a stage together, in one program.
      quiet: print nothing.
      **fields: fields of :class:`RunConfig` that all runs share.

    Returns:
      The result, with ``best``, ``loss``, ``command``, ``rows``; ``print`` shows it.

    Raises:
      UserError: an argument is wrong.
      Diverged: every setting did.
      KeyboardInterrupt: a signal ended the tuning; the same call continues it.
    """
    SEEDS.check("seeds", seeds)
    first = fields.pop("seed", 0)
    as_text = lambda values: values if isinstance(values, str) else ",".join(map(repr, map(float, values)))
    tuning = tunings.check(
        Tuning(
            preset=preset,
            given={**shared_fields(fields), "opt": located(opt) if isinstance(opt, str) else name_of(opt)},
            over=tuple(f"{keyword}={as_text(values)}" for keyword, values in over.items()),
            seeds=tuple(range(first, first + seeds)),
            judging_seeds=judging_seeds,
            budget=None if budget is None else float(budget),
            proxy_width=proxy_width,
        )
    )
    folder = files.folder_in(out, name or tunings.folder_name(tuning))
    files.require_replaceable(folder, tuning_results.RESULTS)
    status, result = run_tuning(tuning, folder, vmap=vmap, shown=not quiet)
    if result is None:
        raise Interrupted(status - 128)
    tuning_results.write_results(result)
    return result


__all__ = ["compare", "load", "train", "tune"]
