"""Several runs of one program trained at once, by ``jax.vmap`` over their learning rates and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minigpt_flax.compare.traced_run import Program, stack
from minigpt_flax.compare.trial import Watch, guard, log, prepared
from minigpt_flax.errors import Diverged
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.train.build import Run
from minigpt_flax.train.callbacks import Guard, Log
from minigpt_flax.train.checkpoint import Checkpoints
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.evaluate import Abandoned
from minigpt_flax.train.stop import Stop


@dataclass
class Lane:
    """One of the runs."""

    run: Run
    folder: RunFolder
    lines: Log
    guard: Guard
    broke: bool = False

    def step(self, step: int, metrics: dict[str, Any]) -> None:
        """Looks at a step; a run that breaks is over, while its lane goes on for the others' sake."""
        if self.broke:
            return
        try:
            self.lines(step, metrics)
            self.guard(step, metrics)
        except Diverged:
            self.broke = True

    def validate(self, step: int, state: Any, stop: Stop) -> None:
        """Judges the run; after the last step keeps its state."""
        if self.broke:
            return
        try:
            results = self.run.evaluate(state.evaluation_params, stop)
        except Abandoned:
            return
        self.lines.write(step, results)
        self.broke = not np.isfinite(results["val_loss"])
        if step == self.run.config.steps and not self.broke:
            with Checkpoints(self.folder.checkpoints, self.run.config.keep) as checkpoints:
                checkpoints.save(state, results["val_loss"])


def together(parts: Program, group: Mapping[Path, RunConfig], stop: Stop, watch: Watch = lambda step: None) -> None:
    """Trains runs of one length from their beginning; what a stop cuts short begins anew the next time.

    Raises:
      UserError: a folder can't be used.
      Failed: something can't be written.
    """
    config = next(iter(group.values()))
    with ExitStack() as opened:
        lanes = [_lane(opened, parts, path, each, len(group)) for path, each in group.items()]
        knobs = stack([parts.knobs(each) for each in group.values()])
        states, before = parts.init_many(knobs), None
        for done in range(config.steps + 1):
            if done and (done % config.eval_every == 0 or done == config.steps):
                before = _drain(lanes, before)
                for i, lane in enumerate(lanes):
                    lane.validate(done, jax.tree.map(lambda leaf, i=i: leaf[i], states), stop)
            if done == config.steps or stop():
                break
            batches = jnp.stack([lane.run.batches(done) for lane in lanes])
            states, metrics = parts.step_many(knobs, states, batches)
            _drain(lanes, before)
            before = (done + 1, metrics)
            watch(done)


def _lane(opened: ExitStack, parts: Program, path: Path, config: RunConfig, count: int) -> Lane:
    run = parts.single(config)
    folder = opened.enter_context(prepared(run, path, together=count))
    folder.forget_after(0)
    lines = opened.enter_context(log(run, folder))
    return Lane(run, folder, lines, guard(run, lines))


def _drain(lanes: list[Lane], pending: tuple[int, Any] | None) -> None:
    """Hands the metrics of a step, one step late, to each lane its own."""
    if pending is not None:
        step, metrics = pending[0], jax.device_get(pending[1])
        for i, lane in enumerate(lanes):
            lane.step(step, {name: value[i] for name, value in metrics.items()})
