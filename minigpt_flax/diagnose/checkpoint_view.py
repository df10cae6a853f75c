"""What a diagnosis looks at: a checkpoint of a run as pure functions of its parameters, over fixed batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from jaxopt_mini import tree
from minigpt_flax.diagnose.lanczos import Spectrum, flat, spectrum
from minigpt_flax.train.build import Run, assemble, loss_sum
from minigpt_flax.train.restore import reopen
from minigpt_flax.train.state import TrainState

LOOK_SEED = 1  # added to the run's seed: the batches looked at are not those of its first steps

DEPTH = 16  # Lanczos products from one start
PROBES = 3  # starts

Params = Any
Report = Callable[[str, int, int], None]
"""``(what, done, total)``: told after every piece of a long computation."""


@dataclass(frozen=True)
class Subject:
    """A checkpoint and the batches that it is looked at with.

    Attributes:
      run: the parts of the run.
      state: the checkpoint; its parameters are those of the training, not an average.
      batches: int32[K, B, T + 1], fixed.
      folder: of the run.
      report: told of progress.
      over: whether the run's schedule has ended at 0; steps from here are then looked at with the peak rate.
    """

    run: Run
    state: TrainState
    batches: Int32[Array, "K B length"]
    folder: Path
    report: Report
    over: bool = False

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
        """Learning rate of the step after the checkpoint, the peak if the run is over."""
        return float(self.run.schedule(self.state.step))

    @property
    def tokens(self) -> int:
        """Tokens in one of the batches."""
        return self.batches.shape[1] * (self.batches.shape[2] - 1)

    def loss(self, params: Params, batch: Int32[Array, "B length"]) -> Float[Array, ""]:
        """Mean loss of one batch in nats per token, nothing dropped out."""
        model = dataclasses.replace(self.run.model, dropout=0.0)
        total, count = loss_sum(model)(params, batch[:, :-1], batch[:, 1:], jax.random.key(0))
        return total / count

    def draw(self, number: int) -> Int32[Array, "K B length"]:
        """The first so many batches of the order that diagnoses see."""
        return draw(self.run, number)

    def mean_loss(self, params: Params) -> Float[Array, ""]:
        """Mean loss over all batches, one after the other."""
        return jax.lax.map(lambda batch: self.loss(params, batch), self.batches).mean()

    def gradient(self, params: Params, batches: Int32[Array, "K B length"]) -> Params:
        """Gradient of the mean loss over ``batches``."""
        return _mean(lambda batch: jax.grad(self.loss)(params, batch), params, batches)

    def hessian_product(self, params: Params, vector: Params) -> Params:
        """Hessian of :meth:`mean_loss` times a vector, by differentiating the gradient backwards.

        The Hessian is symmetric, so that v^T H is H v; backwards, as a layer may have a gradient of its own, which
        can't be differentiated forwards.
        """

        def product(batch):
            return jax.vjp(lambda p: jax.grad(self.loss)(p, batch), params)[1](vector)[0]

        return _mean(product, params, self.batches)

    @cached_property
    def spectrum(self) -> Spectrum:
        """The spectrum of the Hessian, measured when it is first asked for."""
        product = flat(lambda vector: self.hessian_product(self.params, vector), self.params)
        done = iter(range(1, DEPTH * PROBES + 1))
        tick = lambda: self.report("hessian", next(done), DEPTH * PROBES)
        return spectrum(product, self.size, jax.random.key(0), depth=DEPTH, probes=PROBES, tick=tick)

    def step(self, state: TrainState, batch: Int32[Array, "B length"]) -> tuple[TrainState, Params]:
        """One step of the run's own, and what it added to the parameters; ``state`` stays usable."""
        after, _ = jax.jit(self.run.step)(state, batch)  # inside another jit nothing is donated
        return after, jax.tree.map(jnp.subtract, after.params, state.params)


def _mean(function: Callable[[Array], Params], like: Params, batches: Int32[Array, "K B length"]) -> Params:
    """Mean of a tree-valued function over batches, in the memory of one."""

    def add(total, batch):
        return jax.tree.map(jnp.add, total, function(batch)), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, like), batches)
    return jax.tree.map(lambda leaf: leaf / len(batches), total)


def draw(run: Run, number: int) -> Int32[Array, "K B length"]:
    """Batches of the run's own size from its training data, in an order of their own."""
    config = run.config
    order = run.data.batches(config.batch_size, config.context, config.seed + LOOK_SEED)
    return jnp.asarray(np.stack([order(t) for t in range(number)]))


def load(folder: Path, step: str, number: int, report: Report) -> Subject:
    """Opens a checkpoint.

    Args:
      folder: of the run.
      step: a number of steps, "last" or "best".
      number: K, how many batches of the run's own size to look at.
      report: told of progress.

    Raises:
      UserError: no such run or checkpoint, or its data has changed.
    """
    run, state = reopen(folder, step)
    if over := float(run.schedule(state.step)) == 0:  # no step would move, and any curvature would be stable
        run = assemble(dataclasses.replace(run.config, schedule="constant"), run.data)
    return Subject(run, state, draw(run, number), folder, report, over)
