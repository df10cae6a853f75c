"""How much curvature a step size tolerates: the thresholds of the optimizers for which theory has one.

On a quadratic of curvature h, gradient descent diverges when ``lr h > 2``; momentum moves the bound, and a method that
divides by the root of a second moment feels the curvature of the loss in the rescaled parameters (Cohen et al. 2021,
arXiv 2103.00065; 2022, arXiv 2207.14484). Training often hovers at the bound, at the edge of stability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_mini import OPTIMIZERS, states
from minigpt_flax.spec import parse, settings


class Rule(NamedTuple):
    """What theory says of one optimizer.

    Attributes:
      factor: its keywords -> the largest stable ``lr * curvature``.
      scale: (state, its keywords) -> what the update divides each parameter's gradient by; None where by nothing.
    """

    factor: Callable[[Mapping[str, Any]], float]
    scale: Callable[[Any, Mapping[str, Any]], Any] | None = None


def bound(decay: float, weight: float, nesterov: bool) -> float:
    """The largest stable ``lr * curvature`` of momentum ``m <- decay m + weight g``.

    ``(2 + 2 decay) / weight``, and with Nesterov's look ahead ``1 + 2 decay`` times less.

    >>> bound(0.0, 1.0, False), round(bound(0.9, 0.1, False), 6)
    (2.0, 38.0)
    """
    return (2 + 2 * decay) / (weight * (1 + 2 * decay * nesterov))


def _summed(words: Mapping[str, Any]) -> float:
    return bound(words["momentum"] or 0.0, 1 - (words["dampening"] or 0.0), words["nesterov"])


def _averaged(words: Mapping[str, Any]) -> float:
    return bound(words["decay"], 1 - words["decay"], False)


def _adam(words: Mapping[str, Any]) -> float:
    return bound(words["b1"], 1 - words["b1"], words["nesterov"])


def _adam_scale(state: Any, words: Mapping[str, Any]) -> Any:
    count = states.get(state, "ScaleByAdamState.count").astype(jnp.float32)
    weight = 1 - words["b2"] ** jnp.maximum(count, 1.0)
    root = lambda nu: jnp.sqrt(nu.astype(jnp.float32) / weight + words["eps_root"]) + words["eps"]
    return jax.tree.map(root, states.get(state, "ScaleByAdamState.nu"))


RULES: dict[str, Rule] = {
    "sgd": Rule(_summed),
    "momentum": Rule(_averaged),
    "adam": Rule(_adam, _adam_scale),
    "adamw": Rule(_adam, _adam_scale),
}


def keywords(word: str) -> tuple[str, dict[str, Any]]:
    """The name of an optimizer's word and all its keywords, defaults included.

    >>> keywords("adamw(b2=0.95)")[1]["b2"], keywords("adamw(b2=0.95)")[1]["b1"]
    (0.95, 0.9)
    """
    parsed = parse(word, "optimizer")
    return parsed.name, settings(parsed, OPTIMIZERS[parsed.name])


def rule_of(word: str) -> tuple[Rule | None, dict[str, Any]]:
    """The rule of an optimizer's word, None where theory has none, and its keywords."""
    name, words = keywords(word)
    return RULES.get(name), words
