"""Adam-mini: Adam with one second moment per block of weights instead of one per weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from optax import ScaleByAdamState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import (
    absolute_square,
    average,
    bias_correction,
    cast_like,
    increment,
    mean,
    path_name,
    zeros_like,
    zeros_of,
)


@dataclass(frozen=True)
class Blocks:
    """The blocks of a leaf: after reshaping to ``shape``, the entries along ``axes`` form one block."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def mean(self, leaf: jax.Array) -> jax.Array:
        """Mean over each block; reduced axes have length 1."""
        return mean(leaf.reshape(self.shape), self.axes, keepdims=True)

    def divide(self, leaf: jax.Array, by: jax.Array) -> jax.Array:
        """Divides every entry by the value of its block."""
        return (leaf.reshape(self.shape) / by).reshape(leaf.shape)


def blocks_of(name: str, shape: tuple[int, ...], entry: ParamLayout, heads: int | None, whole: bool) -> Blocks:
    """The blocks of one parameter.

    Args:
      name: its path, for errors.
      shape: its shape.
      entry: its layout.
      heads: number of attention heads that its outputs are divided into; None is no heads.
      whole: whether a vector is one block.

    Raises:
      ValueError: the outputs can't be divided into this number of heads.
    """
    if heads is not None:
        return _by_head(name, shape, entry, heads)
    if entry.role == "vector":
        return Blocks(shape, entry.inputs + entry.outputs if whole else ())
    # A token, a row of the embedding or an output of the head, is one block.
    return Blocks(shape, entry.outputs if entry.role == "embedding" else entry.inputs)


def _by_head(name, shape, entry, heads):
    axis = entry.outputs[0] if entry.outputs else 0
    if not entry.outputs or shape[axis] % heads:
        raise ValueError(f"{name} of shape {shape} can't be divided into heads={heads}: give a divisor of its outputs")
    split = (*shape[:axis], heads, shape[axis] // heads, *shape[axis + 1 :])
    others = {*entry.inputs, *entry.outputs} - {axis}
    return Blocks(split, tuple(sorted([axis + 1, *(other + (other > axis) for other in others)])))


def scale_by_adam_mini(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    *,
    heads: Mapping[str, int] | None = None,
    elementwise: tuple[str, ...] = ("bias",),
    layout: Any | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`adam_mini`, without decay and learning rate.

    Args:
      b1: see :func:`adam_mini`, like the other arguments.
      b2: decay of the mean of the squared gradient, in [0, 1).
      eps: added outside the root.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      heads: key -> number of heads.
      elementwise: keys of the vectors with a second moment per entry.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation with an ``optax.ScaleByAdamState`` whose nu has one number per block, in at least float32.
    """
    check_fraction(b1=b1, b2=b2)
    check_nonnegative(eps=eps)

    def blocks(tree):
        def one(path, leaf, entry):
            name = path_name(path)
            keys = name.split("/")
            divided = [number for key, number in (heads or {}).items() if key in keys]
            return blocks_of(name, leaf.shape, entry, divided[0] if divided else None, not set(elementwise) & set(keys))

        return jax.tree.map_with_path(one, tree, resolve(layout, tree))

    def init(params):
        keys = {key for path, _ in jax.tree.leaves_with_path(params) for key in path_name(path).split("/")}
        if keys and (missing := set(heads or {}) - keys):
            raise ValueError(
                f"heads has {sorted(missing)}, which no parameter has in its path: choose from {sorted(keys)}"
            )

        mu = zeros_like(params, mu_dtype)
        nu = jax.tree.map(lambda p, block: zeros_of(block.mean, zeros_of(absolute_square, p)), params, blocks(params))
        return ScaleByAdamState(jnp.zeros((), jnp.int32), mu, nu)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count, block = increment(state.count), blocks(updates)
        mu = average(updates, state.mu, b1)
        squares = jax.tree.map(lambda g, block: block.mean(absolute_square(g)), updates, block)
        nu = average(squares, state.nu, b2)
        m, v = bias_correction(mu, b1, count), bias_correction(nu, b2, count)
        direction = jax.tree.map(lambda m, v, block: block.divide(m, jnp.sqrt(v) + eps), m, v, block)
        return cast_like(direction, updates), ScaleByAdamState(count, cast_like(mu, state.mu), nu)

    return keep_shardings(init, update)


def adam_mini(
    learning_rate: ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    heads: Mapping[str, int] | None = None,
    elementwise: tuple[str, ...] = ("bias",),
    layout: Any | None = None,
) -> GradientTransformation:
    """AdamW with one second moment per block of weights.

    Zhang et al., "Adam-mini: Use Fewer Learning Rates To Gain More" (2024, arXiv 2406.16793). As :func:`adamw`, with
    one number v per block::

        v <- b2 v + (1 - b2) mean of g^2 over the block

    The blocks follow the block-diagonal structure of the Hessian: the weights of one output; the row of a token in the
    embedding, its column in the head; a whole vector, except that biases keep Adam's v; for queries and keys one head,
    if ``heads`` gives their number.

    Departures: the official code identifies blocks by the names of Llama's and GPT-2's parameters and never decays
    norms and biases; here the layout and ``mask`` determine both.

    Args:
      learning_rate: a number or a schedule; as for :func:`adamw`.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1); 0.95 for language models.
      eps: added outside the root.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      heads: key of a path -> number of heads, consecutive slices of the outputs, e.g. {"query": 12, "key": 12}.
      elementwise: keys of the vectors with a second moment per entry.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 4 bytes of state per float32 parameter, and 4 per block.

    Raises:
      ValueError: a number is out of range, no parameter has a key of ``heads``, or its outputs can't be divided.

    >>> tx = adam_mini(0.1)
    >>> params = {"kernel": jnp.ones((2, 2))}  # two outputs of two inputs
    >>> updates, _ = tx.update({"kernel": jnp.array([[1.0, 0.1], [7.0, 0.7]])}, tx.init(params), params)
    >>> print(updates["kernel"].round(2))
    [[-0.02 -0.02]
     [-0.14 -0.14]]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    return chain(
        scale_by_adam_mini(b1, b2, eps, mu_dtype, heads=heads, elementwise=elementwise, layout=layout),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
