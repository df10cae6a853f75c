"""One optimizer, compiled once: learning rates, lengths, schedules and seeds are arguments of its step.

A schedule enters as the table of its values, so that runs that differ only in these share one program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxopt_mini.base import Schedule
from minigpt_flax.train.build import Run, chosen_probes, loss_sum, training_batches
from minigpt_flax.train.compile import CompiledStep
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.fit_many import stack
from minigpt_flax.train.optimizer import build_optimizer, schedules_of
from minigpt_flax.train.state import init_state
from minigpt_flax.train.step import make_step


class Knobs(NamedTuple):
    """What differs between runs of one program."""

    key: Array  # of weights and dropout
    values: Float[Array, "schedules steps"]  # of every schedule of the run, at every update


@dataclass(frozen=True)
class TracedRun:
    """The pure functions of a run, with knobs; each is compiled at its first call.

    Attributes:
      run: any of the runs: data, model, layout.
      length: steps of the longest run.
      init: ``knobs -> state``.
      step: ``(knobs, state, batch) -> (state, metrics)``; the state is donated.
      init_many: the same over stacked knobs.
      step_many: the same over stacked knobs, states and batches.
    """

    run: Run
    length: int
    init: Callable
    step: Callable
    init_many: Callable
    step_many: Callable

    def knobs(self, config: RunConfig) -> Knobs:
        """The knobs of one run."""
        return Knobs(jax.random.key(config.seed), schedule_tables(config, self.length))

    def single(self, config: RunConfig) -> Run:
        """One run of this program; its step has all probes, whatever is due."""
        knobs = self.knobs(config)
        step = CompiledStep(lambda state, batch: self.step(knobs, state, batch))
        return dataclasses.replace(
            self.run,
            config=config,
            batches=training_batches(config, self.run.data, self.run.mesh),
            init=lambda: self.init(knobs),
            step=step,
            step_with_probes=step,
            step_with_periodic_probes=step,
        )

    def stacked(self, configs: list[RunConfig]) -> Knobs:
        """The knobs of several runs."""
        return stack([self.knobs(config) for config in configs])


def trace_run(run: Run, length: int) -> TracedRun:
    """Makes the program of a run's optimizer.

    Args:
      run: built from a configuration of this optimizer, with any learning rate, length and seed.
      length: steps of the longest run.
    """
    probes = chosen_probes(run.config.probe)

    def transformation(knobs: Knobs) -> tuple[Any, Any]:
        return build_optimizer(run.config, run.layout, list(map(_at, knobs.values)))

    def init(knobs: Knobs) -> Any:
        return init_state(run.draw(knobs.key), transformation(knobs)[1])

    def step(knobs: Knobs, state: Any, batch: Array) -> Any:
        schedule, tx = transformation(knobs)
        losses = loss_sum(run.model, run.state.opt_state)
        one = make_step(losses, tx, schedule, key=knobs.key, layout=run.layout, probes=probes)
        return one(state, batch)

    return TracedRun(
        run,
        length,
        init=jax.jit(init),
        step=jax.jit(step, donate_argnums=1),
        init_many=jax.jit(jax.vmap(init)),
        step_many=jax.jit(jax.vmap(step), donate_argnums=1),
    )


def schedule_tables(config: RunConfig, length: int) -> Float[Array, "schedules length"]:
    """Values of the run's schedules at every update, in the order of ``schedules_of``; after the last, the last."""
    counts = jnp.minimum(jnp.arange(length, dtype=jnp.int32), config.steps - 1)
    table = lambda schedule: jax.vmap(lambda count: jnp.asarray(schedule(count), jnp.float32))(counts)
    return jnp.stack([table(schedule) for schedule in schedules_of(config)])


def _at(table: Float[Array, " length"]) -> Schedule:
    return lambda count: table[jnp.minimum(count, table.size - 1)]
