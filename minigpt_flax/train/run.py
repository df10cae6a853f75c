"""One sitting of a run, new or continued: choose what to do, build it, train, say what came of it."""

from __future__ import annotations

import dataclasses
import json
import platform
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax

from minigpt_flax.cli.parser import AUTO, Request, tell_repeated
from minigpt_flax.console import reporters, terminal
from minigpt_flax.data import load_tokenizer, replacements
from minigpt_flax.errors import Failed, UserError
from minigpt_flax.invocation import line, show
from minigpt_flax.runs import files, loggers
from minigpt_flax.runs.folder import RunFolder, create_free
from minigpt_flax.spec import parse
from minigpt_flax.train import compile_cache, memory, throughput
from minigpt_flax.train.attempts import Sitting, latest, train_on
from minigpt_flax.train.build import Run, build, fits
from minigpt_flax.train.checkpoint import Checkpoints
from minigpt_flax.train.clock import Clock
from minigpt_flax.train.compile import Ahead
from minigpt_flax.train.config.run_config import (
    FIXED,
    PRESETS,
    RunConfig,
    canonical_groups,
    check,
    default_preset,
    read_config,
    resolve,
    spelled_out,
    to_json,
)
from minigpt_flax.train.initial_weights import digest, first_params, first_state, inherited, known_tokenizer, origin
from minigpt_flax.train.parallel.agreement import (
    SAME_FILES,
    commit,
    require_same,
    require_same_config,
    require_shared,
    versions,
)
from minigpt_flax.train.parallel.multihost import from_first, held_by_first, is_first, peers, together
from minigpt_flax.train.profiling import Trace, read_steps
from minigpt_flax.train.state import TrainState
from minigpt_flax.train.stop import Stop

READING = "reading the data"  # and learning a tokenizer from it, which is what takes long


def sit(request: Request, stop: Stop) -> None:
    """Begins a run, or goes on with one; listens from the start to what is compiled."""
    request, restarted = continue_or_start(request)
    with throughput.Compilation() as compilation:
        if request.resume is None:
            begin(request, stop, compilation)
        else:
            resume(request, stop, compilation, restarted)


def continue_or_start(request: Request) -> tuple[Request, bool]:
    """Decides ``--resume auto``: continue the run ``out/name`` if there is one, else start it.

    Returns:
      The request with a folder or None as ``resume``, and whether the same line starts and continues the run.
    """
    if request.resume != AUTO:
        return request, False
    folder = RunFolder(Path(request.out) / str(request.name))
    there = from_first(folder.config.is_file)
    return dataclasses.replace(request, resume=show(folder.path) if there else None), there


def begin(request: Request, stop: Stop, compilation: throughput.Compilation) -> None:
    """Starts a new run; nothing is written before all of it is known to be right."""
    preset = request.preset or default_preset(jax.default_backend())
    source = origin(request.given.get("init"))
    config = resolve(request.given, preset, inherited(request.given, source))
    named = None if request.name is None else RunFolder(Path(request.out) / request.name)
    require_same_config(config)
    from_first(lambda: named and named.require_free())
    keep_compiled(request)
    loggers.require(config.log)
    if request.profile is not None:
        read_steps(request.profile, 0, last_step(config, request))
    stop = together(stop)
    if _early(stop, request):
        return
    memory.require_training(config)
    with reporters.of(request).working(READING):
        run = build(config, tokenizer=known_tokenizer(config, source))
    require_same_data(run)
    if _early(stop, request):
        return
    _say_replaced(run, request)
    run = compiling(run)
    params = first_params(run, source)
    require_same_params(params)
    state = first_state(run, params)
    if _early(stop, request):
        return
    stem = f"{preset}-{parse(config.opt, 'optimizer').name}-{config.seed}"
    create = (lambda: named.create(reuse=True)) if named is not None else (lambda: create_free(request.out, stem))
    folder = RunFolder(from_first(lambda: str(create().path)))
    with held_by_first(folder.claim()):
        require_shared(folder.path)
        from_first(lambda: folder.fill(to_json(config), environment(run, params), run.tokenizer.save))
        name_run(folder)
        with Checkpoints(folder.checkpoints, config.keep, config.keep_every) as checkpoints:
            follow(run, folder, checkpoints, state, stop, request, compilation)


def _say_replaced(run: Run, request: Request) -> None:
    if count := run.data.replaced:
        reporters.of(request).note(f"text       {replacements(count)}", replaced=count)


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
    """Lets a process that is ended by the end of another say how to continue."""
    others = peers()
    if others is not None:
        others.run = show(folder.path)


def compiling(run: Run) -> Run:
    """The run, with its step being compiled while the first state is made or read."""
    fits(run)
    tell_repeated()
    batch = run.batches(0)
    return run.each_step(lambda step: Ahead(step, run.state, batch, check=memory.require_planned))


def _early(stop: Stop, request: Request) -> bool:
    """Whether somebody asked to stop; says so. Asked between whatever takes seconds."""
    if stop():
        reporters.of(request).note("stopped before the first step; nothing was written")
    return stop()


def resume(request: Request, stop: Stop, compilation: throughput.Compilation, restarted: bool = False) -> None:
    """Continues a run where its newest checkpoint left it.

    Args:
      request: what was typed; ``resume`` is a folder.
      stop: of this process.
      compilation: what was compiled so far.
      restarted: with the line that started the run, which may name its preset and its folder.
    """
    folder, voice = RunFolder(from_first(lambda: str(RunFolder(request.resume or "").path))), reporters.of(request)
    from_first(folder.require)
    with held_by_first(folder.claim()):
        require_shared(folder.path)
        name_run(folder)
        stored = read_config(folder.config)
        config = agree(request, stored.config, restarted)
        require_same_config(config)
        keep_compiled(request)
        stop = together(stop)
        with Checkpoints(folder.checkpoints, config.keep, config.keep_every) as checkpoints:
            folder.require_checkpoints(checkpoints.steps(), stored.version)
            folder.check_tokenizer()
            if config.steps in folder.scores() and config.steps in checkpoints.steps():
                finished = f"{show(folder.path)} is finished: all {config.steps} steps are done"
                if made := terminal.complete(folder, config):
                    finished += f"; made what it lacked: {', '.join(made)}"
                voice.note(finished, run=show(folder.path), step=config.steps)
                return
            loggers.require(config.log)
            if _early(stop, request):
                return
            memory.require_training(config)
            with voice.working(READING):
                run = build(config, tokenizer=load_tokenizer(folder.path), data_hash=folder.data_hash())
            _say_replaced(run, request)
            require_same_data(run)
            run = compiling(run)
            state = latest(run, folder, checkpoints, voice.warn)
            follow(run, folder, checkpoints, state, stop, request, compilation)


def agree(request: Request, config: RunConfig, restarted: bool = False) -> RunConfig:
    """The configuration to go on with: the run's own, with what was typed and may change.

    Args:
      request: what was typed.
      config: of the run.
      restarted: with the line that started the run, which may name its preset and its folder.

    Raises:
      UserError: a flag says something else of what is fixed; names it.
    """
    typed = spelled_out(request.given, vars(config))  # a word may leave open what the configuration holds
    if "group" in typed:
        typed["group"] = canonical_groups(typed["group"], config)
    if restarted and request.preset is not None and config.init is None:
        wanted = resolve(request.given, request.preset)
        typed = {name: getattr(wanted, name) for name in PRESETS[request.preset]} | typed
    for name, value in typed.items():
        if name in FIXED and getattr(config, name) != value:
            raise UserError(
                f"--resume {request.resume} was started with {name}={getattr(config, name)!r}, not {value!r}: "
                "leave the flag out, or start another run"
            )
    for flag in ("preset", "name"):
        if getattr(request, flag) is not None and not restarted:
            raise UserError(f"--resume {request.resume} takes no --{flag}: the run has its own; leave it out")
    return check(dataclasses.replace(config, **typed))


def environment(run: Run, params: Any = None) -> dict[str, Any]:
    """What the numbers depend on beside the config.

    Args:
      run: the run.
      params: that it begins with, where they aren't drawn.
    """
    return {
        "versions": versions(),
        "machine": platform.platform(),
        "devices": [str(device) for device in jax.devices()],
        "commit": commit(),
        "data": {"name": run.data.name, "sha256": run.data.sha256},
        "init": None if params is None else {"name": run.config.init, "sha256": digest(params)},
    }


def follow(
    run: Run,
    folder: RunFolder,
    checkpoints: Checkpoints,
    state: TrainState,
    stop: Stop,
    request: Request,
    compilation: throughput.Compilation,
) -> None:
    """Trains and reports the end."""
    config, done, voice = run.config, int(state.step), reporters.of(request)
    traced = tracing(request, config, folder, done)
    if not stop():
        voice.plan(run, folder, done)
    with voice.progress(config, done) as progress, traced as trace:
        state = train_on(run.each_step(trace), state, Sitting(folder, checkpoints, progress, stop, request.stop_after))
    try:
        if not stop():
            voice.speed(report(run, folder, state, progress.clock, compilation))
        path, step = show(folder.path), int(state.step)
        if config.steps not in checkpoints.scores:
            voice.note(
                f"stopped at step {step}; continue with: {line('train', '--resume', folder.path)}", run=path, step=step
            )
        elif stop():
            voice.note(f"{path} is finished: all {step} steps are done; no sample was drawn", run=path, step=step)
        else:
            voice.ending(run, folder, state)
    except OSError as error:
        raise Failed(f"the run is saved, but {show(error.filename)} can't be written: {error.strerror}") from error


def last_step(config: RunConfig, request: Request) -> int:
    """The last step that this sitting will do."""
    return min(config.steps, request.stop_after or config.steps)


def tracing(request: Request, config: RunConfig, folder: RunFolder, done: int) -> AbstractContextManager:
    """Makes of a step one that traces itself where that is asked for."""
    if request.profile is None:
        return nullcontext(lambda step: step)
    first, last = read_steps(request.profile, done, last_step(config, request))
    return Trace(done, first, last, folder.profile, lambda text: reporters.of(request).label("profile", text))


def keep_compiled(request: Request) -> None:
    """Has what is compiled kept for the next time, or says why not."""
    problem = compile_cache.use(request.compile_cache, jax.devices()[0].device_kind)
    if problem is not None:
        reporters.of(request).label("cache", problem)


def report(
    run: Run, folder: RunFolder, state: TrainState, clock: Clock, compilation: throughput.Compilation
) -> throughput.Speed:
    """How fast the sitting was; kept in the folder too."""
    analyse = lambda: run.step.lower(state, run.batches(0)).compile().memory_analysis()
    found = throughput.measure(
        clock,
        compilation,
        state,
        throughput.peak_memory(state, analyse),
        tokens=run.config.step_tokens,
        flops=run.flops,
        dtype=run.model.dtype,
    )
    if is_first():
        files.replace(folder.speed, json.dumps(found.record(), indent=2) + "\n")
    return found
