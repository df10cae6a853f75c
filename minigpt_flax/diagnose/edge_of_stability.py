"""The largest stable curvature for a learning rate, for the optimizers with a known stability bound.

On a quadratic of curvature h, gradient descent diverges for ``lr h > 2``. Momentum changes the bound, and for a method
that divides by the root of a second moment, h is the curvature of the preconditioned loss (Cohen et al. 2021,
arXiv 2103.00065; 2022, arXiv 2207.14484). Training often stays close to the bound, at the edge of stability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxopt_mini import tree
from jaxopt_mini.quantize import Blocks, dequantize
from minigpt_flax.spec import Spec, parse, settings
from minigpt_flax.train.registry import REGISTRIES


class StabilityBound(NamedTuple):
    """The stability bound of an optimizer.

    Attributes:
      factor: keywords -> the largest stable ``lr * curvature``.
      scale: (state, keywords) -> name of each parameter -> the preconditioner, by which the update divides its
        gradient, empty before the first step; None without one.
    """

    factor: Callable[[Mapping[str, Any]], float]
    scale: Callable[[Any, Mapping[str, Any]], dict[str, Array]] | None = None


def momentum_bound(decay: float, weight: float, nesterov: bool) -> float:
    """The largest stable ``lr * curvature`` of momentum ``m <- decay m + weight g``.

    ``(2 + 2 decay) / weight``; with Nesterov momentum, divided by ``1 + 2 decay``.

    >>> momentum_bound(0.0, 1.0, False), round(momentum_bound(0.9, 0.1, False), 6)
    (2.0, 38.0)
    """
    return (2 + 2 * decay) / (weight * (1 + 2 * decay * nesterov))


def _sgd(keywords: Mapping[str, Any]) -> float:
    return momentum_bound(keywords["momentum"] or 0.0, 1 - (keywords["dampening"] or 0.0), keywords["nesterov"])


def _momentum(keywords: Mapping[str, Any]) -> float:
    return momentum_bound(keywords["decay"], 1 - keywords["decay"], False)


def _adam(keywords: Mapping[str, Any]) -> float:
    return momentum_bound(keywords["b1"], 1 - keywords["b1"], keywords["nesterov"])


# These divide by sqrt(nu / (1 - b2^t) + eps_root) + eps, with t the steps of the state that holds ``nu``.
BIAS_CORRECTED = frozenset(
    {"adam", "adamw", "nadam", "nadamw", "lamb", "ademamix", "laprop", "stable_adamw", "schedule_free_adamw"}
)


def second_moment_roots(state: Any, keywords: Mapping[str, Any]) -> dict[str, Array]:
    """Square roots of the second moments as the last step used them, for the optimizers in ``BIAS_CORRECTED``.

    Args:
      state: optimizer state, including wrappers and masks.
      keywords: of the optimizer.

    Returns:
      Name of each parameter -> ``sqrt(nu / (1 - b2^t) + eps_root)``; empty before the first step.
    """
    is_moments = lambda node: hasattr(node, "nu") and hasattr(node, "count")
    found = [node for node in jax.tree.leaves(state, is_leaf=is_moments) if is_moments(node) and int(node.count) > 0]
    roots = {}
    for node in found:
        weight = 1 - keywords["b2"] ** float(node.count)
        for path, leaf in jax.tree.leaves_with_path(node.nu, is_leaf=lambda leaf: isinstance(leaf, Blocks)):
            nu = dequantize(leaf) if isinstance(leaf, Blocks) else tree.widen(leaf)
            roots[tree.path_name(path)] = jnp.sqrt(nu / weight + keywords.get("eps_root", 0.0))
    return roots


def _adam_scale(state: Any, keywords: Mapping[str, Any]) -> dict[str, Array]:
    return {name: root + keywords["eps"] for name, root in second_moment_roots(state, keywords).items()}


STABILITY_BOUNDS: dict[str, StabilityBound] = {
    "sgd": StabilityBound(_sgd),
    "momentum": StabilityBound(_momentum),
    "adam": StabilityBound(_adam, _adam_scale),
    "adamw": StabilityBound(_adam, _adam_scale),
}


def optimizer_keywords(spec: Spec | str) -> tuple[str, dict[str, Any]]:
    """The name in an optimizer spec and all keywords, including defaults; of an external factory, only those given.

    >>> optimizer_keywords("adamw(b2=0.95)")[1]["b2"], optimizer_keywords("adamw(b2=0.95)")[1]["b1"]
    (0.95, 0.9)
    """
    parsed = parse(spec, "optimizer") if isinstance(spec, str) else spec
    if parsed.is_external:
        return parsed.name, parsed.keywords
    return parsed.name, settings(parsed, REGISTRIES["optimizer"].row(parsed))


def find_bound(spec: Spec | str) -> tuple[StabilityBound | None, dict[str, Any]]:
    """The stability bound for an optimizer spec, None if no bound is known, and the optimizer's keywords."""
    name, keywords = optimizer_keywords(spec)
    return STABILITY_BOUNDS.get(name), keywords
