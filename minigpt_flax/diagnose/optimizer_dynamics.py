"""The optimizer's dynamics: updates and moments over the next few training steps after a checkpoint."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxopt_mini import tree
from minigpt_flax.diagnose.checkpoint_view import CheckpointView
from minigpt_flax.diagnose.edge_of_stability import BIAS_CORRECTED, optimizer_keywords, second_moment_roots
from minigpt_flax.diagnose.result import StudyResult
from minigpt_flax.errors import UserError
from minigpt_flax.runs.style import COLORS, INK, MUTED, style_axes
from minigpt_flax.train.probes import by_role, parameter_states

STEPS = 8
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


def study(view: CheckpointView) -> StudyResult:
    """Takes ``STEPS`` training steps on the run's next batches and measures updates and moments.

    Raises:
      UserError: the run diverges in these steps.
    """
    updates, grads, state = _steps(view)
    if not all(bool(jnp.isfinite(tree.norm(update))) for update in updates):
        raise UserError(f"an update of the next {STEPS} steps is not finite: choose an earlier checkpoint with --step")
    rates = effective_rates(updates, grads, view.run.layout)
    moments = moment_quantiles(state.opt_state, view.run.layout)
    numbers = {
        "effective_lr": rates,
        "lr": view.lr,
        "update_cosine": [_cosine(a, b) for a, b in zip(updates, updates[1:], strict=False)],
        "moments": moments,
        "eps_share": eps_share(dataclasses.replace(view, state=state)),
        "singular_values": singular_values(updates[-1], view.run.layout),
    }
    return StudyResult(_sentences(numbers), numbers, lambda figure: _draw(figure, numbers))


def _steps(view: CheckpointView) -> tuple[list[Any], list[Any], Any]:
    state, updates, grads = view.state, [], []
    gradient = jax.jit(lambda params, batch: jax.grad(view.loss)(params, batch))
    for i in range(STEPS):
        batch = jnp.asarray(view.run.batches(int(state.step)))
        grads.append(gradient(state.params, batch))
        state, update = view.step(state, batch)
        updates.append(update)
        view.report("optimizer", i + 1, STEPS)
    return updates, grads, state


def effective_rates(updates: list[Any], grads: list[Any], layout: Any) -> dict[str, float | None]:
    """RMS of update over RMS of gradient, by role: the learning rate at which plain SGD takes steps of this length.

    None for a role whose gradient is zero.
    """
    update, grad = (by_role(values, layout) for values in (updates[-1], grads[-1]))
    return {role: _ratio(float(tree.norm(update[role])), float(tree.norm(grad[role]))) for role in update}


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _cosine(a: Any, b: Any) -> float | None:
    """Cosine of the angle between two updates; None if one of them is zero."""
    return _ratio(float(tree.inner(a, b)), float(tree.norm(a) * tree.norm(b)))


def moment_quantiles(opt_state: Any, layout: Any) -> dict[str, dict[str, list[float]]]:
    """Quantiles (``QUANTILES``) of the absolute values in the optimizer's state, by field and parameter role."""
    roles = {name: entry.role for name, entry in tree.by_name(layout).items()}
    groups: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for field, owner, leaf in parameter_states(opt_state, layout):
        groups[field][roles[owner]].append(np.abs(np.asarray(leaf, np.float32)).ravel())
    return {
        field: {role: np.quantile(np.concatenate(values), QUANTILES).tolist() for role, values in group.items()}
        for field, group in groups.items()
    }


def eps_share(view: CheckpointView) -> dict[str, float] | None:
    """Fraction of the entries whose second moment's root is below ``eps``, by role; their update follows plain SGD.

    The root is the one that the step divides by, with its bias correction. None where no group of parameters has an
    optimizer whose correction is known (``BIAS_CORRECTED``).
    """
    entries = tree.by_name(view.run.layout)
    below: dict[str, list[np.ndarray]] = defaultdict(list)
    for group in view.groups:
        name, keywords = optimizer_keywords(group.optimizer)
        if name in BIAS_CORRECTED:
            for parameter, root in second_moment_roots(group.state, keywords).items():
                below[entries[parameter].role].append(np.asarray(root).ravel() < keywords["eps"])
    return {role: float(np.concatenate(parts).mean()) for role, parts in below.items()} or None


def singular_values(update: Any, layout: Any) -> list[float]:
    """Mean singular value over the largest one, for the update of each hidden matrix.

    1 for an orthogonal update, such as Muon's; close to 0 for an update of low rank. Updates of zero are left out.
    """
    ratios = []
    for leaf, entry in zip(jax.tree.leaves(update), jax.tree.leaves(layout), strict=True):
        if entry.role == "matrix":
            matrices = np.transpose(np.asarray(leaf, np.float32), (*entry.stacked, *entry.inputs, *entry.outputs))
            fan_in, fan_out = entry.fans(leaf.shape)
            values = np.linalg.svd(matrices.reshape(-1, fan_in, fan_out), compute_uv=False)
            values = values[values[:, 0] > 0]
            ratios += (values.mean(-1) / values[:, 0]).tolist()
    return ratios


def _sentences(numbers: Mapping[str, Any]) -> list[str]:
    rates = {role: rate for role, rate in numbers["effective_lr"].items() if rate is not None}
    cosines = [cosine for cosine in numbers["update_cosine"] if cosine is not None]
    sentences = []
    if rates:
        named = ", ".join(f"{rate:.2g} ({role})" for role, rate in rates.items())
        sentences.append(f"Effective learning rates (update RMS / gradient RMS): {named}.")
    sentences.append(_describe_motion(float(np.mean(cosines))) if cosines else "The updates are zero.")
    if numbers["eps_share"]:
        share = ", ".join(f"{value:.1%} ({role})" for role, value in numbers["eps_share"].items())
        sentences.append(f"Entries with the root of the second moment below eps, updated as by plain SGD: {share}.")
    if numbers["singular_values"]:
        mean = float(np.mean(numbers["singular_values"]))
        kind = "nearly orthogonal" if mean > 0.8 else "spread over many directions" if mean > 0.2 else "of low rank"
        sentences.append(f"Updates of matrices are {kind}: mean singular value {mean:.2f} of the largest.")
    return sentences


def _describe_motion(cosine: float) -> str:
    """What the updates did; the cause of a negative cosine is left to the curvature and the noise."""
    motion = "keep their direction" if cosine > 0.5 else "share part of their direction" if cosine > 0 else "oppose"
    motion += " each other, which noise or a learning rate near the stability bound can cause" * (cosine <= 0)
    return f"Consecutive updates {motion}: cosine {cosine:.2f} on average."


def _draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    rates, moments = figure.subplots(1, 2)
    positive = {role: rate for role, rate in numbers["effective_lr"].items() if rate}
    rates.plot(list(positive), list(positive.values()), "o", color=COLORS[0])
    rates.set_yscale("log" if positive else "linear")
    rates.margins(x=0.2, y=0.3)
    style_axes(rates, "update RMS / gradient RMS")
    rows = [(f"{field}, {role}", q) for field, roles in numbers["moments"].items() for role, q in roles.items()]
    for i, (_, q) in enumerate(rows):
        low, quarter, middle, three, high = np.maximum(q, 1e-20)
        moments.plot([low, high], [i, i], color=MUTED, linewidth=1)
        moments.plot([quarter, three], [i, i], color=COLORS[4], linewidth=5)
        moments.plot([middle], [i], "|", color=INK, markersize=9)
    moments.set_yticks(range(len(rows)), [name for name, _ in rows])
    moments.set_xscale("log")
    moments.set_xlabel("1, 25, 50, 75, 99 % quantiles")
    moments.set_title("absolute values")
    style_axes(moments, "")
