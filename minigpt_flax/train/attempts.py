"""Training to the end, in one attempt or, with ``--on-nan rollback``, in several: a broken step ends one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from minigpt_flax.console.terminal import Timekeeper
from minigpt_flax.data import Prefetch
from minigpt_flax.errors import Diverged, Failed, UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.runs.loggers import open_all
from minigpt_flax.train.build import Run
from minigpt_flax.train.callbacks import Guard, LeftOut, Log
from minigpt_flax.train.checkpoint import Checkpoints
from minigpt_flax.train.initial_weights import digest, first_params, first_state, origin
from minigpt_flax.train.loop import train
from minigpt_flax.train.nonfinite import number_of, passing_over
from minigpt_flax.train.parallel.multihost import from_first, is_first
from minigpt_flax.train.parts import part_names
from minigpt_flax.train.state import TrainState
from minigpt_flax.train.stop import Stop


def latest(run: Run, folder: RunFolder, checkpoints: Checkpoints, say: Callable[[str], None]) -> TrainState:
    """The newest state that can be used; records of steps after it are dropped, as they will be written again.

    Raises:
      UserError: the run has saved nothing yet, and the weights that it began with have changed.
    """
    if checkpoints.steps():
        state = checkpoints.restore(run.state, say)
    else:  # ended before the first save: its first state is known all the same
        state = first_state(run, _first_params(run, folder))
    done = int(state.step)
    from_first(lambda: folder.forget_after(done))
    checkpoints.scores = folder.scores()
    return state


def _first_params(run: Run, folder: RunFolder) -> Any:
    params, expected = first_params(run, origin(run.config.init)), folder.init_hash()
    if params is not None and expected not in (None, digest(params)):
        raise UserError(
            f"the weights of --init {run.config.init} have changed since {show(folder.path)} began, which has saved "
            f"none of its own yet: bring back those with the SHA-256 {expected}, or start another run"
        )
    return params


class Sitting(NamedTuple):
    """What surrounds a run while it trains.

    Attributes:
      folder: of the run.
      checkpoints: in it.
      progress: shows where it stands.
      stop: whether somebody asked to stop.
      stop_after: the last step to do; None means the run's.
    """

    folder: RunFolder
    checkpoints: Checkpoints
    progress: Timekeeper
    stop: Stop
    stop_after: int | None = None


def train_on(run: Run, state: TrainState, sitting: Sitting) -> TrainState:
    """Trains; goes back and past the batch where a step broke, as often as the policy allows.

    Returns:
      The state at the end, saved.

    Raises:
      Diverged: and the policy doesn't go on; says what is left.
      Failed: something can't be written.
    """
    folder, checkpoints, say = sitting.folder, sitting.checkpoints, sitting.progress.say
    while True:
        passed = folder.passed_over()
        try:
            part = dataclasses.replace(run, batches=passing_over(run.batches, passed))
            return _attempt(part, state, sitting)
        except Diverged as error:
            with contextlib.suppress(Failed):
                checkpoints.wait()
            saved = checkpoints.steps()
            left = f"the checkpoint of step {saved[-1]} is from before that" if saved else "no checkpoint was saved"
            if error.step is None or len(passed) >= run.on_nan.rollbacks:
                raise Diverged(f"{error}; {left}; start anew with a lower --lr or --clip") from error
            batch = number_of(error.step - 1, passed)
            say(f"{error}; {left}: going back, and on without batch {batch}")
            from_first(lambda passed=passed, batch=batch: folder.pass_over([*passed, batch]))
            state = latest(run, folder, checkpoints, say)


def _attempt(run: Run, state: TrainState, sitting: Sitting) -> TrainState:
    """Trains with every hook in place."""
    folder, progress = sitting.folder, sitting.progress
    config, records = run.config, folder.records()
    names = part_names(run.layout, run.shapes)
    seconds = records[-1]["seconds"] if records else 0.0
    opened = open_all(config.log, folder.path, vars(config), int(state.step)) if is_first() else []
    with (
        Prefetch(run.batches, first=int(state.step), stop=config.steps, put=_placed) as batches,
        Log(folder, config.log_every, config.step_tokens, seconds, progress.say, [*progress.loggers, *opened]) as log,
    ):

        def warn(step, norm, name):
            log.write(step, {"explosion": norm})
            progress.say(f"gradient norm {norm:.3g} exceeds {config.explosion:g} at step {step}; largest in {name}")

        def evaluate(params, stop):
            return run.evaluate(params, progress.validating(stop))

        def on_validation(step, results):
            log.write(step, results)
            progress.validated(step, results)

        warned = any("explosion" in record for record in records)
        guard = Guard(names, config.explosion, warn, warned=warned, skips=run.on_nan.skips)
        return train(
            dataclasses.replace(run, batches=batches, evaluate=evaluate),
            state,
            hooks=[log, guard, LeftOut(state.opt_state, progress.say), progress],
            on_validation=on_validation,
            before_save=lambda: from_first(log.sync),
            say=progress.say,
            checkpoints=sitting.checkpoints,
            stop=sitting.stop,
            stop_after=sitting.stop_after,
        )


def _placed(batch: Any) -> Any:
    """A batch on its device; one that lies on several already stays where it is."""
    return batch if isinstance(batch, jax.Array) else jax.device_put(batch)
