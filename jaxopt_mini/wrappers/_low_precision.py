"""Low precision: optimizer states in 16 or 8 bits, and bfloat16 parameters that don't lose small updates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    require_params,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.layout import resolve
from jaxopt_mini.quantize import dequantize, quantize, stochastic_round
from jaxopt_mini.tree import arranged_like, copied, evaluate, increment, widen


class LowPrecisionState(NamedTuple):
    """State of :func:`low_precision`."""

    count: jax.Array  # int32[]: completed steps, the seed of the random numbers
    master: Params  # float32 parameters with rounding "master", else ()
    inner_state: OptState  # of the inner optimizer on float32 parameters, with encoded moments


class Format(NamedTuple):
    """A storage format for float32 arrays."""

    encode: Callable[[jax.Array, jax.Array], Any]  # (array, key) -> stored value
    decode: Callable[[Any], jax.Array]


MOMENTS = {
    "float32": Format(lambda array, key: array, lambda stored: stored),
    "bfloat16": Format(lambda array, key: stochastic_round(array, jnp.bfloat16, key), widen),
    "int8": Format(lambda array, key: quantize(array), dequantize),
}
ROUNDINGS = ("nearest", "stochastic", "master")


def _shapes(params: Params, layout: Any, min_size: int) -> set[tuple[int, ...]]:
    """Shapes of the parameters with at least ``min_size`` entries in each stacked copy."""
    entries = jax.tree.leaves(resolve(layout, params))
    return {
        leaf.shape
        for leaf, entry in zip(jax.tree.leaves(params), entries, strict=True)
        if leaf.ndim and math.prod(entry.fans(leaf.shape)) >= min_size
    }


def _keys(tree: Any, key: jax.Array) -> Any:
    """One key per leaf."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef.unflatten([jax.random.fold_in(key, index) for index in range(len(leaves))])


def low_precision(
    inner: GradientTransformation,
    *,
    moments: str = "bfloat16",
    rounding: str = "stochastic",
    min_size: int = 4096,
    seed: int = 0,
    layout: Any | None = None,
) -> GradientTransformationExtraArgs:
    """Stores state in 16 or 8 bits; trains bfloat16 parameters.

    The inner optimizer sees float32 gradients, parameters and states. Those float32 arrays of its state that have the
    shape of a parameter are stored as

    * "bfloat16": with stochastic rounding, since with rounding to nearest a moving average with 1 - b2 < 1/512 would
      never change; 2 bytes;
    * "int8": Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (2022, arXiv 2110.02861), in blocks of up
      to 256 along the last axis; 1 byte, and 4 per block;
    * "float32": unchanged.

    Updates of parameters narrower than float32 are applied with

    * "stochastic": stochastic rounding, so that the expected update is exact;
    * "master": a float32 master copy, which is rounded to the parameters; 4 bytes;
    * "nearest": rounding to nearest, which loses every update below 1/512 of its weight.

    The updates are float32 and must be applied unchanged: put transformations of updates into ``inner``. Put averages
    (:func:`ema_params`, :func:`lookahead`) outside, since inside they would be quantized like moments. Optimizers whose
    state contains weights (:func:`schedule_free`, :func:`prodigy`) need "float32".

    Args:
      inner: a complete optimizer.
      moments: "float32", "bfloat16" or "int8".
      rounding: "nearest", "stochastic" or "master".
      min_size: parameters with fewer entries (in a stack: per layer) keep float32 states.
      seed: seed of the random numbers, which depend only on it, the step count and the extra argument ``key`` of
        ``update``, if it is given.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`, which names the stacked axes; None infers it.

    Returns:
      A transformation with a :class:`LowPrecisionState`.

    Raises:
      ValueError: ``moments`` or ``rounding`` is unknown, or ``update`` is called without the parameters.

    >>> from jaxopt_mini import adam, states
    >>> params = {"w": jnp.zeros((256, 256), jnp.bfloat16)}
    >>> for moments in ("float32", "bfloat16", "int8"):
    ...     print(moments, round(states.bytes_per_parameter(low_precision(adam(0.1), moments=moments), params), 2))
    float32 8.0
    bfloat16 4.0
    int8 2.03
    """
    for name, value, values in (("moments", moments, MOMENTS), ("rounding", rounding, ROUNDINGS)):
        if value not in values:
            raise ValueError(f"unknown {name}={value!r}: choose from {', '.join(values)}")
    inner = with_extra_args_support(inner)
    form = MOMENTS[moments]

    def plan(params):
        """The shapes and dtypes of the inner state, and a predicate for the leaves to encode."""
        shapes = _shapes(params, layout, min_size)
        abstract = jax.eval_shape(inner.init, params)
        return abstract, lambda leaf: leaf.dtype == jnp.float32 and leaf.shape in shapes

    def encode(state, encoded, key):
        return jax.tree.map(lambda s, k: form.encode(s, k) if encoded(s) else s, state, _keys(state, key))

    def decode(abstract, state, encoded):
        state = arranged_like(state, jax.eval_shape(lambda tree: encode(tree, encoded, jax.random.key(0)), abstract))
        return jax.tree.map(lambda a, s: form.decode(s) if encoded(a) else s, abstract, state)

    def init(params):
        wide = evaluate(lambda tree: jax.tree.map(widen, tree), params)
        _, encoded = plan(wide)
        master = copied(wide) if rounding == "master" else ()
        inner_state = evaluate(lambda state: encode(state, encoded, jax.random.key(seed)), inner.init(wide))
        return LowPrecisionState(jnp.zeros((), jnp.int32), master, inner_state)

    def update(updates, state, params=None, **extra_args):
        params = require_params(params, "low_precision")
        wide = jax.tree.map(widen, params)
        exact = state.master if rounding == "master" else wide
        abstract, encoded = plan(wide)
        count = increment(state.count)
        key = extra_args.get("key")
        key = jax.random.key(seed) if key is None else jax.random.fold_in(key, seed)
        for_moments, for_params = jax.random.split(jax.random.fold_in(key, count))

        inner_state = decode(abstract, state.inner_state, encoded)
        new, inner_state = inner.update(jax.tree.map(widen, updates), inner_state, exact, **extra_args)
        inner_state = arranged_like(encode(inner_state, encoded, for_moments), state.inner_state)
        if rounding == "nearest":
            return new, LowPrecisionState(count, (), inner_state)
        exact = jax.tree.map(jnp.add, exact, new)
        if rounding == "master":
            target, master = jax.tree.map(lambda e, p: e.astype(p.dtype), exact, params), exact
        else:
            target, master = (
                jax.tree.map(lambda e, p, k: stochastic_round(e, p.dtype, k), exact, params, _keys(params, for_params)),
                (),
            )
        new = jax.tree.map(lambda t, w: t.astype(w.dtype) - w, target, wide)
        return new, LowPrecisionState(count, master, inner_state)

    return transformation(init, update)
