"""What the optimizer does from a checkpoint on: a few of the run's own next steps, looked at closely."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxopt_mini import tree
from minigpt_flax.diagnose.checkpoint_view import Subject
from minigpt_flax.diagnose.edge_of_stability import keywords
from minigpt_flax.diagnose.result import Finding
from minigpt_flax.runs.plots import COLOURS, dress
from minigpt_flax.train.probes import by_role, remembered

STEPS = 8
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


def study(subject: Subject) -> Finding:
    """Takes ``STEPS`` steps with the run's own next batches and measures updates and moments."""
    updates, grads, state = _steps(subject)
    rates = effective_rates(updates, grads, subject.run.layout)
    moments = moment_quantiles(state.opt_state, subject.run.layout)
    numbers = {
        "effective_lr": rates,
        "lr": subject.lr,
        "update_cosine": [_cosine(a, b) for a, b in zip(updates, updates[1:], strict=False)],
        "moments": moments,
        "eps_share": eps_share(subject, state.opt_state),
        "singular_values": singular_values(updates[-1], subject.run.layout),
    }
    return Finding(_sentences(numbers), numbers, lambda figure: _draw(figure, numbers))


def _steps(subject: Subject) -> tuple[list[Any], list[Any], Any]:
    state, updates, grads = subject.state, [], []
    gradient = jax.jit(lambda params, batch: jax.grad(subject.loss)(params, batch))
    for i in range(STEPS):
        batch = jnp.asarray(subject.run.batches(int(state.step)))
        grads.append(gradient(state.params, batch))
        state, update = subject.step(state, batch)
        updates.append(update)
        subject.report("optimizer", i + 1, STEPS)
    return updates, grads, state


def effective_rates(updates: list[Any], grads: list[Any], layout: Any) -> dict[str, float]:
    """RMS of the updates over RMS of the gradients, by role: the rate of plain descent with steps of this length."""
    moved, felt = (by_role(values, layout) for values in (updates[-1], grads[-1]))
    return {role: float(tree.norm(moved[role]) / tree.norm(felt[role])) for role in moved}


def _cosine(a: Any, b: Any) -> float:
    return float(tree.inner(a, b) / (tree.norm(a) * tree.norm(b)))


def moment_quantiles(opt_state: Any, layout: Any) -> dict[str, dict[str, list[float]]]:
    """Quantiles (``QUANTILES``) of the sizes of what the optimizer remembers, by its name and the parameters' role."""
    roles = {name: entry.role for name, entry in tree.by_name(layout).items()}
    groups: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for field, owner, leaf in remembered(opt_state, layout):
        groups[field][roles[owner]].append(np.abs(np.asarray(leaf, np.float32)).ravel())
    return {
        field: {role: np.quantile(np.concatenate(found), QUANTILES).tolist() for role, found in by_role.items()}
        for field, by_role in groups.items()
    }


def eps_share(subject: Subject, opt_state: Any) -> dict[str, float] | None:
    """Share of the entries of ``nu`` whose root is below ``eps``, by role: there the step follows the plain gradient.

    None for an optimizer without ``eps`` or ``nu``.
    """
    _, words = keywords(subject.run.config.opt)
    roles = {name: entry.role for name, entry in tree.by_name(subject.run.layout).items()}
    groups: dict[str, list[np.ndarray]] = defaultdict(list)
    for field, owner, leaf in remembered(opt_state, subject.run.layout):
        if field == "nu" and isinstance(words.get("eps"), float):
            groups[roles[owner]].append(np.sqrt(np.asarray(leaf, np.float32)).ravel() < words["eps"])
    return {role: float(np.concatenate(found).mean()) for role, found in groups.items()} or None


def singular_values(update: Any, layout: Any) -> list[float]:
    """Of every hidden matrix's update, the share of its largest singular value that the others have on average.

    One for an orthogonal update, as Muon's; small where few directions carry all of it.
    """
    shares = []
    for leaf, entry in zip(jax.tree.leaves(update), jax.tree.leaves(layout), strict=True):
        if entry.role == "matrix":
            moved = np.transpose(np.asarray(leaf, np.float32), (*entry.stacked, *entry.inputs, *entry.outputs))
            fan_in, fan_out = entry.fans(leaf.shape)
            values = np.linalg.svd(moved.reshape(-1, fan_in, fan_out), compute_uv=False)
            shares += (values.mean(-1) / np.maximum(values[:, 0], np.finfo(np.float32).tiny)).tolist()
    return shares


def _sentences(numbers: Mapping[str, Any]) -> list[str]:
    cosine, shares = np.mean(numbers["update_cosine"]), numbers["singular_values"]
    way = "keeps its way" if cosine > 0.5 else "turns slowly" if cosine > 0 else "goes back and forth"
    said = [
        "A step moves the parameters as plain descent would at the rates "
        + ", ".join(f"{rate:.2g} ({role})" for role, rate in numbers["effective_lr"].items())
        + ".",
        f"From step to step the update {way}: cosine {cosine:.2f} on average.",
    ]
    if numbers["eps_share"]:
        share = ", ".join(f"{value:.1%} ({role})" for role, value in numbers["eps_share"].items())
        said.append(f"Entries whose second moment is below eps, where the step is the plain gradient's: {share}.")
    if shares:
        mean = float(np.mean(shares))
        kind = "nearly orthogonal" if mean > 0.8 else "spread over many directions" if mean > 0.2 else "of low rank"
        said.append(f"The matrices' updates are {kind}: singular values are {mean:.2f} of the largest on average.")
    return said


def _draw(figure: Figure, numbers: Mapping[str, Any]) -> None:
    rates, moments = figure.subplots(1, 2)
    rates.plot(list(numbers["effective_lr"]), list(numbers["effective_lr"].values()), "o", color=COLOURS[0])
    rates.set_yscale("log")
    rates.margins(x=0.2, y=0.3)
    dress(rates, "update RMS / gradient RMS")
    rows = [(f"{field}, {role}", q) for field, roles in numbers["moments"].items() for role, q in roles.items()]
    for i, (_, q) in enumerate(rows):
        low, quarter, middle, three, high = np.maximum(q, 1e-20)
        moments.plot([low, high], [i, i], color="0.6", linewidth=1)
        moments.plot([quarter, three], [i, i], color=COLOURS[1], linewidth=5)
        moments.plot([middle], [i], "|", color="black", markersize=9)
    moments.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    moments.set_xscale("log")
    moments.set_xlabel("size: 1, 25, 50, 75, 99 %")
    dress(moments, "")
