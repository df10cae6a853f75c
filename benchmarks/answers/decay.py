"""Whether AdamW beats Adam: decoupled decay and an L2 penalty, over decay and learning rate, and on two weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32
from matplotlib.figure import Figure

from benchmarks.answers import page
from benchmarks.answers.judged import HEAD, SEARCH_SEEDS, SEEDS, against, columns, difference, mean
from benchmarks.answers.small import Kept, config, mean_loss
from jaxopt_mini import adam, adamw, add_decayed_weights, apply_updates, chain, clip_by_norm, warmup_cosine
from minigpt_flax.compare.paired_tests import PairedTest
from minigpt_flax.runs.style import DASHES, label_ends, looks, style_axes, title
from minigpt_flax.train.build import Run, build
from minigpt_flax.train.optimizer import decay_mask

SIZES = {"layers": 1, "width": 32, "heads": 2, "batch_size": 8}
STEPS, B2 = 1500, 0.99
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
CHARACTERS = 6_000  # of the corpus: seen so often that there is something to regularise
DECAYS = {"AdamW": (0.0, 0.1, 0.3, 1.0, 3.0), "Adam + L2": (0.0, 3e-4, 1e-3, 3e-3, 1e-2)}
Setting = tuple[str, float, float]  # kind, learning rate, decay
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


def final(kind: str, rate: float, decay: float, seed: int) -> float | None:
    """Validation loss at the end of a run; None where training broke."""
    run, knobs = setting(), (jnp.float32(rate), jnp.float32(decay))
    loss = run.evaluate(trainer(kind)(run.draw(jax.random.key(seed)), windows(run, seed), *knobs))["val_loss"]
    return loss if math.isfinite(loss) else None


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


def losses(kept: Kept, setting: Setting, seeds: Sequence[int]) -> list[float | None]:
    """Final losses by seed; None for a run that broke."""
    return [kept.get(key(*setting, seed), functools.partial(final, *setting, seed)) for seed in seeds]


def measure(kept: Kept) -> dict[str, Any]:
    """Mean losses of the grids, losses at the best of each kind, and how two weights shrink."""
    grids = {
        kind: np.array([[mean(losses(kept, (kind, r, d), SEARCH_SEEDS)) for r in RATES] for d in decays])
        for kind, decays in DECAYS.items()
    }
    best = {kind: best_setting(kind, grid) for kind, grid in grids.items()}
    best["no decay"] = ("AdamW", RATES[int(grids["AdamW"][0].argmin())], 0.0)
    return {
        "grids": grids,
        "best": best,
        "losses": {kind: losses(kept, setting, SEEDS) for kind, setting in best.items()},
        "shrink": {kind: kept.get(f"shrink {kind}", functools.partial(shrink, kind, 1.0)) for kind in DECAYS},
    }


def best_setting(kind: str, grid: np.ndarray) -> Setting:
    """The setting of a grid with the lowest loss."""
    row, column = np.unravel_index(grid.argmin(), grid.shape)
    return kind, RATES[column], DECAYS[kind][row]


def at_edge(kind: str, setting: Setting) -> bool:
    """Whether the best setting has no neighbor in the grid on one side; there is no decay below 0."""
    _, rate, decay = setting
    return rate in (RATES[0], RATES[-1]) or decay == DECAYS[kind][-1]


def key(kind: str, rate: float, decay: float, seed: int) -> str:
    """Where a loss is kept; without decay the two kinds are one."""
    return f"{kind if decay else 'Adam'} {rate:g} {decay:g} {seed}"


def pictures(found: Mapping[str, Any]) -> dict[str, Figure]:
    """Loss over decay and learning rate, and two weights that shrink."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    title(figure, "Final loss over weight decay and learning rate")
    grids = found["grids"]
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
    left = {kind: [f"{curve[-1]:.2f}" for curve in curves] for kind, curves in found["shrink"].items()}
    tests = against("AdamW", found["losses"])
    facts = dict(
        table=table(found, tests),
        **{name: verdict(kind, tests[kind]) for name, kind in (("l2", "Adam + L2"), ("none", "no decay"))},
        edges=", ".join(kind for kind in DECAYS if at_edge(kind, found["best"][kind])) or "neither",
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
        search_seeds=str(len(SEARCH_SEEDS)),
    )
    return pictures(found), facts


def table(found: Mapping[str, Any], tests: Mapping[str, PairedTest]) -> str:
    """Each kind at its best setting."""
    rows = [
        [kind, f"{rate:g}", f"{decay:g}", f"{mean(found['losses'][kind]):.3f}", *columns(kind, tests.get(kind))]
        for kind, (_, rate, decay) in found["best"].items()
    ]
    return page.table(["", "rate", "decay", "loss", *HEAD], rows)


def verdict(kind: str, test: PairedTest) -> str:
    """What the test says of a kind beside AdamW."""
    gap, interval = difference(kind, test)
    decided = "significant" if test.significant else "not significant"
    return f"{gap} nats (95 % interval {interval}, p = {test.corrected:.2g}), {decided}"
