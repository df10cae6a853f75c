"""Hyperparameters for another batch size or run length: rules, the evidence for each, and which optimizer follows them.

The rules relate two runs with ratios of the new one to the reference: ``batch`` of the sequences per step, ``steps`` of
the number of steps, and ``tokens``, their product.

- Learning rate, batch size: times ``gain ** 0.5`` for optimizers that normalize the gradient (Malladi et al. 2022,
  https://arxiv.org/abs/2205.10287), times ``gain`` for those that are linear in it (Goyal et al. 2017,
  https://arxiv.org/abs/1706.02677). The gain is ``batch`` while the batches are small compared with the gradient noise
  scale N, and (1 + N / old) / (1 + N / new) for any batches (McCandlish et al. 2018, https://arxiv.org/abs/1812.06162).
- Learning rate, run length: times ``tokens ** -0.32`` (Bjorck et al. 2024, https://arxiv.org/abs/2409.19913), where it
  was measured.
- Decay rates of averages: to the power ``batch``, so that their half-life in tokens stays (Marek et al. 2025,
  https://arxiv.org/abs/2507.07101, who keep ``b1``; Malladi et al. scale both).
- eps: divided by ``gain ** 0.5`` (Malladi et al. 2022).
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
DECAY_RATES = ("b1", "b2", "b3", "beta", "adam_b1", "adam_b2", "vector_b1", "vector_b2")  # of averages
EPS = ("eps",)
HORIZON = -0.32
TIMESCALE = "learning rate x decay per token stays (Wang & Aitchison 2024)"
MALLADI, MAREK, MCCANDLISH = "Malladi et al. 2022", "Marek et al. 2025", "McCandlish et al. 2018"
HALF_LIFE = "same half-life in tokens"


@dataclass(frozen=True)
class ScalingRule:
    """How the hyperparameters of an optimizer change with the batch size and the run length.

    Attributes:
      rate: exponent of the gain of the batch in the learning rate; None for an optimizer that estimates its own.
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
ADAM = ScalingRule(0.5, f"{SQUARE_ROOT} ({MALLADI})", HORIZON, "Bjorck et al. 2024", DECAY_RATES, EPS)
ADAPTIVE = ScalingRule(0.5, f"{SQUARE_ROOT} of Adam, by analogy", HORIZON, BY_ANALOGY, DECAY_RATES)
SCHEDULE_FREE = dataclasses.replace(ADAPTIVE, averages=("b2",))  # b1 is no decay rate
LAMB = ScalingRule(0.5, f"{SQUARE_ROOT} (You et al. 2020)", HORIZON, BY_ANALOGY, DECAY_RATES)
RMSPROP = ScalingRule(0.5, f"{SQUARE_ROOT} ({MALLADI})", HORIZON, BY_ANALOGY, ("decay",))
MUON = ScalingRule(
    0.5,
    f"{SQUARE_ROOT} of Adam, by analogy",
    HORIZON,
    "the exponent of AdamW, also measured for a Muon with fixed norms (Ren et al. 2026)",
    DECAY_RATES,
)
LINEAR = ScalingRule(1.0, "linear rule (Goyal et al. 2017); momentum stays")
FREE = ScalingRule(None, "this optimizer estimates its learning rate from the gradients")

SCALING_RULES: dict[str, ScalingRule] = {
    **dict.fromkeys(("adam", "adamw", "nadam", "nadamw", "amsgrad", "adamax", "adamaxw", "radam"), ADAM),
    **dict.fromkeys(("adan", "ademamix", "simplified_ademamix", "adam_mini", "laprop", "stable_adamw"), ADAPTIVE),
    **dict.fromkeys(("adabelief", "yogi", "adopt", "mars", "soap", "kl_soap", "gpa_adamw"), ADAPTIVE),
    **dict.fromkeys(("schedule_free_adamw", "schedule_free_radam"), SCHEDULE_FREE),
    "lamb": LAMB,
    **dict.fromkeys(("lion", "sign_sgd", "signum"), ADAPTIVE),
    "rmsprop": RMSPROP,
    **dict.fromkeys(("muon", "normuon", "adamuon", "polargrad", "aurora", "muown", "scion", "dion", "dion2"), MUON),
    "soap_muon": MUON,
    **dict.fromkeys(("sgd", "momentum", "asgd", "schedule_free_sgd"), LINEAR),
    **dict.fromkeys(("prodigy", "dadapt_adamw", "dog", "dowg", "polyak_sgd", "schedule_free_plus"), FREE),
}
"""Optimizer -> its :class:`ScalingRule`; the others of the table have none."""


def gain_of(batch: int | float, noise: int | float | None) -> float:
    """How much less the gradient of a batch varies, as far as it does: (1 + noise) / (1 + noise / batch).

    Args:
      batch: size of the batch over that of the reference.
      noise: gradient noise scale over the size of the reference's batch; None for one that is much larger than both.

    >>> gain_of(4, None), gain_of(4, 1.0)
    (4.0, 1.6)
    """
    return float(batch) if noise is None else (1 + noise) / (1 + noise / batch)


def rescale(
    name: str,
    hyperparameters: Mapping[str, Any],
    *,
    batch: int | float,
    steps: int | float,
    noise: int | float | None = None,
) -> tuple[dict[str, Any], list[Change]]:
    """Rescales the hyperparameters of an optimizer to another batch size and run length.

    Args:
      name: an optimizer of :data:`SCALING_RULES`.
      hyperparameters: ``learning_rate`` and keywords, as tuned; a keyword may be a list of pairs (time, value).
      batch: new batch size over that of the tuning.
      steps: new number of steps over that of the tuning.
      noise: gradient noise scale over the batch size of the tuning, both in tokens; None for one much larger than both
        batches. The larger batch gains nothing from the part of its size that is above the noise scale.

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
    if noise is not None and not 0 < noise < math.inf:
        raise ValueError(f"noise must be a ratio above 0, got {noise}")
    check_name(name, SCALING_RULES, "no rule for another batch size is known for the optimizer")
    rule, given = SCALING_RULES[name], dict(hyperparameters)
    if rule.rate is None:
        return given, [Change(RATE, given.get(RATE), given.get(RATE), f"unchanged, as {rule.evidence}")]
    gain = gain_of(batch, noise)
    factor = gain**rule.rate * (batch * steps) ** rule.horizon
    changes = [_rate(rule, given[RATE], factor, gain, batch, steps)] if RATE in given else []
    for key, value in given.items():
        if key.endswith(RATE) and key != RATE:
            changes.append(_changed(key, value, lambda x: x * factor, "as the learning rate"))
        elif key in rule.averages:
            reason = f"to the power {batch:g}, {HALF_LIFE} ({MAREK if key.endswith('b2') else MALLADI})"
            changes.append(_changed(key, value, lambda x: x**batch, reason))
        elif key in rule.eps:
            changes.append(_changed(key, value, lambda x: x / math.sqrt(gain), f"/ {gain:.3g}^0.5, {rule.evidence}"))
        elif key.endswith("weight_decay"):
            independent = given.get("decay") == "independent"  # not multiplied by the learning rate
            power = batch if independent else batch / factor
            changes.append(_changed(key, value, lambda x, power=power: x * power, TIMESCALE))
    changes = [change for change in changes if change.before != change.after]
    return given | {change.name: change.after for change in changes}, changes


def _rate(
    rule: ScalingRule, value: int | float, factor: float, gain: float, batch: int | float, steps: int | float
) -> Change:
    """The change of the learning rate, with its reasons."""
    by_noise = "" if gain == batch else f", with the gradient noise scale ({MCCANDLISH})"
    reasons = [] if batch == 1 else [f"x {gain:.3g}^{rule.rate:g}, {rule.evidence}{by_noise}"]
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
