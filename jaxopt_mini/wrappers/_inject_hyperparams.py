"""Inject hyperparameters: the numbers of an optimizer live in its state, to be read and set between steps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from optax import InjectStatefulHyperparamsState, WrappedSchedule

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    with_extra_args_support,
)
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.tree import increment


def _is_number(value: Any, default: Any) -> bool:
    """Whether a value can change between steps: a float does, a size or a count (its default is an int) does not."""
    if isinstance(value, bool) or isinstance(value, int) and isinstance(default, int):
        return False
    return isinstance(value, Real) or isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating)


def _is_schedule(value: Any, default: Any) -> bool:
    """Whether a value is a function from a step count to a number, which a mask is not."""
    if not callable(value):
        return False
    if default is inspect.Parameter.empty or isinstance(default, Real):
        return True  # it stands where a number belongs
    try:
        result = jax.eval_shape(value, jax.ShapeDtypeStruct((), jnp.int32))
    except Exception:  # whatever a function of parameters raises when it is given a number
        return False
    return getattr(result, "shape", None) == () and jnp.issubdtype(result.dtype, jnp.floating)


def _is_stateful_schedule(value: Any) -> bool:
    return callable(value) and hasattr(value, "init") and hasattr(value, "update")


def _stable(new: Any, old: Any) -> Any:
    """The new state in the dtypes of the old one, which a float32 number set from outside may have widened."""
    return jax.tree.map(lambda n, o: n if n.dtype == o.dtype else n.astype(o.dtype), new, old)


def inject_hyperparams(
    inner_factory: Callable[..., GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: DTypeLike | None = None,
) -> Callable[..., GradientTransformationExtraArgs]:
    """Makes a factory whose transformations keep their hyperparameters in ``state.hyperparams``.

    Each float and each schedule of the factory becomes an entry: read the value that the last step used, or set one to
    a Python number between steps, which compiles nothing anew (an array does, once); a schedule overwrites what is set.
    Functions of the parameters (a mask, a layout), switches, names and whole numbers whose default is one (sizes,
    counts) stay what they are.

    Departures from Optax, whose state and arguments these are: a number is kept as a weakly typed float32 scalar and so
    acts like the Python number that it stands for, whatever the dtype of the parameters (there bfloat16 parameters
    round b2 = 0.999 to 1, and the first update is NaN); whole numbers aren't traced, so that ``init`` of every factory
    can be jitted; a mask needs no mention in ``static_args``; the factory is called once at the start, to refuse a
    number out of range where it is written.

    Args:
      inner_factory: function that returns a transformation.
      static_args: names of further arguments to leave as they are.
      hyperparam_dtype: dtype of the entries; None as said above.

    Returns:
      A factory with the signature of ``inner_factory``, whose transformations have an
      ``optax.InjectStatefulHyperparamsState``: the inner state and 4 bytes for each number.

    Raises:
      ValueError: ``static_args`` names something that the factory doesn't take.

    >>> from jaxopt_mini import sgd
    >>> tx = inject_hyperparams(sgd)(0.1)
    >>> params = {"w": jnp.float32(0.0)}
    >>> state = tx.init(params)
    >>> state.hyperparams["learning_rate"] = 0.5
    >>> updates, state = tx.update({"w": jnp.float32(1.0)}, state, params)
    >>> print(updates["w"], state.hyperparams["learning_rate"])
    -0.5 0.5
    """
    signature = inspect.signature(inner_factory)
    static = {static_args} if isinstance(static_args, str) else set(static_args)
    if unknown := static - set(signature.parameters):
        names = ", ".join(signature.parameters)
        raise ValueError(f"static_args={sorted(unknown)} are no arguments of the factory; it has: {names}")

    def array(value) -> ArrayLike:
        return jnp.array(value, hyperparam_dtype)  # a copy: donating the state must not delete what was given

    @functools.wraps(inner_factory)
    def factory(*args: Any, **keywords: Any) -> GradientTransformationExtraArgs:
        bound = signature.bind(*args, **keywords)
        bound.apply_defaults()
        numbers, schedules = {}, {}
        for name, value in bound.arguments.items():
            default = signature.parameters[name].default
            if name in static:
                continue
            if _is_number(value, default):
                numbers[name] = value if isinstance(value, jax.Array) else float(value)
            elif _is_stateful_schedule(value):
                schedules[name] = value
            elif _is_schedule(value, default):
                schedules[name] = WrappedSchedule(value)

        def build(values):
            given = inspect.BoundArguments(signature, bound.arguments | values)
            return with_extra_args_support(inner_factory(*given.args, **given.kwargs))

        def scheduled(states, **extra):
            return {name: schedule(states[name], **extra) for name, schedule in schedules.items()}

        def begin():
            return {name: schedule.init() for name, schedule in schedules.items()}

        def check():
            build(scheduled(begin()))

        jax.eval_shape(check)  # refuses what is out of range, and computes nothing

        def init(params):
            values = {name: array(value) for name, value in (numbers | scheduled(begin())).items()}
            count = jnp.zeros((), jnp.int32)
            return InjectStatefulHyperparamsState(count, values, begin(), build(values).init(params))

        def update(updates, state, params=None, **extra):
            before = state.hyperparams_states
            values = state.hyperparams | scheduled(before, **extra)
            values = {name: array(value) for name, value in values.items()}
            states = {name: schedule.update(before[name], **extra) for name, schedule in schedules.items()}
            updates, inner_state = build(values).update(updates, state.inner_state, params, **extra)
            inner_state = _stable(inner_state, state.inner_state)
            return updates, InjectStatefulHyperparamsState(increment(state.count), values, states, inner_state)

        return keep_shardings(init, update)

    return factory
