"""How the steps of every optimizer grow with the width: ``python -m benchmarks.step_law [OPT ...] [--out FILE]``.

A network of two residual layers on random tokens takes a few steps at several widths, plainly and inside
:func:`~jaxopt_mini.wrappers.mup`. The slope is that of the logarithm of what the change of each parameter adds to its
outputs, over the logarithm of the width: 0 if a learning rate that suits one width suits all.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_mini import OPTIMIZERS, ParamLayout, apply_updates
from jaxopt_mini.wrappers import STEP_SIZES, mup, step_size
from minigpt_flax.spec import Spec
from minigpt_flax.train.compile import run_unoptimized
from minigpt_flax.train.config.run_config import default_of

OUT = Path(__file__).parent / "results" / "transfer" / "step_law.json"
WIDTHS = (48, 192)
BASE = 48
VOCAB, LAYERS, TOKENS, STEPS = 8, 2, 64, 6
SMALLER = 0.1  # than the rate that is best on a real model: the law is about small changes
LAYOUT = {
    "embed": ParamLayout("embedding", (), (0,), (1,)),
    "up": ParamLayout("matrix", (0,), (1,), (2,)),
    "down": ParamLayout("matrix", (0,), (1,), (2,)),
    "scale": ParamLayout("vector", (0,), (), (1,)),
    "head": ParamLayout("head", (), (0,), (1,)),
}


def shapes(width: int) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter."""
    up = (LAYERS, width, 2 * width)
    return {
        "embed": (VOCAB, width),
        "up": up,
        "down": (LAYERS, 2 * width, width),
        "scale": (LAYERS, width),
        "head": (width, VOCAB),
    }


def spec_of(name: str) -> Spec:
    """The defaults of an optimizer; a projection gets a rank that the gradients have, for which its rule holds."""
    spec = default_of(name)
    ranked = {"rank": VOCAB} if "rank" in inspect.signature(OPTIMIZERS[name]).parameters else {}
    return dataclasses.replace(spec, keywords=spec.keywords | ranked)


def initial(width: int, key: jax.Array, *, scaled: bool) -> dict[str, jax.Array]:
    """Random parameters; ``scaled`` shrinks hidden matrices with the root of the width beyond the base."""
    drawn = {}
    for name, shape in shapes(width).items():
        key, own = jax.random.split(key)
        fan_in = LAYOUT[name].fans(shape if scaled else shapes(BASE)[name])[0]
        std = 1.0 if name == "embed" else fan_in**-0.5 if name in ("up", "down") else BASE**-0.5
        drawn[name] = jnp.ones(shape) if name == "scale" else std * jax.random.normal(own, shape)
    return drawn


def features(params: Mapping[str, jax.Array], tokens: jax.Array) -> dict[str, jax.Array]:
    """The inputs of every parameter that is multiplied, and the final features."""
    x, seen = params["embed"][tokens], {"up": [], "down": []}
    for layer in range(LAYERS):
        inputs = normalize(x) * params["scale"][layer][None]
        hidden = jnp.tanh(inputs @ params["up"][layer])
        x = x + hidden @ params["down"][layer]
        seen["up"].append(inputs)
        seen["down"].append(hidden)
    return {**{name: jnp.stack(rows) for name, rows in seen.items()}, "head": normalize(x)}


def normalize(x: jax.Array) -> jax.Array:
    """Features with a root mean square of 1."""
    return x / jnp.sqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)


def loss_of(params: Mapping[str, jax.Array], tokens: jax.Array, targets: jax.Array, multiplier: float) -> jax.Array:
    """Cross-entropy of random targets."""
    logits = multiplier * features(params, tokens)["head"] @ params["head"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], 1))


def build(spec: Spec, scaled: bool) -> Any:
    """The optimizer, in the units of the base if ``scaled``."""
    keywords = {name: value for name, value in spec.keywords.items() if name != "lr"}
    factory = OPTIMIZERS[spec.name]
    takes = inspect.signature(factory).parameters
    zeros = {name: 0.0 for name in takes if name in ("weight_decay", "adam_weight_decay")}

    def make(layout: Any) -> Any:
        offered = {"layout": layout} if "layout" in takes else {}
        return factory(SMALLER * spec.keywords.get("lr", 1e-3), **{**offered, **keywords, **zeros})

    if not scaled:
        return make(LAYOUT)
    base = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes(BASE).items()}
    return mup(make, base, like=step_size(spec.name, **keywords), layout=LAYOUT)


def felt(spec: Spec, width: int, seed: int, *, scaled: bool) -> dict[str, float]:
    """Root mean square of what the change of each parameter adds to its outputs after a few steps."""
    multiplier = BASE / width if scaled else 1.0
    keys = jax.random.split(jax.random.key(seed), 3)
    tokens = jax.random.randint(keys[0], (TOKENS,), 0, VOCAB)
    targets = jax.random.permutation(keys[1], VOCAB)[tokens]
    loss = functools.partial(loss_of, tokens=tokens, targets=targets, multiplier=multiplier)
    first = initial(width, keys[2], scaled=scaled)
    tx = build(spec, scaled)

    def train(params):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            extra_args = {"value": value, "key": jax.random.key(0), "loss_fn": loss}
            updates, state = tx.update(grads, state, params, **extra_args)
            return (apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=STEPS)[0][0]

    seen, change = features(first, tokens), jax.tree.map(jnp.subtract, run_unoptimized(jax.jit(train), first), first)
    added = {name: seen[name] @ change[name] for name in ("up", "down", "head")}
    added = {**change, **added, "head": multiplier * added["head"]}
    return {name: float(jnp.sqrt(jnp.mean(jnp.square(leaf)))) for name, leaf in added.items()}


def slopes(spec: Spec, widths: Sequence[int] = WIDTHS, seeds: int = 1, *, scaled: bool = True) -> dict[str, float]:
    """Slope of the logarithm of :func:`felt` over that of the width, for each parameter."""
    rows = [[felt(spec, width, seed, scaled=scaled) for seed in range(seeds)] for width in widths]
    at = np.log(np.asarray(widths, float))

    def one(name: str) -> float:
        means = [np.mean([np.log(found[name]) for found in row]) for row in rows]
        return float(np.polyfit(at, means, 1)[0])

    return {name: round(one(name), 3) for name in LAYOUT}


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(STEP_SIZES), metavar="OPT")
    parser.add_argument("--plain", action="store_true", help="also without mup")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    print(f"{'':24s}" + "".join(f"{name:>15s}" for name in LAYOUT))
    for name in arguments.names:
        ways = {"mup": True} | ({"plain": False} if arguments.plain else {})
        found[name] = {how: slopes(spec_of(name), scaled=scaled) for how, scaled in ways.items()}
        for how in ways:
            print(f"{name:18s}{how:6s}" + "".join(f"{found[name][how][leaf]:15.2f}" for leaf in LAYOUT), flush=True)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
