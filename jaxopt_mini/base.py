"""The protocol: an optimizer is a pair of pure functions over pytrees.

The types are Optax's own, so whatever is built here goes into Optax's ``chain`` and the other way round:

* ``init(params) -> state`` makes the state, a pytree of arrays, each with a buffer of its own, so that a jitted step
  may donate the state together with the parameters;
* ``update(updates, state, params, **extra) -> (updates, state)`` turns gradients into the change that is *added* to the
  parameters. ``extra`` carries what a step knows (``value``, ``key``, ``loss_fn``); a rule ignores what it does not
  name.

Structure, shapes and dtypes of a state never change between steps, so ``update`` is traced once and can be a
``jax.lax.scan`` carry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import (
    EmptyState as EmptyState,
    GradientTransformation as GradientTransformation,
    GradientTransformationExtraArgs as GradientTransformationExtraArgs,
    OptState as OptState,
    Params as Params,
    Updates as Updates,
    with_extra_args_support as with_extra_args_support,
)

from jaxopt_mini.tree import path_name, refuse_integers, wide_dtype

Schedule: TypeAlias = Callable[[ArrayLike], jax.Array]
"""A schedule maps the number of steps done before (int32[], from 0) to a value (float32[])."""

ScalarOrSchedule: TypeAlias = ArrayLike | Schedule


def schedule_value(value: ScalarOrSchedule, count: jax.Array) -> ArrayLike:
    """The value of a schedule at step ``count``; a number is returned unchanged."""
    return value(count) if callable(value) else value


class Optimizer(Protocol):
    """What a row of ``OPTIMIZERS`` is: a learning rate first, the rest by keyword."""

    __name__: str

    def __call__(self, learning_rate: ScalarOrSchedule, **keywords: Any) -> GradientTransformation:
        """Builds the transformation."""
        ...


def no_state(params: Params) -> EmptyState:
    """The ``init`` of a link that remembers nothing.

    Raises:
      ValueError: a leaf is an integer or boolean.
    """
    refuse_integers(params)
    return EmptyState()


def stateless(
    function: Callable[[Updates, Params | None], Updates],
) -> GradientTransformationExtraArgs:
    """Makes a link without state from ``function(updates, params) -> updates``."""

    def update(updates, state, params=None, **extra):
        del extra
        return function(updates, params), state

    return GradientTransformationExtraArgs(no_state, update)


def identity() -> GradientTransformationExtraArgs:
    """Passes updates through: a place in a chain, and in its state, that is empty."""
    return stateless(lambda updates, params: updates)


def require_params(params: Params | None, name: str) -> Params:
    """Returns ``params``, or says that the rule ``name`` needs them.

    Raises:
      ValueError: ``params`` is None.
    """
    if params is None:
        raise ValueError(f"{name} needs the parameters: call update(updates, state, params)")
    return params


def require_real(params: Params, name: str) -> None:
    """Refuses complex leaves, for a rule ``name`` that has no meaning for them.

    Raises:
      ValueError: a leaf is complex; the message names it.
    """
    for path, leaf in jax.tree.leaves_with_path(params):
        if jnp.iscomplexobj(leaf):
            raise ValueError(
                f"{name} takes no complex leaves, got {path_name(path) or 'one'} of dtype {leaf.dtype}: "
                "give it real and imaginary parts as real ones"
            )


def apply_updates(params: Params, updates: Updates) -> Params:
    """Adds ``updates`` to ``params``; low-precision leaves are added in float32 and rounded once.

    Args:
      params: tree of arrays.
      updates: tree of the same structure; a leaf that is None leaves its parameter as it is.

    Returns:
      Parameters of the same structure, shapes and dtypes.

    >>> import jax.numpy as jnp
    >>> apply_updates({"w": jnp.float32(1.0)}, {"w": jnp.float32(-0.25)})["w"].item()
    0.75
    """

    def add(parameter, update):
        if update is None:
            return parameter
        parameter = jnp.asarray(parameter)
        wide = wide_dtype(parameter.dtype)
        return (parameter.astype(wide) + jnp.asarray(update).astype(wide)).astype(parameter.dtype)

    return jax.tree.map(add, params, updates, is_leaf=lambda leaf: leaf is None)
