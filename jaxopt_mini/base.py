"""The protocol: an optimizer is a pair of pure functions over pytrees.

The types are Optax's own, so transformations of both libraries can be mixed in one ``chain``:

* ``init(params) -> state`` creates the state, a pytree of arrays. Each array has its own buffer, so that a jitted step
  may donate the state together with the parameters;
* ``update(updates, state, params, **extra_args) -> (updates, state)`` turns gradients into updates, which are *added*
  to the parameters. ``extra_args`` carries the step's other values (``value``, ``key``, ``loss_fn``); an optimizer
  ignores those it does not name.

The structure, shapes and dtypes of a state never change between steps, so ``update`` is traced once and the state can
be a ``jax.lax.scan`` carry.
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

from jaxopt_mini.tree import as_arrays, path_name, refuse_integers, wide_dtype

Schedule: TypeAlias = Callable[[ArrayLike], jax.Array]
"""A schedule maps the number of completed steps (int32[], from 0) to a value (float32[])."""

ScalarOrSchedule: TypeAlias = ArrayLike | Schedule


def schedule_value(value: ScalarOrSchedule, count: jax.Array) -> ArrayLike:
    """The value of a schedule at step ``count``; a number is returned unchanged."""
    return value(count) if callable(value) else value


class Optimizer(Protocol):
    """The signature of every entry of ``OPTIMIZERS``: the learning rate comes first."""

    __name__: str

    def __call__(self, learning_rate: ScalarOrSchedule, **keywords: Any) -> GradientTransformation:
        """Builds the transformation."""
        ...


def transformation(
    init: Callable[[Params], OptState], update: Callable[..., tuple[Updates, OptState]]
) -> GradientTransformationExtraArgs:
    """Builds a transformation from two functions of arrays; as in Optax, leaves may also be Python numbers.

    Args:
      init: function of the parameters.
      update: function of the updates, the state, the parameters or None, and extra args.

    Returns:
      A transformation that converts Python numbers to arrays before it calls either function.
    """

    def init_arrays(params):
        return init(as_arrays(params))

    def update_arrays(updates, state, params=None, **extra_args):
        return update(as_arrays(updates), state, as_arrays(params), **extra_args)

    return GradientTransformationExtraArgs(init_arrays, update_arrays)


def no_state(params: Params) -> EmptyState:
    """The ``init`` of a transformation without state.

    Raises:
      ValueError: a leaf is an integer or boolean.
    """
    refuse_integers(params)
    return EmptyState()


def stateless(
    function: Callable[[Updates, Params | None], Updates],
) -> GradientTransformationExtraArgs:
    """Creates a transformation without state from ``function(updates, params) -> updates``."""

    def update(updates, state, params=None, **extra_args):
        del extra_args
        return function(updates, params), state

    return transformation(no_state, update)


def identity() -> GradientTransformationExtraArgs:
    """Passes updates through unchanged: a placeholder in a chain and in its state."""
    return stateless(lambda updates, params: updates)


def require_params(params: Params | None, name: str) -> Params:
    """Returns ``params``, or raises an error that ``name`` needs them.

    Raises:
      ValueError: ``params`` is None.
    """
    if params is None:
        raise ValueError(f"{name} needs the parameters: call update(updates, state, params)")
    return params


def require_real(params: Params, name: str) -> None:
    """Rejects complex leaves, for an optimizer ``name`` that isn't defined for them.

    Raises:
      ValueError: a leaf is complex; the message names it.
    """
    for path, leaf in jax.tree.leaves_with_path(params):
        if jnp.iscomplexobj(leaf):
            raise ValueError(
                f"{name} does not support complex leaves, got {path_name(path) or 'one'} of dtype {leaf.dtype}: "
                "split it into a real and an imaginary part"
            )


def apply_updates(params: Params, updates: Updates) -> Params:
    """Adds ``updates`` to ``params``; low-precision leaves are added in float32 and rounded once.

    Args:
      params: tree of arrays.
      updates: tree of the same structure; where a leaf is None, the parameter is unchanged.

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
