"""Look into a state: find a field inside a chain, its learning rate, its bytes, the parameters to evaluate with."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import Any

import jax
from jax.typing import ArrayLike
from optax import ScaleByScheduleState

from jaxopt_mini.base import ScalarOrSchedule
from jaxopt_mini.tree import nbytes as nbytes


def _walk(state: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yields every named-tuple field and dictionary entry of a state with its path, outermost first."""
    if hasattr(state, "_fields"):
        entries = [(f"{type(state).__name__}.{name}", getattr(state, name)) for name in state._fields]
    elif isinstance(state, dict):
        entries = list(state.items())
    else:
        entries = []
        for index, value in enumerate(state if isinstance(state, tuple | list) else ()):
            yield from _walk(value, f"{path}{index}/")
    for key, value in entries:
        yield f"{path}{key}", value
        yield from _walk(value, f"{path}{key}/")


def get_all(state: Any, name: str) -> dict[str, Any]:
    """Returns all fields called ``name``, by path.

    Args:
      state: any optimizer state.
      name: a field ("mu"), a state type and field ("ScaleByAdamState.mu"), or the end of a path.

    Returns:
      Path -> value; empty if there is no such field.
    """
    return {path: value for path, value in _walk(state, "") if path == name or path.endswith((f".{name}", f"/{name}"))}


def get(state: Any, name: str) -> Any:
    """Returns the only field called ``name``.

    Raises:
      KeyError: there is no such field, or several; the message lists the paths to choose from.

    >>> import jax.numpy as jnp
    >>> from jaxopt_mini import adam
    >>> state = adam(lambda count: 0.1).init({"w": jnp.zeros(2)})
    >>> get(state, "ScaleByAdamState.count").item()
    0
    """
    found = get_all(state, name)
    if len(found) == 1:
        return next(iter(found.values()))
    paths = list(found) if found else sorted({path.rsplit("/")[-1] for path, _ in _walk(state, "")})
    problem = "is ambiguous" if found else "is not in this state"
    raise KeyError(f"{name!r} {problem}; choose from: {', '.join(paths)}")


EVALUATION: dict[type, Callable[[Any, Any], Any]] = {}
"""State type -> function ``(state, params)`` that returns the parameters to evaluate with.

A state class of your own can instead define a method ``evaluation_params(params)``.
"""


def evaluation_params(state: Any, params: Any) -> Any:
    """Returns the parameters to use for evaluation, sampling and inference checkpoints.

    Args:
      state: any optimizer state; an average is found inside chains, masks and partitions.
      params: the parameters being trained.

    Returns:
      The average that the outermost averaging transformation in ``state`` stores; ``params`` if there is none.

    >>> import jax.numpy as jnp
    >>> from jaxopt_mini import adam
    >>> params = {"w": jnp.zeros(2)}
    >>> evaluation_params(adam(0.1).init(params), params) is params
    True
    """
    if hasattr(state, "evaluation_params"):
        return state.evaluation_params(params)
    if type(state) in EVALUATION:
        return EVALUATION[type(state)](state, params)
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, tuple | list) else ()
    for part in parts:
        params = evaluation_params(part, params)
    return params


def has_average(state: Any, params: Any) -> bool:
    """Whether :func:`evaluation_params` returns other parameters than ``params``; computes nothing."""
    found = []

    def probe(state, params):
        found.append(evaluation_params(state, params) is not params)

    jax.eval_shape(probe, state, params)
    return found[0]


def parameter_of(name: str, parameters: Container[str]) -> str | None:
    """Returns the parameter that a state array belongs to, judged by its name; None if there is none.

    >>> parameter_of("1/mu/block_0/mlp/up/kernel", {"block_0/mlp/up/kernel"})
    'block_0/mlp/up/kernel'
    """
    keys = name.split("/")
    tails = ("/".join(keys[i:]) for i in range(1, len(keys)))
    return next((tail for tail in tails if tail in parameters), None)


def _optimizer_states(state: Any) -> Iterator[Any]:
    """The states inside chains, masks, groups and wrappers, in order, without the fields of the wrappers themselves."""
    if isinstance(state, dict):
        parts = list(state.values())
    elif hasattr(state, "_fields"):
        parts = [getattr(state, name) for name in state._fields if name.endswith(("_state", "inner_states"))]
        if not parts or "learning_rate" in getattr(state, "hyperparams", ()):
            yield state
            return
    else:
        parts = state if isinstance(state, tuple | list) else ()
    for part in parts:
        yield from _optimizer_states(part)


def learning_rate(state: Any, schedule: ScalarOrSchedule | None) -> ArrayLike | None:
    """Returns the learning rate that the optimizer's next step will apply, from the step count in its state.

    The count is the optimizer's own: it does not advance while :func:`~jaxopt_mini.wrappers.accumulate` collects
    gradients or a wrapper skips a step. This adds nothing to the state and works under ``jax.jit``. Changes
    of the schedule inside an optimizer (``warmup_steps``, ``lr_decay``, an estimated factor) are not included.

    Args:
      state: any optimizer state, including chains, masks and wrappers. With several parameter groups, the first group
        that counts its steps is used; pass ``state.inner_states[label]`` for another one.
      schedule: the number or schedule that the optimizer was built with.

    Returns:
      The learning rate. With :func:`~jaxopt_mini.wrappers.inject_hyperparams`, the value in its state. None if the
      state counts no steps and ``schedule`` is not a number.

    >>> import jax.numpy as jnp
    >>> from jaxopt_mini import accumulate, sgd
    >>> from jaxopt_mini.schedules import linear
    >>> schedule = linear(1.0, 4)
    >>> tx, params = accumulate(sgd(schedule), steps=2), {"w": jnp.zeros(2)}
    >>> state = tx.init(params)
    >>> for _ in range(4):
    ...     print(learning_rate(state, schedule))
    ...     _, state = tx.update(params, state, params)
    1.0
    1.0
    0.75
    0.75
    """
    found = list(_optimizer_states(state))
    for part in found:
        if "learning_rate" in getattr(part, "hyperparams", ()):
            own = getattr(part, "hyperparams_states", {}).get("learning_rate")
            return part.hyperparams["learning_rate"] if own is None or not callable(schedule) else schedule(own.count)
    if not callable(schedule):
        return schedule
    counting = [part for part in found if "count" in part._fields]
    counting.sort(key=lambda part: not isinstance(part, ScaleByScheduleState))  # the schedule's own count first
    return schedule(counting[0].count) if counting else None


def bytes_per_parameter(tx: Any, params: Any) -> float:
    """Bytes of optimizer state per entry of ``params``, computed without allocating either.

    >>> import jax.numpy as jnp
    >>> from jaxopt_mini import adam
    >>> round(bytes_per_parameter(adam(1e-3), {"w": jnp.zeros(1000)}), 2)
    8.0
    """
    abstract = jax.eval_shape(lambda tree: tree, params)
    entries = sum(leaf.size for leaf in jax.tree.leaves(abstract))
    return nbytes(jax.eval_shape(tx.init, abstract)) / entries
