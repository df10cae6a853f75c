"""Start a run or resume one: resolve the configuration, build, train, report."""

from __future__ import annotations

import functools
import json
import textwrap
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

from minigpt_flax.data import load_tokenizer, replacement_note
from minigpt_flax.errors import TrainingFailed, UserError
from minigpt_flax.invocation import line, show
from minigpt_flax.runs import files, loggers
from minigpt_flax.runs.folder import RunFolder, create_free
from minigpt_flax.train import memory, throughput
from minigpt_flax.train.artifacts import complete_artifacts, outcome_of, write_artifacts
from minigpt_flax.train.build import Run, build, check_memory
from minigpt_flax.train.checkpoint import Checkpoints, NoCheckpoints
from minigpt_flax.train.config.presets import default_preset
from minigpt_flax.train.config.run_config import (
    RunConfig,
    resolve,
    with_trust,
)
from minigpt_flax.train.config.stored import read_config, to_json
from minigpt_flax.train.initial_optimizer import load_optimizer
from minigpt_flax.train.initial_weights import (
    digest,
    fields_from_weights,
    first_params,
    first_state,
    initial_weights,
    known_tokenizer,
    require_tokenizer,
)
from minigpt_flax.train.loop import Profiler, Result, fit_in
from minigpt_flax.train.parallel.agreement import SAME_FILES, require_same, require_same_config, require_shared
from minigpt_flax.train.parallel.multihost import (
    broadcast_from_first,
    is_first,
    on_first_process,
    peers,
    synced_stop,
)
from minigpt_flax.train.profiling import Trace, read_steps
from minigpt_flax.train.reporter import Reporter
from minigpt_flax.train.restore import load_run_data
from minigpt_flax.train.resume_config import (
    change_note,
    changes,
    check_resume_flags,
    check_same_state,
    extended,
)
from minigpt_flax.train.scaling import rescaled
from minigpt_flax.train.session import RunOptions, Session
from minigpt_flax.train.state import TrainState
from minigpt_flax.train.store import Store, environment, latest

AUTO = "auto"  # of --resume
READING = "reading the data, training the tokenizer"


def start_or_resume(session: Session, resume_from: str | None) -> Result | None:
    """Starts a run, or resumes the one in a folder.

    Args:
      session: the request.
      resume_from: None starts; a folder resumes; ``auto`` resumes ``out/name`` if that is a run, else starts it.

    Returns:
      The run after training; None if it was stopped before the first step, or was finished already.
    """
    with throughput.Compilation() as compilation:
        if resume_from is None:
            return start(session, compilation)
        if resume_from != AUTO:
            return resume(session, resume_from, compilation)
        folder = RunFolder(files.folder_in(session.options.out or "", str(session.options.name)))
        if broadcast_from_first(folder.config.is_file):
            return resume(session, show(folder.path), compilation, restarted=True)
        return start(session, compilation)


def start(session: Session, compilation: throughput.Compilation) -> Result | None:
    """Starts a new run; nothing is written before all checks have passed."""
    options = session.options
    preset = session.preset or default_preset(jax.default_backend())
    source = initial_weights(session.given.get("init"))
    config = resolve(session.given, preset, fields_from_weights(session.given, source))
    named = (
        None if options.name is None or options.out is None else RunFolder(files.folder_in(options.out, options.name))
    )
    if session.data is None:
        require_tokenizer(session.given, source, config.data)
    require_same_config(config)
    broadcast_from_first(lambda: named and named.require_free())
    session.keep_compiled()
    loggers.require(config.log)
    if options.profile is not None:
        read_steps(options.profile, 0, last_step(config, options))
    session = _synced(session)
    if session.stops_early():
        return None
    memory.require_training(config)
    with session.reporter.working(READING):
        tokenizer = known_tokenizer(config, source)
        run = build(config, optimizer=session.optimizer, data=session.data, tokenizer=tokenizer)
    require_same_data(run)
    if session.stops_early():
        return None
    if config.tuned_at is not None:
        reference = resolve({**session.given, "tuned_at": None}, preset, fields_from_weights(session.given, source))
        lines = rescaled({**vars(reference), "tuned_at": config.tuned_at})[1]
        fill = functools.partial(textwrap.fill, width=69, subsequent_indent="  ")  # 80 columns with the label
        session.reporter.label("tuned at", "\n".join(map(fill, [config.tuned_at, *lines])))
    prepare(run, session)
    params = first_params(run, source)
    require_same_params(params)
    optimizer = load_optimizer(run.state, source.load_optimizer)
    if optimizer.text:
        session.reporter.note(f"init       {optimizer.text}", init=optimizer.text)
    state = first_state(run, params, optimizer)
    if session.stops_early():
        return None
    if options.out is None:
        return train_and_report(run, Store(None, NoCheckpoints()), state, session, compilation)
    out = options.out
    create = (lambda: named.create(reuse=True)) if named else (lambda: create_free(out, stem(config, preset)))
    folder = RunFolder(broadcast_from_first(lambda: str(create().path)))
    with on_first_process(folder.claim()):
        require_shared(folder.path)
        fill = lambda: folder.fill(to_json(run.config), environment(run, params), run.tokenizer.save)
        broadcast_from_first(fill)
        name_run(folder)
        with Checkpoints(folder.checkpoints, config.keep, config.keep_every) as checkpoints:
            return train_and_report(run, Store(folder, checkpoints), state, session, compilation)


def _synced(session: Session) -> Session:
    """The session with a stop that is synchronized over all processes."""
    stop = synced_stop(session.stop)
    return Session(**{**vars(session), "stop": stop})


def stem(config: RunConfig, preset: str) -> str:
    """Default name of a run's folder."""
    return f"{preset}-{config.opt.name.rpartition(':')[2]}-{config.seed}"


def prepare(run: Run, session: Session, done: int = 0) -> None:
    """Checks the memory, prints the summary, and starts to compile the step that follows ``done`` steps."""
    check_memory(run)
    for text in session.options.notices:
        session.reporter.warn(text)
    for text in run.tokenizer.notes:
        session.reporter.note(f"tokenizer  {text}", tokenizer=text)
    for text in run.data.notes:
        session.reporter.note(f"data       {text}", data=text)
    if count := run.data.replaced:
        session.reporter.note(f"text       {replacement_note(count)}", replaced=count)
    run.compile_in_background(done)


def require_same_data(run: Run) -> None:
    """Compares the data of all processes.

    Raises:
      UserError: it differs.
    """
    require_same({"data": f"--data with the SHA-256 {run.data.sha256}"}, SAME_FILES)


def require_same_params(params: Any) -> None:
    """Compares the weights of ``--init`` of all processes, which each reads for itself.

    Raises:
      UserError: they differ.
    """
    if params is not None and peers() is not None:
        require_same({"init": f"--init with weights of the SHA-256 {digest(params)}"}, SAME_FILES)


def name_run(folder: RunFolder) -> None:
    """Stores the run's folder, so that a process that ends because another died can print how to continue."""
    others = peers()
    if others is not None:
        others.run = show(folder.path)


def resume(
    session: Session, path: str, compilation: throughput.Compilation, *, restarted: bool = False
) -> Result | None:
    """Continues a run from its newest checkpoint.

    Args:
      session: the request.
      path: folder of the run.
      compilation: timer of the compilations so far.
      restarted: whether the command is the one that started the run, so ``--preset`` and ``--name`` are allowed.
    """
    folder, reporter = RunFolder(broadcast_from_first(lambda: str(RunFolder(path).path))), session.reporter
    broadcast_from_first(folder.require)
    with on_first_process(folder.claim()):
        require_shared(folder.path)
        name_run(folder)
        stored = read_config(folder.config)
        began = with_trust(stored.config, session.options.trust)
        wanted = check_resume_flags(session, path, began, restarted)
        require_same_config(wanted)
        session.keep_compiled()
        session = _synced(session)
        with Checkpoints(folder.checkpoints, wanted.keep, wanted.keep_every) as checkpoints:
            folder.require_checkpoints(checkpoints.steps(), stored.version)
            folder.check_tokenizer()
            config = extended(began, wanted, max(checkpoints.steps(), default=0), path, session.options.change)
            if config.steps in folder.scores() and config.steps in checkpoints.steps():
                report_finished(folder, config, reporter)
                return None
            loggers.require(config.log)
            if session.stops_early():
                return None
            memory.require_training(config)
            with reporter.working(READING):
                data = session.data or load_run_data(folder, config, load_tokenizer(folder.path))
                if data.sha256 != folder.data_hash():
                    raise UserError(f"{path} was trained on data with another SHA-256, {folder.data_hash()}")
                run = build(config, optimizer=session.optimizer, data=data)
            check_same_state(run, began, path)
            require_same_data(run)
            prepare(run, session, max(checkpoints.steps(), default=0))
            state = latest(run, Store(folder, checkpoints), reporter.warn, began)
            if changed := changes(began, config):
                reporter.note(change_note(int(state.step), changed), changed=changed)
                broadcast_from_first(lambda: keep_changes(folder, int(state.step), config, changed))
            return train_and_report(run, Store(folder, checkpoints), state, session, compilation)


def keep_changes(folder: RunFolder, step: int, config: RunConfig, changed: Mapping[str, Any]) -> None:
    """Records what a resumed run changes, and stores its configuration."""
    folder.record_change(step, changed)
    folder.update_config(to_json(config))


def report_finished(folder: RunFolder, config: RunConfig, reporter: Reporter) -> None:
    """Reports that the run is finished, and writes missing files of a run that was killed at its end."""
    text = f"{show(folder.path)} is finished: all {config.steps} steps are done"
    if made := complete_artifacts(folder, config.sample_tokens):
        text += f"; wrote what was missing: {', '.join(made)}"
    reporter.note(text, run=show(folder.path), step=config.steps)


def train_and_report(
    run: Run, store: Store, state: TrainState, session: Session, compilation: throughput.Compilation
) -> Result:
    """Trains and reports the results."""
    done, reporter, stop = int(state.step), session.reporter, session.stop
    profiler = tracing(session, run.config, store.folder, done)
    if not stop():
        reporter.plan(run, store.folder, done)
    with profiler as trace:
        result = fit_in(
            store,
            run,
            state,
            callbacks=session.callbacks,
            reporter=reporter,
            stop=stop,
            stop_after=session.options.stop_after,
            profiler=trace,
        )
    try:
        if not stop():
            reporter.speed(measure_speed(result, compilation, store.folder))
        report_end(result, store, session)
    except OSError as error:
        raise TrainingFailed(
            f"the run is saved, but {show(error.filename)} can't be written: {error.strerror}"
        ) from error
    return result


def report_end(result: Result, store: Store, session: Session) -> None:
    """Reports the results of a finished run, or how to continue one that was stopped."""
    folder, reporter, step = store.folder, session.reporter, int(result.state.step)
    if folder is None:
        if outcome := outcome_of(result.history):
            reporter.finished(None, outcome)
        return
    path = show(folder.path)
    if result.run.config.steps not in store.checkpoints.scores:
        command = line("train", "--resume", folder.path)
        reporter.note(f"stopped at step {step}; continue with: {command}", run=path, step=step)
    elif session.stop():
        reporter.note(f"{path} is finished: all {step} steps are done; no sample was drawn", run=path, step=step)
    else:
        outcome = write_artifacts(result.run, folder, result.state)
        if outcome is not None:
            reporter.finished(folder, outcome)


def last_step(config: RunConfig, options: RunOptions) -> int:
    """The step at which this start ends."""
    return min(config.steps, options.stop_after or config.steps)


def tracing(
    session: Session, config: RunConfig, folder: RunFolder | None, done: int
) -> AbstractContextManager[Profiler]:
    """The profiler, if requested."""
    if session.options.profile is None or folder is None:
        return nullcontext(lambda number, step: step)
    first, last = read_steps(session.options.profile, done, last_step(config, session.options))
    return Trace(first, last, folder.profile, lambda text: session.reporter.label("profile", text))


def measure_speed(result: Result, compilation: throughput.Compilation, folder: RunFolder | None) -> throughput.Speed:
    """Measures the throughput and writes it to ``speed.json``."""
    run, state = result.run, result.state
    phase = run.config.phases.largest
    analyze = lambda: run.step.lower(state, run.batches(phase.first)).compile().memory_analysis()
    found = throughput.measure(
        result.clock,
        compilation,
        state,
        throughput.peak_memory(state, analyze),
        tokens=round(result.clock.mean(lambda phase: phase.step_tokens, phase)),
        flops=round(result.clock.mean(run.flops, phase)),
        dtype=run.model.dtype,
    )
    if is_first() and folder is not None:
        files.replace(folder.speed, json.dumps(found.record(), indent=2) + "\n")
    return found
