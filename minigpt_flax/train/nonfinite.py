"""What becomes of a step whose loss, gradient or update isn't finite: ``--on-nan stop``, ``skip`` or ``rollback``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini import GradientTransformation, GradientTransformationExtraArgs, tree
from jaxopt_mini.base import with_extra_args_support
from jaxopt_mini.wrappers import SkipNonfiniteState


@dataclass(frozen=True)
class Policy:
    """A row of the table, as data.

    Attributes:
      wrap: goes around the whole optimizer.
      skips: steps in a row that may be left out before the run stops.
      rollbacks: times that the run may go back before it stops.
    """

    wrap: Callable[[GradientTransformation], GradientTransformation] = lambda tx: tx
    skips: int = 0
    rollbacks: int = 0


def leave_out(inner: GradientTransformation) -> GradientTransformationExtraArgs:
    """Steps whose loss, gradient or update isn't finite change neither parameters nor inner state, and are counted.

    ``skip_nonfinite`` looks at gradients alone. Here a gradient too large to be squared counts as broken too.

    Args:
      inner: a transformation; its ``update`` must be told ``value``, the loss.

    Returns:
      A transformation with a ``SkipNonfiniteState``.
    """
    inner = with_extra_args_support(inner)

    def init(params):
        return SkipNonfiniteState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, **told):
        new, inner_state = inner.update(updates, state.inner_state, params, **told)
        finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(new)]
        take = jnp.stack([jnp.isfinite(told["value"]), jnp.isfinite(tree.norm(updates)), *finite]).all()
        new = jax.tree.map(lambda leaf: jnp.where(take, leaf, jnp.zeros_like(leaf)), new)
        kept = jax.tree.map(lambda after, before: jnp.where(take, after, before), inner_state, state.inner_state)
        skipped = 1 - take.astype(jnp.int32)
        return new, SkipNonfiniteState((state.in_a_row + 1) * skipped, state.skipped + skipped, kept)

    return GradientTransformationExtraArgs(init, update)


def stop() -> Policy:
    """The run stops; its checkpoints are from before.

    Costs nothing in a step.
    """
    return Policy()


def skip(*, in_a_row: int = 10) -> Policy:
    """The step changes nothing but the count of steps, and the run goes on.

    The optimizer's own count, and with it the learning rate, waits for the next step that is taken.

    Args:
      in_a_row: so many may be left out one after another; one more stops the run.
    """
    return Policy(wrap=leave_out, skips=_positive("in_a_row", in_a_row))


def rollback(*, times: int = 3) -> Policy:
    """The run returns to its last checkpoint and goes on from there without the batch that broke the step.

    Batches that are passed over are kept in ``passed_over.json``: step t takes the t-th of the others.

    Args:
      times: so often in the whole run; once more stops it.
    """
    return Policy(wrap=leave_out, rollbacks=_positive("times", times))


POLICIES = {f.__name__: f for f in (stop, skip, rollback)}


def _positive(name: str, value: int) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number, 1 or more")
    return value


def passing_over(batches: Callable[[int], Any], passed: Iterable[int]) -> Callable[[int], Any]:
    """Batches by step, without those that are passed over."""
    passed = sorted(passed)
    return lambda step: batches(number_of(step, passed))


def number_of(step: int, passed: Iterable[int]) -> int:
    """The number of the batch of a step: the ``step``-th of all that aren't in ``passed``, which is in order.

    >>> [number_of(step, [1, 2, 4]) for step in range(4)]
    [0, 3, 5, 6]
    """
    for batch in passed:
        step += batch <= step
    return step
