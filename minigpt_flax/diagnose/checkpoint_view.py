"""A checkpoint of a run as pure functions of its parameters over fixed batches: loss, gradient, Hessian, step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32
from optax import PartitionState

from jaxopt_mini import ClipByNormState, states, tree
from minigpt_flax.diagnose.lanczos import Spectrum, flat, spectrum
from minigpt_flax.diagnose.result import Report
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.spec import Spec
from minigpt_flax.train.build import Run, loss_sum, make_run
from minigpt_flax.train.config.param_groups import REST, members
from minigpt_flax.train.multipliers import labels
from minigpt_flax.train.optimizer import schedules_of, updates_of
from minigpt_flax.train.probe_wrappers import find
from minigpt_flax.train.restore import reopen
from minigpt_flax.train.state import TrainState
from minigpt_flax.train.varied import at

SEED_OFFSET = 1  # added to the run's seed, so that the batches differ from those of its first steps
LANCZOS_STEPS = 16  # Hessian-vector products per probe
PROBES = 3  # random start vectors

Params = Any


class ParamsGroup(NamedTuple):
    """The parameters that one optimizer trains.

    Attributes:
      where: the role or pattern of the group; empty in a run without groups.
      optimizer: its spec.
      lr: learning rate of its next step; NaN where the optimizer doesn't tell it.
      state: its optimizer's state.
      layers: names of the parameters -> the layers of each that belong to the group; None for the whole parameter.
    """

    where: str
    optimizer: Spec
    lr: float
    state: Any
    layers: Mapping[str, tuple[int, ...] | None]


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint and the batches to evaluate it on.

    Loss, gradient and Hessian are computed in float32 and without dropout, whatever the run trains with.

    Attributes:
      run: the assembled run.
      state: the checkpoint's state; ``params`` are the trained parameters, not an average of them.
      batches: int32[K, B, T + 1], fixed; B sequences are those of a whole step, with all its micro-batches.
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

    @cached_property
    def params(self) -> Params:
        """The trained parameters, in float32."""
        return jax.tree.map(tree.widen, self.state.params)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return tree.size(self.params)

    @property
    def lr(self) -> float:
        """Learning rate of the next step; the peak rate if the schedule has ended."""
        return _rate_after(self.state.opt_state, self.run.schedule)

    @property
    def tokens(self) -> int:
        """Tokens per batch, those of a whole step."""
        return self.batches.shape[1] * (self.batches.shape[2] - 1)

    @cached_property
    def groups(self) -> list[ParamsGroup]:
        """The groups of parameters, each with its optimizer; one without ``--group``."""
        config, state = self.run.config, self.state.opt_state
        names = tree.by_name(self.params)
        if not config.group:
            return [ParamsGroup("", self.now(config.opt), self.lr, state, dict.fromkeys(names))]
        parts = find(state, PartitionState)[0].inner_states
        assigned = labels(config, self.run.layout)
        specs = {REST: ("the other parameters", config.opt)}
        specs |= {str(i): (group.where, group.spec) for i, group in enumerate(config.group)}
        rates = dict(zip(specs, schedules_of(config), strict=False))

        def group(label: str, where: str, spec: Spec) -> ParamsGroup:
            rate = _rate_after(parts[label], rates[label])
            return ParamsGroup(where, self.now(spec), rate, parts[label], members(assigned, label))

        return [group(label, *values) for label, values in specs.items() if label in parts]

    def now(self, spec: Spec) -> Spec:
        """An optimizer's spec with the values that its varied keywords have at this checkpoint."""
        done = dataclasses.replace(self.run.config, steps=max(1, int(self.state.step)))
        return at(spec, updates_of(done), updates_of(self.run.config))

    @property
    def clip_factor(self) -> float:
        """The factor by which ``clip_by_norm`` scaled the last gradient; 1 without such a clip."""
        return math.prod((float(clip.factor) for clip in find(self.state.opt_state, ClipByNormState)), start=1.0)

    @property
    def notes(self) -> list[str]:
        """Differences between the loss and parameters studied here and those of a training step and an evaluation."""
        config, notes = self.run.config, []
        if self.schedule_ended:
            notes.append("The learning rate has reached 0: steps are studied at its peak value.")
        if self.run.model.dtype != "float32":
            notes.append(f"The loss is computed in float32; the run computes in {self.run.model.dtype}.")
        if config.dropout:
            notes.append(f"The loss is computed without dropout; the run trains with {config.dropout:g}.")
        if self.state.evaluation_params is not self.state.params:
            notes.append("The parameters are those being trained, not the average that the run evaluates.")
        return notes

    def loss(self, params: Params, batch: Int32[Array, "*parts length"]) -> Float[Array, ""]:
        """Mean loss of one batch, nats per token.

        Args:
          params: tree of float32 arrays.
          batch: int32[B, T + 1], or int32[A, B / A, T + 1] of A micro-batches. It is evaluated in parts of the run's
            batch size, and differentiated with the memory of one part.
        """
        parts = batch.reshape(-1, self.run.config.phases.largest.batch_size, batch.shape[-1])

        def sums(part):
            with jax.default_matmul_precision("highest"):
                return self._loss_sum(params, part[:, :-1], part[:, 1:], jax.random.key(0))

        if len(parts) == 1:
            total, count = sums(parts[0])
            return total / count
        totals, counts = jax.lax.map(jax.checkpoint(sums, prevent_cse=False), parts)
        return totals.sum() / counts.sum()

    @cached_property
    def _loss_sum(self) -> Callable:
        exact = {"dropout": 0.0, "dtype": "float32", "attention": "plain"}
        return loss_sum(dataclasses.replace(self.run.model, **exact))

    @cached_property
    def loss_here(self) -> float:
        """:meth:`mean_loss` of the parameters."""
        return float(jax.jit(self.mean_loss)(self.params))

    def require_finite(self) -> None:
        """Refuses a checkpoint of a diverged run.

        Raises:
          UserError: the loss is infinite or NaN.
        """
        if not math.isfinite(self.loss_here):
            where = f"{show(self.folder)} at step {int(self.state.step)}"
            raise UserError(f"{where}: the loss here is not finite; choose an earlier checkpoint with --step")

    @cached_property
    def mean_gradient(self) -> Params:
        """Gradient of :meth:`mean_loss` at the parameters."""
        return jax.jit(self.gradient)(self.params, self.batches)

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

    def step(self, state: TrainState, batch: Int32[Array, "*parts length"]) -> tuple[TrainState, Params]:
        """One training step of the run.

        Returns:
          The next state and the change of the parameters, in float32; ``state`` stays valid.
        """
        config = self.run.config
        phase = config.phases.largest
        if phase.accum > 1:
            batch = batch.reshape(phase.accum, phase.batch_size, -1)
        after, _ = jax.jit(self.run.step)(state, batch)  # an outer jit ignores the inner one's donation
        return after, jax.tree.map(lambda new, old: tree.widen(new) - tree.widen(old), after.params, state.params)


def _mean(function: Callable[[Array], Params], like: Params, batches: Int32[Array, "K B length"]) -> Params:
    """Mean of a tree-valued function over batches, with the memory of a single batch."""

    def add(total, batch):
        return jax.tree.map(jnp.add, total, function(batch)), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, like), batches)
    return jax.tree.map(lambda leaf: leaf / len(batches), total)


def draw_batches(run: Run, number: int) -> Int32[Array, "K B length"]:
    """Batches of a whole step from the run's training data, in a different order than in training."""
    config = run.config
    batches = run.data.batches(config.step_sequences, config.phases.largest.seq_len, config.seed + SEED_OFFSET)
    return jnp.asarray(np.stack([batches(t) for t in range(number)]))


def load(
    folder: Path, step: str, number: int, report: Report, *, data: Sequence[str] | None = None, trust: bool = False
) -> CheckpointView:
    """Opens a checkpoint.

    Args:
      folder: folder of the run.
      step: number of a step, "last" or "best".
      number: K, the number of batches, each with the sequences of a whole step.
      report: called with the progress.
      data: where the run's data is now; None looks where it was.
      trust: execute optimizer code that the folder names.

    Raises:
      UserError: the run or checkpoint doesn't exist, or its data is missing or has changed.
    """
    run, state = reopen(folder, step, data=data, trust=trust)
    ended = _rate_after(state.opt_state, run.schedule) == 0 != run.config.lr
    if ended:  # at rate 0 no step moves and any curvature is stable
        run = make_run(dataclasses.replace(run.config, schedule=Spec("constant")), run.data)
    return CheckpointView(run, state, draw_batches(run, number), folder, report, ended)


def _rate_after(opt_state: Any, schedule: Any) -> float:
    """Learning rate of the step after an optimizer state; NaN where the optimizer doesn't tell it."""
    rate = states.learning_rate(opt_state, schedule)
    return math.nan if rate is None else float(jnp.asarray(rate))
