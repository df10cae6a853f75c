"""Wrappers around the optimizer that store values of earlier steps for probes; they don't change the updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_mini import ClipByNormState, GradientTransformation, GradientTransformationExtraArgs, tree
from jaxopt_mini.base import OptState, with_extra_args_support


class LastUpdateState(NamedTuple):
    """State of :func:`remember_last_update`."""

    last_update: Any  # tree like the parameters: the last update with ``observed``; zeros before the first
    inner_state: OptState


class ClipCountState(NamedTuple):
    """State of :func:`count_clips`."""

    clipped: jax.Array  # int32[]: number of clipped steps
    inner_state: OptState


def remember_last_update(inner: GradientTransformation) -> GradientTransformationExtraArgs:
    """Stores the last update, which takes as much memory as the parameters.

    Storing is a pass over the parameters; the extra arg ``observed=False`` skips it and keeps the stored update.
    """
    inner = with_extra_args_support(inner)

    def init(params):
        return LastUpdateState(tree.zeros_like(params), inner.init(params))

    def update(updates, state, params=None, *, observed=True, **extra_args):
        new, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        last = tree.cast_like(new, state.last_update) if observed else state.last_update
        return new, LastUpdateState(last, inner_state)

    return GradientTransformationExtraArgs(init, update)


def count_clips(inner: GradientTransformation) -> GradientTransformationExtraArgs:
    """Counts the steps in which ``clip_by_norm`` clipped."""
    inner = with_extra_args_support(inner)

    def init(params):
        return ClipCountState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        new, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        clips = [clip.factor < 1 for clip in find(inner_state, ClipByNormState)]
        clipped = jnp.stack(clips).any() if clips else jnp.zeros((), bool)
        return new, ClipCountState(state.clipped + clipped.astype(jnp.int32), inner_state)

    return GradientTransformationExtraArgs(init, update)


def find(state: Any, kind: type) -> list[Any]:
    """Returns all states of a type inside a state."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]


# By the name of the probe that needs it.
PROBE_WRAPPERS: dict[str, Callable[[GradientTransformation], GradientTransformationExtraArgs]] = {
    "cosine": remember_last_update,
    "clip": count_clips,
}
