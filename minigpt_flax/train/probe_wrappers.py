"""What a probe needs remembered from step to step: wrappers around the optimizer that change none of its numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_mini import ClipByNormState, GradientTransformation, GradientTransformationExtraArgs, tree
from jaxopt_mini.base import OptState, with_extra_args_support


class LastUpdateState(NamedTuple):
    """State of :func:`keep_update`."""

    last_update: Any  # tree like the parameters: the last one that was observed; zeros before there is one
    inner_state: OptState


class ClipCountState(NamedTuple):
    """State of :func:`count_clips`."""

    clipped: jax.Array  # int32[]: steps
    inner_state: OptState


def keep_update(inner: GradientTransformation) -> GradientTransformationExtraArgs:
    """Remembers the last update; as many bytes as the parameters.

    To remember is a pass over the parameters, and so it takes a keyword ``observed``: False leaves what was remembered.
    """
    inner = with_extra_args_support(inner)

    def init(params):
        return LastUpdateState(tree.zeros_like(params), inner.init(params))

    def update(updates, state, params=None, *, observed=True, **told):
        new, inner_state = inner.update(updates, state.inner_state, params, **told)
        kept = tree.cast_like(new, state.last_update) if observed else state.last_update
        return new, LastUpdateState(kept, inner_state)

    return GradientTransformationExtraArgs(init, update)


def count_clips(inner: GradientTransformation) -> GradientTransformationExtraArgs:
    """Counts the steps in which ``clip_by_norm`` clipped."""
    inner = with_extra_args_support(inner)

    def init(params):
        return ClipCountState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, **told):
        new, inner_state = inner.update(updates, state.inner_state, params, **told)
        clips = [clip.factor < 1 for clip in find(inner_state, ClipByNormState)]
        clipped = jnp.stack(clips).any() if clips else jnp.zeros((), bool)
        return new, ClipCountState(state.clipped + clipped.astype(jnp.int32), inner_state)

    return GradientTransformationExtraArgs(init, update)


def find(state: Any, kind: type) -> list[Any]:
    """All states of a kind inside a state."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]


# The probes that need one, by name.
MONITORS: dict[str, Callable[[GradientTransformation], GradientTransformationExtraArgs]] = {
    "cosine": keep_update,
    "clip": count_clips,
}
