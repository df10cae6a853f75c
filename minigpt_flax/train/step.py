"""The training step: a pure function ``step(state, batch) -> (state, metrics)``, the same on one device and on many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxopt_mini import states, tree
from jaxopt_mini.base import GradientTransformation, Schedule, apply_updates, with_extra_args_support
from minigpt_flax.train.metrics import Metrics, squared_norms
from minigpt_flax.train.state import Probe, StepView, TrainState

LossSum = Callable[[Any, Array, Array, Array], tuple[Any, ...]]
"""``(params, inputs [B, T], targets [B, T], key) -> (summed loss in nats, number of tokens)``.

A third result, if there is one, is a tree of maxima over the batch: the extra arg ``max_logits`` of the optimizer.
Under ``pmap``, the key is the same on every device.
"""


def make_step(
    loss_sum: LossSum,
    tx: GradientTransformation,
    schedule: Schedule | float | None = None,
    *,
    key: Array,
    layout: Any = None,
    probes: Mapping[str, Probe] | None = None,
    axis: str | None = None,
    observed: bool = True,
) -> Callable[[TrainState, Int[Array, "*sizes"]], tuple[TrainState, Metrics]]:
    """Builds the step.

    Loss and gradient are sums over tokens, of every micro-batch and every device, divided once by their number. The
    random key of step t is ``fold_in(key, t)``, so nothing random has to be stored.

    Args:
      loss_sum: the model and its loss.
      tx: the whole optimizer, clip first.
      schedule: the learning rate that ``tx`` was built with, to log the applied value; None where it is unknown.
      key: random key of the run.
      layout: tree of ``ParamLayout``, for logs and probes; None takes no parameter as stacked.
      probes: name -> function of a :class:`StepView` to scalars.
      axis: name of the device axis under ``pmap``, where each device has a part of the batch; None under ``jit``.
      observed: whether the optimizer keeps what only probes need, see ``probe_wrappers``.

    Returns:
      A pure function of the state and a batch, int32[B, T + 1], whose inputs are all but the last column and whose
      targets are all but the first; or int32[K, B, T + 1], K micro-batches that are processed one after another. Its
      metrics are float32[]: ``loss`` (nats per token), ``lr`` (NaN where unknown), ``grad_norm`` (before clipping),
      those of the probes; and ``grad_squares`` float32[tensors], the squared norm of each gradient, in the order of
      :func:`tensor_names`, which names the tensors that are not finite.
    """
    tx = with_extra_args_support(tx)
    probes = probes or {}
    # Under pmap each device has its part of everything already, and the sums over devices below can't be batched.
    each = jax.vmap if axis is None else lambda function: lambda parts: jax.lax.map(function, parts)

    def step(state: TrainState, batch: Int[Array, "*sizes"]) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)

        def sums(params: Any, part: Array, key: Array) -> tuple[Array, Any]:
            total, count, *maxima = loss_sum(params, part[..., :-1], part[..., 1:], key)
            return total, (count, maxima)

        def slopes(part: Array, key: Array) -> tuple[Any, Any]:
            (total, (count, maxima)), grads = jax.value_and_grad(sums, has_aux=True)(state.params, part, key)
            return (total, count, grads), maxima

        found, maxima = _over_parts(slopes, batch, step_key)
        total, count, grads = _over_devices(found, axis)
        maxima = maxima if axis is None else jax.lax.pmax(maxima, axis)
        loss = total / count
        grads = jax.tree.map(
            lambda g, p: (g.astype(tree.wide_dtype(g.dtype)) / count).astype(p.dtype), grads, state.params
        )

        def loss_fn(params: Any) -> Float[Array, ""]:
            params = _alike(params, axis)
            part_loss = lambda part, key: (sums(params, part, key)[0], ())
            return _summed(_over_parts(part_loss, batch, step_key)[0], axis) / count

        extra_args = {"value": loss, "key": step_key, "loss_fn": loss_fn, "observed": observed}
        extra_args |= {"max_logits": maxima[0]} if maxima else {}
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra_args)
        # Written as a clip writes its norm, so that the compiler sees that the two are one.
        norm = jnp.sqrt(sum(jnp.sum(tree.absolute_square(g)) for g in jax.tree.leaves(grads)))
        # A schedule counts the updates before this one; an injected rate is in the state once it has been applied.
        rate = states.learning_rate(opt_state if schedule is None else state.opt_state, schedule)
        lr = jnp.asarray(jnp.nan if rate is None else rate, jnp.float32)
        metrics = {"loss": loss, "lr": lr, "grad_norm": norm, "grad_squares": squared_norms(grads, layout)}
        view = StepView(
            state.step,
            state.params,
            grads,
            updates,
            opt_state,
            last_state=state.opt_state,
            layout=layout,
            lr=lr,
            batch=batch,
            loss_of=_mean_loss(loss_sum, step_key, axis),
            each=each,
        )
        for probe in probes.values():
            metrics.update(probe(view))
        return TrainState(state.step + 1, apply_updates(state.params, updates), opt_state), Metrics.of(metrics)

    return step


def _mean_loss(loss_sum: LossSum, key: Array, axis: str | None) -> Callable[..., Array]:
    """``(params, sequences, part=0) -> loss`` in nats per token; every ``part`` has its own dropout mask."""

    def loss_of(params: Any, sequences: Int[Array, "b length"], part: Array | int = 0) -> Float[Array, ""]:
        mask_key = jax.random.fold_in(key, part)
        total, count, *_ = loss_sum(_alike(params, axis), sequences[..., :-1], sequences[..., 1:], mask_key)
        return _summed(total, axis) / _over_devices(count, axis)

    return loss_of


def _over_parts(function: Callable[[Array, Array], tuple[Any, Any]], batch: Array, key: Array) -> tuple[Any, Any]:
    """The sums, at least in float32, and the maxima, at least 0, of a function of (micro-batch, key)."""
    if batch.ndim == 2:
        return function(batch, key)
    keys = jax.random.split(key, batch.shape[0])
    again = jax.checkpoint(function, prevent_cse=False)  # differentiation stores the activations of one micro-batch
    shapes = jax.eval_shape(function, batch[0], keys[0])
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, tree.wide_dtype(leaf.dtype)), shapes)

    def add(found: Any, part: tuple[Array, Array]) -> tuple[Any, None]:
        (sums, maxima), (new, largest) = found, again(*part)
        sums = jax.tree.map(lambda total, x: total + x.astype(total.dtype), sums, new)
        return (sums, jax.tree.map(jnp.maximum, maxima, largest)), None

    return jax.lax.scan(add, start, (batch, keys))[0]


# Under pmap every device holds the same parameters and a part of the loss. The derivative of the sum over the devices
# is the sum of their derivatives; psum's own rule, which takes every device's result for one of many outputs, would
# give something else. Linear functions with a given transpose can be differentiated as often as one likes.


def _over_devices(values: Any, axis: str | None) -> Any:
    return values if axis is None else jax.lax.psum(values, axis)


def _summed(part: Array, axis: str | None) -> Array:
    """The sum over the devices of a loss; its derivative goes to each device as it is."""
    if axis is None:
        return part
    return jax.custom_derivatives.linear_call(lambda _, x: jax.lax.psum(x, axis), lambda _, slope: slope, (), part)


def _alike(params: Any, axis: str | None) -> Any:
    """Parameters that all devices hold alike; their derivative is the sum over the devices."""
    if axis is None:
        return params
    return jax.custom_derivatives.linear_call(lambda _, x: x, lambda _, slopes: jax.lax.psum(slopes, axis), (), params)
