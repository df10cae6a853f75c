"""Inject hyperparameters: store the numbers of an optimizer in its state, to read and set them between steps."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from optax import InjectStatefulHyperparamsState, WrappedSchedule

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    with_extra_args_support,
)
from jaxopt_mini.check import check_name
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.tree import increment


def _alternatives(annotation: Any) -> set[Any]:
    """The types that an annotation consists of, with those of nested unions."""
    members = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else ()
    return {annotation}.union(*map(_alternatives, members)) if members else {annotation}


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a factory with evaluated annotations; none where one can't be evaluated."""
    try:
        return inspect.signature(factory, eval_str=True).parameters
    except (NameError, TypeError, AttributeError, SyntaxError):
        found = inspect.signature(factory).parameters.values()
        return {p.name: p.replace(annotation=p.empty) for p in found}


def _takes_numbers(parameter: inspect.Parameter) -> bool | None:
    """Whether a parameter is a number that isn't a whole one; None if neither annotation nor default says it.

    An annotation with float says it, also within ``ArrayLike``; else the default: 1.0, or an int or a function.
    """
    if parameter.annotation is not parameter.empty and parameter.annotation is not Any:
        named = _alternatives(parameter.annotation)
        return float in named and not (isinstance(parameter.default, int) and not isinstance(parameter.default, bool))
    if parameter.default is parameter.empty or parameter.default is None:
        return None
    return isinstance(parameter.default, float)


def _is_number(value: Any, parameter: inspect.Parameter) -> bool:
    """Whether a value may change between steps: floats may; flags, sizes and counts may not."""
    if isinstance(value, jax.Array | np.ndarray):
        return jnp.issubdtype(value.dtype, jnp.floating)
    if isinstance(value, Integral):
        return not isinstance(value, bool) and _takes_numbers(parameter) is True
    return isinstance(value, Real)


def _is_schedule(value: Any, parameter: inspect.Parameter) -> bool:
    """Whether a value is a function from a step count to a number, unlike a mask or a function of other values."""
    if not callable(value):
        return False
    takes = _takes_numbers(parameter)
    if takes is False or takes and parameter.default is not None:
        return takes
    try:
        result = jax.eval_shape(value, jax.ShapeDtypeStruct((), jnp.int32))
    except Exception:  # anything that a function of parameters raises when called with a number
        return False
    return getattr(result, "shape", None) == () and jnp.issubdtype(result.dtype, jnp.floating)


def _is_stateful_schedule(value: Any) -> bool:
    return callable(value) and hasattr(value, "init") and hasattr(value, "update")


def _stable(new: Any, old: Any) -> Any:
    """The new state in the dtypes of the old one, which a float32 number set by the user may have widened."""
    return jax.tree.map(lambda n, o: n if n.dtype == o.dtype else n.astype(o.dtype), new, old)


def inject_hyperparams(
    inner_factory: Callable[..., GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: DTypeLike | None = None,
) -> Callable[..., GradientTransformationExtraArgs]:
    """Returns a factory whose transformations store their hyperparameters in ``state.hyperparams``.

    Each float and each schedule passed to the factory becomes an entry. Read the value of the last step, or set an
    entry to a Python number between steps, which doesn't recompile (an array does, once); a schedule overwrites it.
    Everything else stays static: flags, names, integers, and functions that aren't schedules. The factory's annotation
    of an argument decides, then its default: a function is a schedule where a float is possible (``ArrayLike``,
    ``ScalarOrSchedule``), and an integer is then taken as a float. Where neither says anything, a function is a
    schedule if it turns a step count into one number.

    Departures from Optax, which has the same state and arguments: a number is stored as a weakly typed float32 scalar
    and behaves like the Python number for parameters of any dtype (in Optax bfloat16 parameters round b2 = 0.999 to 1,
    and the first update is NaN); integers aren't traced, so that ``init`` of every factory can be jitted; masks need
    not be listed in ``static_args``; the factory is called once right away, so that a number out of range is rejected
    where it is written.

    Args:
      inner_factory: function that returns a transformation.
      static_args: names of further arguments to keep static.
      hyperparam_dtype: dtype of the entries; None uses weakly typed float32.

    Returns:
      A factory with the signature of ``inner_factory``, whose transformations have an
      ``optax.InjectStatefulHyperparamsState``: the inner state and 4 bytes per number.

    Raises:
      ValueError: ``static_args`` has a name that is not an argument of the factory, or, in ``update``, the state has an
        entry that is not a hyperparameter.

    >>> from jaxopt_mini import sgd
    >>> tx = inject_hyperparams(sgd)(0.1)
    >>> params = {"w": jnp.float32(0.0)}
    >>> state = tx.init(params)
    >>> state.hyperparams["learning_rate"] = 0.5
    >>> updates, state = tx.update({"w": jnp.float32(1.0)}, state, params)
    >>> print(updates["w"], state.hyperparams["learning_rate"])
    -0.5 0.5
    """
    signature, parameters = inspect.signature(inner_factory), _parameters(inner_factory)
    static = {static_args} if isinstance(static_args, str) else set(static_args)
    for name in sorted(static):
        check_name(name, signature.parameters, "the factory has no argument")

    def array(value) -> ArrayLike:
        return jnp.array(value, hyperparam_dtype)  # a copy: donating the state must not delete the caller's array

    @functools.wraps(inner_factory)
    def factory(*args: Any, **keywords: Any) -> GradientTransformationExtraArgs:
        bound = signature.bind(*args, **keywords)
        bound.apply_defaults()
        numbers, schedules = {}, {}
        for name, value in bound.arguments.items():
            if name in static:
                continue
            if _is_number(value, parameters[name]):
                numbers[name] = value if isinstance(value, jax.Array) or np.ndim(value) else float(value)
            elif _is_stateful_schedule(value):
                schedules[name] = value
            elif _is_schedule(value, parameters[name]):
                schedules[name] = WrappedSchedule(value)

        def build(values):
            call = inspect.BoundArguments(signature, bound.arguments | values)
            return with_extra_args_support(inner_factory(*call.args, **call.kwargs))

        def scheduled(states, **extra_args):
            return {name: schedule(states[name], **extra_args) for name, schedule in schedules.items()}

        def init_schedules():
            return {name: schedule.init() for name, schedule in schedules.items()}

        def check():
            build(scheduled(init_schedules()))

        jax.eval_shape(check)  # rejects numbers out of range, without computing anything

        def init(params):
            values = {name: array(value) for name, value in (numbers | scheduled(init_schedules())).items()}
            count = jnp.zeros((), jnp.int32)
            return InjectStatefulHyperparamsState(count, values, init_schedules(), build(values).init(params))

        def update(updates, state, params=None, **extra_args):
            for name in state.hyperparams:
                check_name(name, [*numbers, *schedules], "state.hyperparams has no entry")
            before = state.hyperparams_states
            values = state.hyperparams | scheduled(before, **extra_args)
            values = {name: array(value) for name, value in values.items()}
            states = {name: schedule.update(before[name], **extra_args) for name, schedule in schedules.items()}
            updates, inner_state = build(values).update(updates, state.inner_state, params, **extra_args)
            inner_state = _stable(inner_state, state.inner_state)
            return updates, InjectStatefulHyperparamsState(increment(state.count), values, states, inner_state)

        return keep_shardings(init, update)

    return factory
