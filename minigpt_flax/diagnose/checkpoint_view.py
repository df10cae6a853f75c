"""A checkpoint of a run as pure functions of its parameters over fixed batches: loss, gradient, Hessian, step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from jaxopt_mini import states, tree
from minigpt_flax.diagnose.lanczos import Spectrum, flat, spectrum
from minigpt_flax.spec import Spec
from minigpt_flax.train.build import Run, loss_sum, make_run
from minigpt_flax.train.restore import reopen
from minigpt_flax.train.state import TrainState

SEED_OFFSET = 1  # added to the run's seed, so that the batches differ from those of its first steps
LANCZOS_STEPS = 16  # Hessian-vector products per probe
PROBES = 3  # random start vectors

Params = Any
Report = Callable[[str, int, int], None]
"""``(task, done, total)``: called after each part of a long computation."""


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint and the batches to evaluate it on.

    Attributes:
      run: the assembled run.
      state: the checkpoint's state; ``params`` are the trained parameters, not an average of them.
      batches: int32[K, B, T + 1], fixed.
      folder: folder of the run.
      report: called with the progress.
      schedule_ended: whether the run's learning rate has decayed to 0; steps then use the peak learning rate.
    """

    run: Run
    state: TrainState
    batches: Int32[Array, "K B length"]
    folder: Path
    report: Report
    schedule_ended: bool = False

    @property
    def params(self) -> Params:
        """The parameters."""
        return self.state.params

    @property
    def size(self) -> int:
        """Number of parameters."""
        return tree.size(self.params)

    @property
    def lr(self) -> float:
        """Learning rate of the next step; the peak rate if the schedule has ended."""
        return _learning_rate(self.run, self.state)

    @property
    def tokens(self) -> int:
        """Tokens per batch."""
        return self.batches.shape[1] * (self.batches.shape[2] - 1)

    def loss(self, params: Params, batch: Int32[Array, "B length"]) -> Float[Array, ""]:
        """Mean loss of one batch without dropout, nats per token."""
        model = dataclasses.replace(self.run.model, dropout=0.0)
        total, count = loss_sum(model)(params, batch[:, :-1], batch[:, 1:], jax.random.key(0))
        return total / count

    def draw(self, number: int) -> Int32[Array, "K B length"]:
        """The first ``number`` batches of the order that ``batches`` starts."""
        return draw_batches(self.run, number)

    def mean_loss(self, params: Params) -> Float[Array, ""]:
        """Mean loss over all batches, computed sequentially."""
        return jax.lax.map(lambda batch: self.loss(params, batch), self.batches).mean()

    def gradient(self, params: Params, batches: Int32[Array, "K B length"]) -> Params:
        """Gradient of the mean loss over ``batches``."""
        return _mean(lambda batch: jax.grad(self.loss)(params, batch), params, batches)

    def hessian_product(self, params: Params, vector: Params) -> Params:
        """Hessian of :meth:`mean_loss` times a vector, by reverse-mode differentiation of the gradient.

        The Hessian is symmetric, so v^T H equals H v. Reverse mode, because a layer with a custom gradient may not
        support forward mode.
        """

        def product(batch):
            return jax.vjp(lambda p: jax.grad(self.loss)(p, batch), params)[1](vector)[0]

        return _mean(product, params, self.batches)

    @cached_property
    def spectrum(self) -> Spectrum:
        """The spectrum of the Hessian, estimated at first access."""
        product = flat(lambda vector: self.hessian_product(self.params, vector), self.params)
        total = LANCZOS_STEPS * PROBES
        done = iter(range(1, total + 1))
        tick = lambda: self.report("hessian", next(done), total)
        return spectrum(product, self.size, jax.random.key(0), depth=LANCZOS_STEPS, probes=PROBES, tick=tick)

    def step(self, state: TrainState, batch: Int32[Array, "B length"]) -> tuple[TrainState, Params]:
        """One training step of the run.

        Returns:
          The next state and the change of the parameters; ``state`` stays valid.
        """
        after, _ = jax.jit(self.run.step)(state, batch)  # an outer jit ignores the inner one's donation
        return after, jax.tree.map(jnp.subtract, after.params, state.params)


def _mean(function: Callable[[Array], Params], like: Params, batches: Int32[Array, "K B length"]) -> Params:
    """Mean of a tree-valued function over batches, with the memory of a single batch."""

    def add(total, batch):
        return jax.tree.map(jnp.add, total, function(batch)), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, like), batches)
    return jax.tree.map(lambda leaf: leaf / len(batches), total)


def draw_batches(run: Run, number: int) -> Int32[Array, "K B length"]:
    """Batches of the run's batch size from its training data, in a different order than in training."""
    config = run.config
    batches = run.data.batches(config.batch_size, config.context, config.seed + SEED_OFFSET)
    return jnp.asarray(np.stack([batches(t) for t in range(number)]))


def load(
    folder: Path, step: str, number: int, report: Report, *, data: Sequence[str] | None = None, trust: bool = False
) -> CheckpointView:
    """Opens a checkpoint.

    Args:
      folder: folder of the run.
      step: number of a step, "last" or "best".
      number: K, the number of batches of the run's batch size.
      report: called with the progress.
      data: where the run's data is now; None looks where it was.
      trust: execute optimizer code that the folder names.

    Raises:
      UserError: the run or checkpoint doesn't exist, or its data is missing or has changed.
    """
    run, state = reopen(folder, step, data=data, trust=trust)
    if ended := _learning_rate(run, state) == 0:  # at rate 0 no step moves and any curvature is stable
        run = make_run(dataclasses.replace(run.config, schedule=Spec("constant")), run.data)
    return CheckpointView(run, state, draw_batches(run, number), folder, report, ended)


def _learning_rate(run: Run, state: TrainState) -> float:
    """Learning rate of the step after a checkpoint; NaN where the optimizer doesn't tell it."""
    rate = states.learning_rate(state.opt_state, run.schedule)
    return math.nan if rate is None else float(jnp.asarray(rate))
