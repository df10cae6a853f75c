"""The edge of stability: one batch again and again, by gradient descent and by Adam, and how sharp the loss becomes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from benchmarks.answers.small import config, mean_loss
from jaxopt_mini import adam, apply_updates, sgd
from jaxopt_mini.tree import path_name
from minigpt_flax.diagnose.edge_of_stability import STABILITY_BOUNDS, optimizer_keywords
from minigpt_flax.train.build import build
from minigpt_flax.train.curvature_probes import largest_eigenvalue, signs

TINY = {"layers": 1, "width": 16, "heads": 2, "context": 16, "batch_size": 16}
STEPS, EVERY, DEPTH = 3000, 30, 20
RUNS = {"gradient descent": ("sgd", sgd, (0.05, 0.1)), "Adam": ("adam", adam, (1e-4, 2e-4))}


def follow(name: str, lr: float) -> dict[str, list[float]]:
    """Trains on one batch alone.

    Returns:
      ``step``, ``loss`` and ``curvature``: the largest eigenvalue of the Hessian as the optimizer feels it, in
      parameters that are rescaled as its steps are.
    """
    word, factory, _ = RUNS[name]
    rule, words = STABILITY_BOUNDS[word], optimizer_keywords(word)[1]
    run = build(config(STEPS, **TINY))
    loss, batch, tx = mean_loss(run), jnp.asarray(run.batches(0)), factory(lr)
    slope = lambda p: jax.grad(loss)(p, batch)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(slope(params), state, params)
        return (apply_updates(params, updates), state), None

    @jax.jit
    def felt(params, scale):
        rescaled = lambda vector: jax.tree.map(lambda s, v: v * jax.lax.rsqrt(s), scale, vector)
        product = lambda vector: rescaled(jax.vjp(slope, params)[1](rescaled(vector))[0])
        return largest_eigenvalue(product, signs(params), DEPTH)

    @jax.jit
    def block(params, state):
        (params, state), _ = jax.lax.scan(step, (params, state), length=EVERY)
        return params, state, loss(params, batch)

    params = run.draw(jax.random.key(0))
    state, ones = tx.init(params), jax.tree.map(jnp.ones_like, params)
    found: dict[str, list[float]] = {"step": [], "loss": [], "curvature": []}
    for t in range(EVERY, STEPS + 1, EVERY):
        params, state, value = block(params, state)
        named = {} if rule.scale is None else rule.scale(state, words)
        scale = jax.tree.map_with_path(lambda path, one, named=named: named.get(path_name(path), one), ones)
        for key, measured in zip(found, (t, value, felt(params, scale)), strict=True):
            found[key].append(float(measured))
    return found
