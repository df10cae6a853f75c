"""Probes: measurements inside the step, ``StepView -> {name: float32[]}``. They look and never touch.

A run with probes has several programs for its step: one that measures, for the steps that the log keeps, one that
doesn't, for all others, and one for those where a probe looks that does so only now and then. The compiler may round
differently in them.

A probe returns only what there is to measure: an optimizer without moments has no moments' norms. Sums run over all
parameters of a role (matrix, embedding, head, vector). Those that compute the loss anew are in ``loss_probes``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini import ClipByNormState, states, tree
from minigpt_flax.train.curvature_probes import noise, sharpness
from minigpt_flax.train.probe_wrappers import ClipCountState, LastUpdateState, find
from minigpt_flax.train.view import Probe, StepView


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
    """How far a step goes: RMS of the update over RMS of the parameters, by role.

    About 1e-3 is usual for a healthy run in its middle; a role that moves tenfold more or less than the others is a
    reason to look. Infinite, or not a number, where all parameters of a role are zero.

    Returns:
      ``update_ratio/ROLE``.
    """
    updates, params = (by_role(values, view.layout) for values in (view.updates, view.params))
    return {f"update_ratio/{role}": tree.norm(updates[role]) / tree.norm(params[role]) for role in params}


def layers(view: StepView) -> dict[str, jax.Array]:
    """How far a step goes in each layer: :func:`ratios` over what is stored stacked, layer by layer.

    Returns:
      ``update_ratio/layer_I``, I from 0, the layer next to the embedding.
    """
    updates, params = (_layer_squares(values, view.layout) for values in (view.updates, view.params))
    pairs = zip(updates, params, strict=True)
    return {f"update_ratio/layer_{i}": jnp.sqrt(update / param) for i, (update, param) in enumerate(pairs)}


def _layer_squares(values: Any, layout: Any) -> list[jax.Array]:
    """Sum of squares of everything in each layer."""
    parts = [
        jnp.sum(tree.absolute_square(leaf), (*entry.inputs, *entry.outputs))
        for leaf, entry in zip(jax.tree.leaves(values), jax.tree.leaves(layout), strict=True)
        if entry.stacked
    ]
    return [jnp.stack(layer).sum() for layer in zip(*parts, strict=True)]


def moments(view: StepView) -> dict[str, jax.Array]:
    """Norms of what the optimizer remembers of each parameter, by name and role.

    Adam's first and second moment are ``mu`` and ``nu``. Whatever else a state holds for a parameter is measured under
    its own name (``trace``, ``ema``, ...); trees of one name are taken together.

    Returns:
      ``NAME_norm/ROLE``.
    """
    roles = {name: entry.role for name, entry in tree.by_name(view.layout).items()}
    groups: dict[str, list[jax.Array]] = {}
    for field, owner, leaf in remembered(view.opt_state, view.layout):
        groups.setdefault(f"{field}_norm/{roles[owner]}", []).append(leaf)
    return {name: tree.norm(leaves) for name, leaves in groups.items()}


def remembered(opt_state: Any, layout: Any) -> Iterator[tuple[str, str, Any]]:
    """What a state holds for single parameters: (name of the field, name of the parameter, array) of each.

    A moment lies where its parameter does, below its field: ``1/mu/blocks/mlp/up/kernel``.
    """
    parameters = tree.by_name(layout)
    for name, leaf in tree.by_name(opt_state).items():
        owner = states.parameter_of(name, parameters)
        if owner is not None and jnp.issubdtype(leaf.dtype, jnp.inexact):
            field = name.removesuffix(f"/{owner}").split("/")[-1]
            if not field.isdigit():
                yield field, owner, leaf


def clip(view: StepView) -> dict[str, jax.Array]:
    """What ``clip_by_norm`` did: the norm before, the factor, whether it clipped, and how often so far.

    Returns:
      ``clip/norm``, ``clip/factor`` (1 is untouched), ``clip/clipped`` (0 or 1), ``clip/rate`` (share of all steps).
    """
    found: dict[str, jax.Array] = {}
    for state in find(view.opt_state, ClipByNormState)[:1]:
        clipped = (state.factor < 1).astype(jnp.float32)
        found |= {"clip/norm": state.norm, "clip/factor": state.factor, "clip/clipped": clipped}
        for count in find(view.opt_state, ClipCountState):
            found["clip/rate"] = count.clipped / (view.step + 1)
    return found


def cosine(view: StepView) -> dict[str, jax.Array]:
    """Cosine of the angle between this update and the one before: near 1 keeps its way, below 0 turns back.

    Costs the memory of one update.

    Returns:
      ``update_cosine``; NaN, which the log leaves out, in the first step.
    """
    (before,), (after,) = (find(state, LastUpdateState) for state in (view.last_state, view.opt_state))
    one, other = before.last_update, after.last_update
    return {"update_cosine": tree.inner(one, other) / (tree.norm(one) * tree.norm(other))}


def skips(view: StepView) -> dict[str, jax.Array]:
    """Steps that a wrapper or ``--on-nan skip`` left out, in all and one after another. Measured in every run.

    Returns:
      ``skipped``, ``skipped_in_a_row``.
    """
    fields = {"skipped": "skipped", "skipped_in_a_row": "in_a_row"}
    counts = {name: list(states.get_all(view.opt_state, field).values()) for name, field in fields.items()}
    return {name: jnp.sum(jnp.stack(found)).astype(jnp.float32) for name, found in counts.items() if found}


def by_role(values: Any, layout: Any) -> dict[str, list[jax.Array]]:
    """The leaves of a tree like the parameters, by the roles that a tree of ``ParamLayout`` gives them."""
    groups: dict[str, list[jax.Array]] = {}
    for leaf, entry in zip(jax.tree.leaves(values), jax.tree.leaves(layout), strict=True):
        groups.setdefault(entry.role, []).append(leaf)
    return groups


PROBES: dict[str, Probe] = {
    f.__name__: f for f in (norms, ratios, layers, moments, cosine, clip, noise, sharpness, skips)
}
