"""Whether AdamW beats Adam: decoupled decay and an L2 penalty, over decay and learning rate, and on two weights."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32
from matplotlib.figure import Figure

from benchmarks.answers.small import Kept, config, mean_loss
from jaxopt_mini import adam, adamw, add_decayed_weights, apply_updates, chain, clip_by_norm, warmup_cosine
from minigpt_flax.compare.paired_tests import LEVEL, p_value, sem
from minigpt_flax.runs.style import DASHES, label_ends, looks, style_axes, title
from minigpt_flax.train.build import Run, build
from minigpt_flax.train.optimizer import decay_mask

SIZES = {"layers": 1, "width": 32, "heads": 2, "batch_size": 8}
STEPS, SEEDS, B2 = 1500, (0, 1, 2), 0.99
RATES = (1e-3, 3e-3)
CHARACTERS = 6_000  # of the corpus: seen so often that there is something to regularise
DECAYS = {"AdamW": (0.0, 0.1, 1.0, 3.0), "Adam + L2": (0.0, 1e-3, 1e-2, 1e-1)}
NOISES, TOY_STEPS, TOY_RATE = (1.0, 10.0), 2000, 1e-3


def optimizer(kind: str, rate: Any, decay: Any, mask: Any = None) -> Any:
    """Adam with decay, decoupled or as a penalty in the gradient."""
    kinds = {
        "AdamW": lambda: adamw(rate, b2=B2, weight_decay=decay, mask=mask),
        "Adam + L2": lambda: chain(add_decayed_weights(decay, mask), adam(rate, b2=B2)),
    }
    return kinds[kind]()


@functools.cache
def setting() -> Run:
    """The small GPT, its corpus, and the whole of its validation split."""
    return build(config(STEPS, **SIZES))


def windows(run: Run, seed: int) -> Int32[Array, "steps B length"]:
    """The batches of a run, from the beginning of the corpus alone."""
    length, text = run.config.context + 1, np.asarray(run.data.parts[0].train[:CHARACTERS], np.int32)
    starts = np.random.default_rng(seed).integers(0, len(text) - length + 1, (STEPS, run.config.batch_size, 1))
    return jnp.asarray(text[starts + np.arange(length)])


@functools.cache
def trainer(kind: str) -> Callable[..., Any]:
    """``(params, batches, rate, decay) -> params``, all steps in one."""
    loss, mask = mean_loss(setting()), decay_mask(setting().layout)

    def train(params, data, rate, decay):
        tx = chain(clip_by_norm(1.0), optimizer(kind, warmup_cosine(rate, STEPS, floor=0.0), decay, mask))

        def step(carry, batch):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
            return (apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), data)[0][0]

    return jax.jit(train)


def final(kind: str, rate: float, decay: float, seed: int) -> float:
    """Validation loss at the end of a run."""
    run, knobs = setting(), (jnp.float32(rate), jnp.float32(decay))
    return run.evaluate(trainer(kind)(run.draw(jax.random.key(seed)), windows(run, seed), *knobs))["val_loss"]


def shrink(kind: str, decay: float) -> list[list[float]]:
    """Two weights at 1 whose gradients are noise of different size, and nothing else: how decay alone moves them."""
    tx, sizes = optimizer(kind, TOY_RATE, decay), jnp.array(NOISES)

    def step(carry, key):
        weights, state = carry
        updates, state = tx.update(sizes * jax.random.normal(key, sizes.shape), state, weights)
        weights = apply_updates(weights, updates)
        return (weights, state), weights

    def one(key):
        start = jnp.ones_like(sizes)
        return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, TOY_STEPS))[1]

    many = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 200))  # their mean: noise alone pushes nowhere
    return many.mean(0)[:: TOY_STEPS // 50].T.tolist()


def measure(kept: Kept) -> dict[str, Any]:
    """Losses by (kind, rate, decay, seed), and how two weights shrink."""
    names = [(k, r, d, s) for k, decays in DECAYS.items() for d in decays for r in RATES for s in SEEDS]
    losses = {n: kept.get(key(*n), lambda n=n: final(*n)) for n in names}
    toys = {"AdamW": 1.0, "Adam + L2": 1.0}
    return {
        "losses": losses,
        "shrink": {k: kept.get(f"shrink {k}", lambda k=k, d=d: shrink(k, d)) for k, d in toys.items()},
    }


def key(kind: str, rate: float, decay: float, seed: int) -> str:
    """Where a loss is kept; without decay the two kinds are one."""
    return f"{kind if decay else 'Adam'} {rate:g} {decay:g} {seed}"


def means(losses: Mapping[Any, float], kind: str) -> np.ndarray:
    """float[decays, rates], over seeds."""
    return np.array([[statistics.fmean(losses[kind, r, d, s] for s in SEEDS) for r in RATES] for d in DECAYS[kind]])


def pictures(found: Mapping[str, Any]) -> dict[str, Figure]:
    """Loss over decay and learning rate, and two weights that shrink."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    title(figure, "Final loss over weight decay and learning rate")
    grids = {kind: means(found["losses"], kind) for kind in DECAYS}
    low = min(grid.min() for grid in grids.values())
    for axes, (kind, grid) in zip(figure.subplots(1, 2), grids.items(), strict=True):
        axes.imshow(grid, cmap="Blues", vmin=low - 0.05, vmax=low + 0.4, aspect="auto", origin="lower")
        for (i, j), value in np.ndenumerate(grid):
            weight = "bold" if value == grid.min() else "normal"
            color = "white" if value > low + 0.2 else "black"
            axes.text(j, i, f"{value:.3f}", ha="center", va="center", weight=weight, color=color)
        axes.set_xticks(range(len(RATES)), [f"{rate:g}" for rate in RATES])
        axes.set_yticks(range(len(DECAYS[kind])), [f"{decay:g}" for decay in DECAYS[kind]])
        axes.set_xlabel("peak learning rate")
        axes.set_ylabel("weight decay")
        axes.set_title(kind)
    toy = Figure(figsize=(6.5, 4), layout="constrained")
    title(toy, "AdamW shrinks both weights alike; an L2 penalty\nhardly shrinks the one with noisy gradients")
    axes = toy.subplots()
    for kind, name in (("Adam + L2", "adam"), ("AdamW", "adamw")):
        for noise, dash, curve in zip(NOISES, DASHES, found["shrink"][kind], strict=False):
            steps, color = np.linspace(0, TOY_STEPS, len(curve)), looks([name])[0]["color"]
            axes.plot(steps, curve, color=color, linestyle=dash, label=f"{kind}, noise {noise:g}")
    axes.set_xlabel("step")
    style_axes(axes, "weight")
    label_ends(axes)
    return {"grid": figure, "shrink": toy}


def answer(kept: Kept) -> tuple[dict[str, Figure], dict[str, str]]:
    """Measures what is missing; returns the page's pictures and facts."""
    found = measure(kept)
    points = [(rate, i) for rate in RATES for i in range(len(DECAYS["AdamW"]))]
    best = {
        kind: min(((rate, decays[i]) for rate, i in points), key=lambda at, kind=kind: _mean(found, kind, *at))
        for kind, decays in DECAYS.items()
    }
    runs = {kind: [found["losses"][kind, *best[kind], seed] for seed in SEEDS] for kind in DECAYS}
    said = {
        kind: f"{statistics.fmean(values):.3f} (rate {best[kind][0]:g}, decay {best[kind][1]:g})"
        for kind, values in runs.items()
    }
    ahead = [b - a for a, b in zip(runs["AdamW"], runs["Adam + L2"], strict=True)]
    chance = p_value(ahead) or 0.0
    left = {kind: [f"{curve[-1]:.2f}" for curve in curves] for kind, curves in found["shrink"].items()}
    facts = dict(
        adamw=said["AdamW"],
        l2=said["Adam + L2"],
        none=f"{min(_mean(found, 'AdamW', rate, 0.0) for rate in RATES):.3f}",
        ahead=f"{statistics.fmean(ahead):.3f} +- {sem(ahead):.3f}",
        p=f"{chance:.2g}",
        verdict="more than noise" if chance < LEVEL else "not significant",
        free_quiet=left["AdamW"][0],
        free_noisy=left["AdamW"][1],
        tied_quiet=left["Adam + L2"][0],
        tied_noisy=left["Adam + L2"][1],
        expected=f"{np.exp(-TOY_RATE * TOY_STEPS):.2f}",
        toy_rate=f"{TOY_RATE:g}",
        toy_steps=f"{TOY_STEPS:,}",
        steps=f"{STEPS:,}",
        characters=f"{CHARACTERS:,}",
        epochs=f"{STEPS * config(STEPS, **SIZES).step_tokens / CHARACTERS:.0f}",
        seeds=str(len(SEEDS)),
    )
    return pictures(found), facts


def _mean(found: Mapping[str, Any], kind: str, rate: float, decay: float) -> float:
    return statistics.fmean(found["losses"][kind, rate, decay, s] for s in SEEDS)
