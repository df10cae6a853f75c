"""The training step: a pure function ``step(state, batch) -> (state, metrics)``, jitted once, its input donated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxopt_mini import tree
from jaxopt_mini.base import GradientTransformation, Schedule, apply_updates, with_extra_args_support
from minigpt_flax.train.parts import part_squares
from minigpt_flax.train.probes import Probe, StepView
from minigpt_flax.train.state import TrainState

LossSum = Callable[[Any, Array, Array, Array], tuple[Float[Array, ""], Float[Array, ""]]]
"""``(params, inputs [B, T], targets [B, T], key) -> (summed loss in nats, number of tokens)``."""

Metrics = dict[str, Array]


def make_step(
    loss_sum: LossSum,
    tx: GradientTransformation,
    schedule: Schedule,
    *,
    key: Array,
    layout: Any = None,
    probes: Mapping[str, Probe] | None = None,
) -> Callable[[TrainState, Int[Array, "B length"]], tuple[TrainState, Metrics]]:
    """Builds the step.

    Loss and gradient are sums over tokens, divided once by their number. The random key of step t is
    ``fold_in(key, t)``, so nothing random has to be stored.

    Args:
      loss_sum: the model and its loss.
      tx: the whole optimizer, clip first.
      schedule: step -> learning rate, for the record only.
      key: random key of the run.
      layout: tree of ``ParamLayout``, for the record and the probes; None takes no parameter as stacked.
      probes: name -> function of a :class:`StepView` to scalars.

    Returns:
      A pure function of the state and a batch, int32[B, T + 1], of which the inputs are all but the last column and the
      targets all but the first. Its metrics are float32[]: ``loss`` (nats per token), ``lr``, ``grad_norm`` (before
      clipping), those of the probes; and ``grad_squares`` float32[parts], the squared norm of each gradient, of stacked
      ones layer by layer, in the order of :func:`part_names`, which tells the guard what tensor broke.
    """
    tx = with_extra_args_support(tx)
    probes = probes or {}

    def step(state: TrainState, batch: Int[Array, "B length"]) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)
        batch_loss = lambda params: loss_sum(params, batch[:, :-1], batch[:, 1:], step_key)
        (total, count), grads = jax.value_and_grad(batch_loss, has_aux=True)(state.params)
        loss = total / count
        grads = jax.tree.map(lambda g: g / count, grads)
        told = {"value": loss, "key": step_key, "loss_fn": lambda params: batch_loss(params)[0] / count}
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **told)
        # Written as a clip writes its norm, so that the compiler sees that the two are one.
        norm = jnp.sqrt(sum(jnp.sum(tree.absolute_square(g)) for g in jax.tree.leaves(grads)))
        lr = jnp.asarray(schedule(state.step), jnp.float32)
        metrics = {"loss": loss, "lr": lr, "grad_norm": norm, "grad_squares": part_squares(grads, layout)}
        view = StepView(state.step, state.params, grads, updates, opt_state, layout, lr)
        for probe in probes.values():
            metrics.update(probe(view))
        return TrainState(state.step + 1, apply_updates(state.params, updates), opt_state), metrics

    return step
