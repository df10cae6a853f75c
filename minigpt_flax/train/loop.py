"""The loop: send a step, look at the one before it; validate, save, and end well however the end comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from minigpt_flax.errors import Diverged, Unsaved
from minigpt_flax.train.build import Run
from minigpt_flax.train.callbacks import Hook
from minigpt_flax.train.checkpoint import Checkpoints
from minigpt_flax.train.evaluate import Abandoned
from minigpt_flax.train.state import TrainState
from minigpt_flax.train.stop import Stop


def train(
    run: Run,
    state: TrainState,
    *,
    hooks: Sequence[Hook],
    on_validation: Hook,
    checkpoints: Checkpoints,
    stop: Stop,
    before_save: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
    stop_after: int | None = None,
) -> TrainState:
    """Runs the steps that ``state`` has not yet done.

    A validation is due after every ``eval_every`` steps and after the last. One that a request to stop cuts short is
    done again, from the checkpoint of that step, before the run goes on. A save that fails is told, and the run goes
    on, as long as there is a checkpoint from before; the last save must succeed.

    Args:
      run: the parts.
      state: where to begin.
      hooks: called with every step's metrics, one step late.
      on_validation: called with the results of every validation.
      checkpoints: where to save; its scores tell which validations are done.
      stop: tells when a signal asked to end.
      before_save: brings to the disk what a checkpoint must not outlive.
      say: takes a line about a save that failed.
      stop_after: end, as if asked, when this many steps of the run are done.

    Returns:
      The state at the end, saved.

    Raises:
      Diverged: from the guard, or the validation loss isn't finite; the checkpoints hold only states from before.
      Failed: something can't be written.
    """
    config = run.config
    pending: tuple[int, Any] | None = None

    def drain() -> None:
        nonlocal pending
        if pending is not None:
            (step, measured), pending = pending, None
            metrics = jax.device_get(measured)
            for hook in hooks:
                hook(step, metrics)

    def due(step: int) -> bool:
        return 0 < step and (step % config.eval_every == 0 or step == config.steps) and step not in checkpoints.scores

    def marked(step: int) -> bool:
        return config.keep_every is not None and step % config.keep_every == 0

    @contextmanager
    def enduring() -> Iterator[None]:
        """Lets the run go on after a save that failed, if not everything would be lost with it."""
        try:
            yield
        except Unsaved as error:
            saved = checkpoints.steps()
            if not saved:
                raise
            say(f"{error}; going on, the checkpoint of step {saved[-1]} is whole")

    def save(val_loss: float | None = None) -> None:
        with enduring():
            checkpoints.wait()
        with enduring():
            before_save()
            checkpoints.save(state, val_loss)

    start = done = int(state.step)
    last = config.steps if stop_after is None else min(config.steps, stop_after)
    while not stop():
        if due(done):
            drain()
            try:
                results = run.evaluate(state.evaluation_params, stop)
            except Abandoned:
                break
            on_validation(done, results)
            if not math.isfinite(results["val_loss"]):
                raise Diverged(f"validation loss {results['val_loss']} at step {done}")
            save(results["val_loss"])
        elif start < done and marked(done):
            drain()
            save()
        if done >= last:
            break
        state, metrics = run.at(done + 1)(state, run.batches(done))
        drain()
        done += 1
        pending = (done, metrics)
    drain()
    with enduring():
        checkpoints.wait()
    before_save()
    checkpoints.save(state)
    checkpoints.wait()
    return state
