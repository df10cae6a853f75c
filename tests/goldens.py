"""Replays recorded trajectories of official implementations: same start, same gradients, every step compared."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_mini import apply_updates
from tests.harness import Golden

FOLDER = Path(__file__).parent / "golden" / "optimizers"


def index() -> dict[str, dict]:
    """What is known of each trajectory: hyperparameters, leaves, movement."""
    return json.loads((FOLDER / "index.json").read_text())["configs"]


def trajectories(golden: Golden) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The recorded arrays, steps + 1 along the first axis, and ours under the same names."""
    entry = index()[golden.file]
    arrays, problem = (dict(np.load(FOLDER / f"{name}.npz")) for name in (golden.file, "problem"))
    leaves = entry["leaves"]
    params = {leaf: jnp.asarray(arrays[leaf][0]) for leaf in leaves}
    steps = len(arrays[leaves[0]]) - 1
    # A trajectory without gradients of its own was fed those of the common problem.
    grads = {leaf: ({**problem, **arrays})[f"grads/{leaf}"][:steps] for leaf in leaves}
    extra = golden.extra(arrays, problem) if golden.extra else {}
    views = {"": lambda state, params: params, **golden.also}

    tx = golden.build(entry["hyperparameters"] | {"arrays": arrays})
    state = tx.init(params)
    state = golden.start(state, arrays) if golden.start else state

    def step(carry, inputs):
        (params, state), (grad, told) = carry, inputs
        updates, state = tx.update(grad, state, params, **told)
        params = apply_updates(params, updates)
        return (params, state), {view: see(state, params) for view, see in views.items()}

    _, seen = jax.jit(lambda carry, inputs: jax.lax.scan(step, carry, inputs))((params, state), (grads, extra))
    ours = {f"{view}{leaf}": np.asarray(seen[view][leaf]) for view in views for leaf in leaves}
    recorded = {name: arrays[name][1:] for name in ours}
    # A point at which gradients are taken is recorded before each step: there is none after the last one.
    return recorded, {name: rows[: len(recorded[name])] for name, rows in ours.items()}


def deviation(golden: Golden) -> float:
    """Largest deviation at any step of any leaf, in units of max(1, mean movement of the leaf)."""
    recorded, ours = trajectories(golden)
    movement = index()[golden.file]["mean_move"]

    def one(name):
        leaf = next(leaf for leaf in movement if name.endswith(leaf))
        return np.max(np.abs(ours[name] - recorded[name])) / max(1.0, movement[leaf])

    return float(max(one(name) for name in recorded))
