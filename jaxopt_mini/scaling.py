"""Hyperparameters for another batch size or run length: rules, the evidence for each, and which optimizer follows them.

The rules relate two runs with ratios of the new one to the reference: ``batch`` of the sequences per step, ``steps`` of
the number of steps, and ``tokens``, their product.

- Learning rate, batch size: times ``batch ** 0.5`` for optimizers that normalize the gradient (Malladi et al. 2022,
  https://arxiv.org/abs/2205.10287), times ``batch`` for those that are linear in it (Goyal et al. 2017,
  https://arxiv.org/abs/1706.02677). Both hold below the critical batch size only.
- Learning rate, run length: times ``tokens ** -0.32`` (Bjorck et al. 2024, https://arxiv.org/abs/2409.19913), where it
  was measured.
- Decay rates of second moments and of slow averages: to the power ``batch``, so that their half-life in tokens stays
  (Marek et al. 2025, https://arxiv.org/abs/2507.07101). Momentum stays, as in that work. Malladi et al. scale it, but
  less momentum lowers the highest stable learning rate, (2 + 2 b1) / (1 - b1) over the sharpness of the preconditioned
  loss (Cohen et al. 2022, https://arxiv.org/abs/2207.14484), just where the square-root rule raises the learning rate.
- eps: divided by ``batch ** 0.5`` (Malladi et al. 2022).
- Weight decay: learning rate times weight decay, per token, stays: the timescale of AdamW's average of the weights
  (Wang & Aitchison 2024, https://arxiv.org/abs/2405.13698).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxopt_mini.check import check_name

RATE = "learning_rate"
SECOND_MOMENTS = ("b2", "adam_b2", "vector_b2")  # decay rates
EPS = ("eps",)
HORIZON = -0.32
TIMESCALE = "learning rate x decay per token stays (Wang & Aitchison 2024)"
MALLADI, MAREK = "Malladi et al. 2022", "Marek et al. 2025"
HALF_LIFE = "same half-life in tokens"


@dataclass(frozen=True)
class ScalingRule:
    """How the hyperparameters of an optimizer change with the batch size and the run length.

    Attributes:
      rate: exponent of the batch ratio in the learning rate; None for an optimizer that estimates its own.
      evidence: for ``rate``.
      horizon: exponent of the ratio of tokens in the learning rate.
      horizon_evidence: for ``horizon``.
      averages: keywords that are decay rates of averages over steps.
      eps: keywords that are compared with the size of a gradient.
    """

    rate: float | None
    evidence: str
    horizon: float = 0.0
    horizon_evidence: str = ""
    averages: tuple[str, ...] = ()
    eps: tuple[str, ...] = ()


class Change(NamedTuple):
    """One hyperparameter that changed.

    Attributes:
      name: keyword.
      before: value in the reference run.
      after: value in the new run.
      reason: the rules, with their evidence.
    """

    name: str
    before: Any
    after: Any
    reason: str

    def __str__(self) -> str:
        """One line of text."""
        if self.before == self.after:
            return f"{self.name} {_spell(self.before)}: {self.reason}"
        return f"{self.name} {_spell(self.before)} -> {_spell(self.after)}: {self.reason}"


SQUARE_ROOT = "square-root rule"
BY_ANALOGY = "the exponent of AdamW (Bjorck et al. 2024), by analogy"
ADAM = ScalingRule(0.5, f"{SQUARE_ROOT} ({MALLADI})", HORIZON, "Bjorck et al. 2024", SECOND_MOMENTS, EPS)
ADAPTIVE = ScalingRule(0.5, f"{SQUARE_ROOT} of Adam, by analogy", HORIZON, BY_ANALOGY, SECOND_MOMENTS)
SIGN = dataclasses.replace(ADAPTIVE, averages=())  # without second moments
ADAN = dataclasses.replace(ADAPTIVE, averages=("b3",))  # b2 is momentum of differences
ADEMAMIX = dataclasses.replace(ADAPTIVE, averages=("b2", "b3"))  # b3 is a slow average
LAMB = ScalingRule(0.5, f"{SQUARE_ROOT} (You et al. 2020)", HORIZON, BY_ANALOGY, SECOND_MOMENTS)
RMSPROP = ScalingRule(0.5, f"{SQUARE_ROOT} ({MALLADI})", HORIZON, BY_ANALOGY, ("decay",))
MUON = ScalingRule(
    0.5,
    f"{SQUARE_ROOT} of Adam, by analogy",
    HORIZON,
    "the exponent of AdamW, also measured for a Muon with fixed norms (Ren et al. 2026)",
    SECOND_MOMENTS,
)
LINEAR = ScalingRule(1.0, "linear rule (Goyal et al. 2017); momentum stays")
FREE = ScalingRule(None, "this optimizer estimates its learning rate from the gradients")

SCALING_RULES: dict[str, ScalingRule] = {
    **dict.fromkeys(("adam", "adamw", "nadam", "nadamw", "amsgrad", "adamax", "adamaxw", "radam"), ADAM),
    **dict.fromkeys(("simplified_ademamix", "adam_mini", "laprop", "stable_adamw"), ADAPTIVE),
    **{"adan": ADAN, "ademamix": ADEMAMIX},
    **dict.fromkeys(("adabelief", "yogi", "adopt", "mars", "soap", "kl_soap", "gpa_adamw"), ADAPTIVE),
    **dict.fromkeys(("schedule_free_adamw", "schedule_free_radam"), ADAPTIVE),
    "lamb": LAMB,
    **dict.fromkeys(("lion", "sign_sgd", "signum"), SIGN),
    "rmsprop": RMSPROP,
    **dict.fromkeys(("muon", "normuon", "adamuon", "polargrad", "aurora", "muown", "scion", "dion", "dion2"), MUON),
    "soap_muon": MUON,
    **dict.fromkeys(("sgd", "momentum", "asgd", "schedule_free_sgd"), LINEAR),
    **dict.fromkeys(("prodigy", "dadapt_adamw", "dog", "dowg", "polyak_sgd", "schedule_free_plus"), FREE),
}
"""Optimizer -> its :class:`ScalingRule`; the others of the table have none."""


def rescale(
    name: str, hyperparameters: Mapping[str, Any], *, batch: int | float, steps: int | float
) -> tuple[dict[str, Any], list[Change]]:
    """Rescales the hyperparameters of an optimizer to another batch size and run length.

    Args:
      name: an optimizer of :data:`SCALING_RULES`.
      hyperparameters: ``learning_rate`` and keywords, as tuned; a keyword may be a list of pairs (time, value).
      batch: new batch size over that of the tuning.
      steps: new number of steps over that of the tuning.

    Returns:
      All hyperparameters with their new values, and the changes.

    Raises:
      ValueError: the optimizer has no rule, or a ratio isn't above 0.

    >>> found, changes = rescale("adamw", {"learning_rate": 1e-3, "b2": 0.99, "weight_decay": 0.1}, batch=4, steps=0.25)
    >>> {key: round(value, 6) for key, value in found.items()}
    {'learning_rate': 0.002, 'b2': 0.960596, 'weight_decay': 0.2}
    """
    for key, ratio in (("batch", batch), ("steps", steps)):
        if not 0 < ratio < math.inf:
            raise ValueError(f"{key} must be a ratio above 0, got {ratio}")
    check_name(name, SCALING_RULES, "no rule for another batch size is known for the optimizer")
    rule, given = SCALING_RULES[name], dict(hyperparameters)
    if rule.rate is None:
        return given, [Change(RATE, given.get(RATE), given.get(RATE), f"unchanged, as {rule.evidence}")]
    factor = float(batch) ** rule.rate * (batch * steps) ** rule.horizon
    changes = [_rate(rule, given[RATE], factor, batch, steps)] if RATE in given else []
    for key, value in given.items():
        if key.endswith(RATE) and key != RATE:
            changes.append(_changed(key, value, lambda x: x * factor, "as the learning rate"))
        elif key in rule.averages:
            reason = f"to the power {batch:g}, {HALF_LIFE} ({MAREK})"
            changes.append(_changed(key, value, lambda x: x**batch, reason))
        elif key in rule.eps:
            changes.append(_changed(key, value, lambda x: x / math.sqrt(batch), f"/ {batch:g}^0.5, {rule.evidence}"))
        elif key.endswith("weight_decay"):
            independent = given.get("decay") == "independent"  # not multiplied by the learning rate
            power = batch if independent else batch / factor
            changes.append(_changed(key, value, lambda x, power=power: x * power, TIMESCALE))
    changes = [change for change in changes if change.before != change.after]
    return given | {change.name: change.after for change in changes}, changes


def _rate(rule: ScalingRule, value: int | float, factor: float, batch: int | float, steps: int | float) -> Change:
    """The change of the learning rate, with its reasons."""
    reasons = [] if batch == 1 else [f"x {batch:g}^{rule.rate:g}, {rule.evidence}"]
    if batch * steps != 1:
        of_tokens = f"x {batch * steps:g}^{rule.horizon:g} for the number of tokens, {rule.horizon_evidence}"
        reasons.append(of_tokens if rule.horizon else "no rule is known for the number of tokens")
    return Change(RATE, value, value * factor, "; ".join(reasons))


def _changed(name: str, value: Any, by: Callable[[int | float], int | float], reason: str) -> Change:
    """The change of a number, or of the values of points (time, number)."""
    if isinstance(value, list):
        return Change(name, value, [(time, by(number)) for time, number in value], reason)
    return Change(name, value, by(value) if isinstance(value, int | float) else value, reason)


def _spell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
