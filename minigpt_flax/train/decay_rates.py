"""Measure the weight decay of a run's optimizer, tensor by tensor, from two short trajectories."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minigpt_flax.spec import Spec
from minigpt_flax.train.compile import run_unoptimized
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.optimizer import CUSTOM, build_optimizer, schedules_of, updates_of
from minigpt_flax.train.registry import REGISTRIES

UPDATES = 12  # of each trial
TRIALS = (  # sign of the gradient, learning rate, size of the weights
    (1.0, 1e-2, 1e3),  # gradient and decay shrink the weights; the decay is larger than the step, so measured exactly
    (-1.0, 2e-2, 1e3),  # the gradient enlarges the weights
    (-1.0, 1e-3, 1.0),  # the step is larger than the decay
)
TOLERANCE = 0.01  # relative difference of measurements that count as equal


def decay_rates(config: RunConfig, layout: Any, shapes: Any) -> Any:
    """The fraction of each parameter that weight decay removes in an update, over the learning rate.

    It is the difference between this optimizer and the same one without decay, on small stand-ins for the parameters.

    Returns:
      Tree of numbers, 0 where nothing decays and NaN where the fraction depends on the gradient, the weight, the step
      or the learning rate. None for an optimizer whose decay no keyword switches off: an object, or code of the user.
    """
    optimizers = [config.opt, *(group.spec for group in config.group)]
    if any(spec == CUSTOM or (spec.is_external and not _decays("optimizer", spec)) for spec in optimizers):
        return None
    plain = without_decay(config)
    if plain == config:
        return jax.tree.map(lambda _: 0.0, shapes)
    fractions, changed = run_unoptimized(jax.jit(lambda: _trials(config, plain, layout, shapes)))
    return jax.tree.map(lambda values, made: _common(np.asarray(values)[np.asarray(made)]), fractions, changed)


def without_decay(config: RunConfig) -> RunConfig:
    """The configuration with every weight decay set to 0."""

    def plain(kind: str, spec: Spec) -> Spec:
        zeros = {name: 0.0 for name, value in _decays(kind, spec).items() if value}
        return dataclasses.replace(spec, keywords=spec.keywords | zeros)

    return dataclasses.replace(
        config,
        opt=plain("optimizer", config.opt),
        group=tuple(dataclasses.replace(group, spec=plain("optimizer", group.spec)) for group in config.group),
        wrap=tuple(plain("wrapper", spec) for spec in config.wrap),
    )


def _decays(kind: str, spec: Spec) -> dict[str, Any]:
    """The keywords that set a weight decay, with their values."""
    parameters = inspect.signature(REGISTRIES[kind].row(spec)).parameters
    names = [name for name in parameters if "weight_decay" in name and not name.endswith("_mask")]
    return {name: spec.keywords.get(name, parameters[name].default) for name in names}


def _trials(config: RunConfig, plain: RunConfig, layout: Any, shapes: Any) -> tuple[Any, Any]:
    """Per tensor, [trials, calls, layers]: the fraction that decay removes, and whether anything was updated."""
    calls = UPDATES * math.ceil(config.steps / updates_of(config))  # of which a wrapper may only accumulate some

    def trial(arguments):
        sign, rate, weight = arguments
        params = jax.tree.map(lambda leaf, entry: _stand_in(leaf, entry, weight), shapes, layout)
        grads = jax.tree.map(lambda p: jnp.full_like(p, sign), params)
        pair = [_optimizer(each, layout, rate) for each in (config, plain)]

        def call(carry, _):
            states, weights = carry  # the weights follow the optimizer without decay
            results = [_update(tx, grads, state, weights) for tx, state in zip(pair, states, strict=True)]
            (decayed, _), (step, _) = results
            share = lambda p, u, v, entry: _by_layer(p * (v - u), entry) / _by_layer(p * p, entry) / rate
            removed = jax.tree.map(share, weights, decayed, step, layout)
            changed = jax.tree.map(
                lambda u, v, entry: _by_layer(jnp.abs(u) + jnp.abs(v), entry) > 0, decayed, step, layout
            )
            return ([state for _, state in results], jax.tree.map(jnp.add, weights, step)), (removed, changed)

        return jax.lax.scan(call, ([tx.init(params) for tx in pair], params), length=calls)[1]

    return jax.lax.map(trial, tuple(jnp.asarray(column) for column in zip(*TRIALS, strict=True)))


def _stand_in(leaf: Any, entry: Any, weight: Any) -> jax.Array:
    """A tensor of at most 2 entries per axis, and of all layers.

    The first entry of each layer is ``weight``, the others are 0, where the smallest steps show.
    """
    small = jnp.zeros([size if axis in entry.stacked else min(size, 2) for axis, size in enumerate(leaf.shape)])
    return small.at[tuple(slice(None) if axis in entry.stacked else 0 for axis in range(small.ndim))].set(weight)


def _by_layer(values: jax.Array, entry: Any) -> jax.Array:
    """Sums of the layers, float32[layers]; of one layer for a parameter that isn't stacked."""
    return values.sum((*entry.inputs, *entry.outputs)).ravel()


def _optimizer(config: RunConfig, layout: Any, rate: Any) -> Any:
    exact = dataclasses.replace(config, dtype=Spec("float32"))
    rates = [lambda count: rate] * (1 + len(config.group))
    return build_optimizer(exact, layout, [*rates, *schedules_of(config)[len(rates) :]])[1]


def _update(tx: Any, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
    loss = lambda params: jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, grads, params))
    extra_args = {"value": jnp.float32(1), "key": jax.random.key(0), "loss_fn": loss}
    return tx.update(grads, state, params, **extra_args)


def _common(values: np.ndarray) -> float:
    """The value that all measurements agree on, 0 without any (a frozen tensor); NaN if they differ."""
    if not values.size:
        return 0.0
    if not np.isfinite(values).all():
        return math.nan
    median = float(np.median(values))
    return median if np.ptp(values) <= TOLERANCE * abs(median) else math.nan
