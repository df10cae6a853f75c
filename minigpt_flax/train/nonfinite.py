"""Policies for a step whose loss, gradient or update isn't finite: ``--on-nan stop``, ``skip`` or ``rollback``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxopt_mini import GradientTransformation, GradientTransformationExtraArgs, tree
from jaxopt_mini.base import with_extra_args_support
from jaxopt_mini.wrappers import SkipNonfiniteState


@dataclass(frozen=True)
class Policy:
    """One policy.

    Attributes:
      wrap: wraps the whole optimizer.
      skips: successive steps that may be skipped before the run stops.
      rollbacks: times that the run may return to a checkpoint before it stops.
    """

    wrap: Callable[[GradientTransformation], GradientTransformation] = lambda tx: tx
    skips: int = 0
    rollbacks: int = 0


def skip_nonfinite_updates(inner: GradientTransformation) -> GradientTransformationExtraArgs:
    """Skips steps whose loss, gradient or update isn't finite: they change neither parameters nor inner state.

    ``skip_nonfinite`` checks only gradients. Here a gradient whose square overflows counts as non-finite too.

    Args:
      inner: a transformation; ``update`` needs the extra arg ``value``, the loss.

    Returns:
      A transformation with a ``SkipNonfiniteState``.
    """
    inner = with_extra_args_support(inner)

    def init(params):
        return SkipNonfiniteState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        new, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(new)]
        apply = jnp.stack([jnp.isfinite(extra_args["value"]), jnp.isfinite(tree.norm(updates)), *finite]).all()
        new = jax.tree.map(lambda leaf: jnp.where(apply, leaf, jnp.zeros_like(leaf)), new)
        inner_state = tree.select(apply, inner_state, state.inner_state)
        skipped = 1 - apply.astype(jnp.int32)
        return new, SkipNonfiniteState((state.in_a_row + 1) * skipped, state.skipped + skipped, inner_state)

    return GradientTransformationExtraArgs(init, update)


def stop() -> Policy:
    """Stops the run; its checkpoints are from before that step.

    No cost per step.
    """
    return Policy()


def skip(*, in_a_row: int = 10) -> Policy:
    """Skips the step: only the step count changes, and training continues.

    The optimizer's own count, and with it the learning rate, advances only in applied steps.

    Args:
      in_a_row: successive steps that may be skipped; one more stops the run.
    """
    return Policy(wrap=skip_nonfinite_updates, skips=_positive("in_a_row", in_a_row))


def rollback(*, times: int = 3) -> Policy:
    """Returns to the last checkpoint and continues without the batch of the non-finite step.

    Skipped batches are listed in ``passed_over.json``: step t uses the t-th of the other batches.

    Args:
      times: rollbacks allowed in the whole run; one more stops it.
    """
    return Policy(wrap=skip_nonfinite_updates, rollbacks=_positive("times", times))


POLICIES = {f.__name__: f for f in (stop, skip, rollback)}


def _positive(name: str, value: int) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number, 1 or more")
    return value
