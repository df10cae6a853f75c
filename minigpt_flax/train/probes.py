"""Probes: read-only measurements inside the step, ``StepView -> {name: float32[]}``.

A run with probes compiles several variants of its step: one with probes for the logged steps, one without probes for
the others, and one for the steps of periodic probes. The compiler may round differently in them.

A probe returns only measurements that exist: without moments in the optimizer there are no norms of moments. Norms are
taken over all parameters of a role (matrix, embedding, head, vector). Probes that need extra loss evaluations are in
``curvature_probes``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini import ClipByNormState, states, tree
from minigpt_flax.train.curvature_probes import noise, sharpness
from minigpt_flax.train.probe_wrappers import ClipCountState, LastUpdateState, find
from minigpt_flax.train.state import Probe, StepView


def norms(view: StepView) -> dict[str, jax.Array]:
    """Norms of the gradients (before clipping), of the updates and of the parameters, by role.

    Returns:
      ``grad_norm/ROLE``, ``update_norm/ROLE``, ``param_norm/ROLE``.
    """
    trees = {"grad": view.grads, "update": view.updates, "param": view.params}
    return {
        f"{name}_norm/{role}": tree.norm(leaves)
        for name, values in trees.items()
        for role, leaves in by_role(values, view.layout).items()
    }


def ratios(view: StepView) -> dict[str, jax.Array]:
    """Relative size of a step: RMS of the update over RMS of the parameters, by role.

    About 1e-3 is typical in the middle of a healthy run; investigate a role whose ratio is ten times larger or smaller
    than the others. Infinite or NaN if all parameters of a role are zero.

    Returns:
      ``update_ratio/ROLE``.
    """
    updates, params = (by_role(values, view.layout) for values in (view.updates, view.params))
    return {f"update_ratio/{role}": tree.norm(updates[role]) / tree.norm(params[role]) for role in params}


def layers(view: StepView) -> dict[str, jax.Array]:
    """Relative size of a step by layer: :func:`ratios` of the stacked parameters of each block.

    Returns:
      ``update_ratio/layer_I``; layer 0 is next to the embedding.
    """
    updates, params = (_layer_squares(values, view.layout) for values in (view.updates, view.params))
    pairs = zip(updates, params, strict=True)
    return {f"update_ratio/layer_{i}": jnp.sqrt(update / param) for i, (update, param) in enumerate(pairs)}


def _layer_squares(values: Any, layout: Any) -> list[jax.Array]:
    """Sum of squares of each layer."""
    parts = [
        jnp.sum(tree.absolute_square(leaf), (*entry.inputs, *entry.outputs))
        for leaf, entry in zip(jax.tree.leaves(values), jax.tree.leaves(layout), strict=True)
        if entry.stacked
    ]
    return [jnp.stack(layer).sum() for layer in zip(*parts, strict=True)]


def moments(view: StepView) -> dict[str, jax.Array]:
    """Norms of the optimizer's per-parameter state, by name and role.

    Adam's first and second moment are ``mu`` and ``nu``. Other state is measured under its own name (``trace``,
    ``ema``, ...); trees of the same name are combined.

    Returns:
      ``NAME_norm/ROLE``.
    """
    roles = {name: entry.role for name, entry in tree.by_name(view.layout).items()}
    groups: dict[str, list[jax.Array]] = {}
    for field, owner, leaf in parameter_states(view.opt_state, view.layout):
        groups.setdefault(f"{field}_norm/{roles[owner]}", []).append(leaf)
    return {name: tree.norm(leaves) for name, leaves in groups.items()}


def parameter_states(opt_state: Any, layout: Any) -> Iterator[tuple[str, str, Any]]:
    """Yields the per-parameter arrays of an optimizer state: (name of the field, name of the parameter, array).

    The path of such an array ends in its field and the path of its parameter: ``1/mu/blocks/mlp/up/kernel``.
    """
    parameters = tree.by_name(layout)
    for name, leaf in tree.by_name(opt_state).items():
        owner = states.parameter_of(name, parameters)
        if owner is not None and jnp.issubdtype(leaf.dtype, jnp.inexact):
            field = name.removesuffix(f"/{owner}").split("/")[-1]
            if not field.isdigit():
                yield field, owner, leaf


def clip(view: StepView) -> dict[str, jax.Array]:
    """Effect of ``clip_by_norm``: gradient norm before clipping, factor, whether it clipped, and how often so far.

    Returns:
      ``clip/norm``, ``clip/factor`` (1 if not clipped), ``clip/clipped`` (0 or 1), ``clip/rate`` (of all steps).
    """
    values: dict[str, jax.Array] = {}
    for state in find(view.opt_state, ClipByNormState)[:1]:
        clipped = (state.factor < 1).astype(jnp.float32)
        values |= {"clip/norm": state.norm, "clip/factor": state.factor, "clip/clipped": clipped}
        for count in find(view.opt_state, ClipCountState):
            values["clip/rate"] = count.clipped / (view.step + 1)
    return values


def cosine(view: StepView) -> dict[str, jax.Array]:
    """Cosine of the angle between this update and the previous one: near 1 keeps its direction, below 0 oscillates.

    Costs the memory of one update.

    Returns:
      ``update_cosine``; NaN, which the log omits, in the first step.
    """
    (before,), (after,) = (find(state, LastUpdateState) for state in (view.last_state, view.opt_state))
    one, other = before.last_update, after.last_update
    return {"update_cosine": tree.inner(one, other) / (tree.norm(one) * tree.norm(other))}


def skips(view: StepView) -> dict[str, jax.Array]:
    """Steps skipped by a wrapper or ``--on-nan skip``, in total and successively. Measured in every run.

    Returns:
      ``skipped``, ``skipped_in_a_row``.
    """
    fields = {"skipped": "skipped", "skipped_in_a_row": "in_a_row"}
    counts = {name: list(states.get_all(view.opt_state, field).values()) for name, field in fields.items()}
    return {name: jnp.sum(jnp.stack(found)).astype(jnp.float32) for name, found in counts.items() if found}


def by_role(values: Any, layout: Any) -> dict[str, list[jax.Array]]:
    """Groups the leaves of a tree like the parameters by the roles in a tree of ``ParamLayout``."""
    groups: dict[str, list[jax.Array]] = {}
    for leaf, entry in zip(jax.tree.leaves(values), jax.tree.leaves(layout), strict=True):
        groups.setdefault(entry.role, []).append(leaf)
    return groups


PROBES: dict[str, Probe] = {
    f.__name__: f for f in (norms, ratios, layers, moments, cosine, clip, noise, sharpness, skips)
}
