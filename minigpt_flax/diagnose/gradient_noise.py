"""The gradient's signal-to-noise ratio by role, and the gradient noise scale, which estimates the critical batch size.

McCandlish, Kaplan, Amodei et al., "An Empirical Model of Large-Batch Training" (2018, arXiv 1812.06162): let S be the
trace of the covariance of one token's gradient and G the true gradient. A batch much smaller than S / |G|^2 tokens
wastes steps, a much larger one wastes tokens. Tokens within a batch are correlated, so S is estimated between batches.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxopt_mini import tree
from minigpt_flax.diagnose.checkpoint_view import CheckpointView
from minigpt_flax.diagnose.interval import half_width
from minigpt_flax.diagnose.result import StudyResult
from minigpt_flax.errors import UserError
from minigpt_flax.runs.style import COLORS, MUTED, style_axes
from minigpt_flax.train.evaluate import perplexity

FITS = 2  # a batch within this factor of the noise scale fits
BATCH_FACTOR = 8  # batches per batch of the view: the covariance needs more of them than the mean


class GradientSums(NamedTuple):
    """Statistics of n gradients g_i of batches of equal size, and of their mean m.

    Attributes:
      squares: float64[n], |g_i|^2.
      inner: float64[n], g_i . m.
      mean_square: |m|^2.
    """

    squares: np.ndarray
    inner: np.ndarray
    mean_square: float

    def without(self, i: int) -> tuple[np.ndarray, float]:
        """``squares`` and ``mean_square`` of the other n - 1 batches."""
        n = len(self.squares)
        square = (n**2 * self.mean_square - 2 * n * self.inner[i] + self.squares[i]) / (n - 1) ** 2
        return np.delete(self.squares, i), float(square)


def study(view: CheckpointView) -> StudyResult:
    """Estimates noise scale and signal-to-noise ratio of the gradient, over all parameters and by role.

    Raises:
      UserError: the gradient is not finite.
    """
    sums = _gradient_sums(view)
    scales = {name: noise_scale(group, view.tokens) for name, group in sums.items()}
    estimate, low, high = scales["all"]
    numbers = {
        "noise_scale_tokens": estimate,
        "interval": [low, high],
        "by_role": {name: scale[0] for name, scale in scales.items() if name != "all"},
        "signal_to_noise": {name: signal_to_noise(group, view.tokens) for name, group in sums.items()},
        "batch_tokens": view.tokens,
        "batches": len(sums["all"].squares),
    }
    return StudyResult(_sentences(numbers), numbers, lambda figure: _draw(figure, numbers))


def _gradient_sums(view: CheckpointView) -> dict[str, GradientSums]:
    """Statistics of all parameters (``all``) and of each role, in two passes over the batches: mean gradient first."""
    batches = view.draw(BATCH_FACTOR * len(view.batches))
    mean = jax.jit(view.gradient)(view.params, batches)
    roles = sorted({entry.role for entry in jax.tree.leaves(view.run.layout)})

    def inner_by_role(a: Any, b: Any) -> jax.Array:
        """float32[roles], inner products of two trees."""
        leaves = zip(*map(jax.tree.leaves, (a, b, view.run.layout)), strict=True)
        products = [(entry.role, tree.inner(x, y)) for x, y, entry in leaves]
        return jnp.stack([sum(value for role, value in products if role == wanted) for wanted in roles])

    @jax.jit
    def measure(batch):
        grad = jax.grad(view.loss)(view.params, batch)
        return inner_by_role(grad, grad), inner_by_role(grad, mean)

    rows = []
    for i, batch in enumerate(batches, start=1):
        rows.append(jax.device_get(measure(batch)))
        view.report("noise", i, len(batches))
    squares, inner = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    mean_square = np.asarray(inner_by_role(mean, mean), np.float64)
    if not np.isfinite([*squares, *inner, mean_square]).all():
        raise UserError("the gradient here is not finite: choose an earlier checkpoint with --step")
    by_role = {role: GradientSums(squares[:, i], inner[:, i], float(mean_square[i])) for i, role in enumerate(roles)}
    return {"all": GradientSums(squares.sum(1), inner.sum(1), float(mean_square.sum())), **by_role}


def noise_and_signal(squares: np.ndarray, mean_square: float, tokens: int) -> tuple[float, float]:
    """Unbiased estimates of S and |G|^2 from n batches of b = ``tokens`` tokens each.

    The expected square of a single gradient is |G|^2 + S / b, that of the mean of n gradients |G|^2 + S / (n b).
    """
    n = len(squares)
    noise = tokens * n / (n - 1) * (squares.mean() - mean_square)
    return float(noise), float(mean_square - noise / (n * tokens))


def noise_scale(sums: GradientSums, tokens: int) -> tuple[float, float, float]:
    """S / |G|^2 in tokens and the bounds of its 95 % confidence interval, from a jackknife of its logarithm.

    If noise hides G (the estimate of |G|^2 is not positive), the scale is infinite; if no noise is measurable, it is 0.
    If that holds without some of the batches, the bounds are 0 and infinity.
    """
    n = len(sums.squares)
    estimate = _log_noise_scale(sums.squares, sums.mean_square, tokens)
    jackknife = np.array([_log_noise_scale(*sums.without(i), tokens) for i in range(n)])
    if not (np.isfinite(estimate) and np.isfinite(jackknife).all()):
        return perplexity(estimate), 0.0, math.inf
    error = math.sqrt((n - 1) / n * np.sum((jackknife - jackknife.mean()) ** 2))
    width = half_width(error, n)
    return perplexity(estimate), perplexity(estimate - width), perplexity(estimate + width)


def _log_noise_scale(squares: np.ndarray, mean_square: float, tokens: int) -> float:
    noise, signal = noise_and_signal(squares, mean_square, tokens)
    if signal <= 0:
        return math.inf
    return math.log(noise / signal) if noise > 0 else -math.inf


def signal_to_noise(sums: GradientSums, tokens: int) -> float:
    """|G| over the standard deviation of the gradient of one batch."""
    noise, signal = noise_and_signal(sums.squares, sums.mean_square, tokens)
    return math.sqrt(max(signal, 0.0) / (noise / tokens)) if noise > 0 else math.inf


def _sentences(numbers: dict[str, Any]) -> list[str]:
    estimate, (low, high), batch = numbers["noise_scale_tokens"], numbers["interval"], numbers["batch_tokens"]
    if not math.isfinite(estimate):
        return [
            f"Noise hides the mean gradient of {numbers['batches']} batches, so they cannot tell which batch size "
            "fits: measure more of them with --batches."
        ]
    ratios = numbers["signal_to_noise"]
    weakest = min(numbers["by_role"], key=lambda name: ratios[name])
    return [
        f"The gradient noise scale is {estimate:,.0f} tokens (95 % interval {low:,.0f} to {high:,.0f}). A batch of "
        f"about this size balances steps against tokens; the run's batch has {batch:,} tokens: "
        f"{advice(low, high, batch)}.",
        f"The signal-to-noise ratio of one batch's gradient is {ratios['all']:.2g}; it is lowest for the role "
        f"{weakest} ({ratios[weakest]:.2g}).",
    ]


def advice(low: float, high: float, batch: int) -> str:
    """The advice for a batch of ``batch`` tokens if the noise scale is between ``low`` and ``high``."""
    if low > FITS * batch:
        return "a larger batch would help, with a learning rate tuned to it"
    if high < batch / FITS:
        return "a smaller batch would suffice, with a learning rate tuned to it"
    if low >= batch / FITS and high <= FITS * batch:
        return "it fits"
    sizes = [name for name, size in (("half", batch / FITS), ("twice", FITS * batch)) if low <= size <= high]
    return f"the interval includes {' and '.join(sizes)} this size, so these batches cannot tell whether it fits"


def _draw(figure: Figure, numbers: dict[str, Any]) -> None:
    axes = figure.subplots()
    names = list(numbers["signal_to_noise"])
    axes.bar(names, np.nan_to_num([numbers["signal_to_noise"][name] for name in names], posinf=0.0), color=COLORS[0])
    axes.axhline(1.0, color=MUTED, linewidth=1)
    axes.set_title(f"gradient noise scale {numbers['noise_scale_tokens']:,.0f} tokens")
    style_axes(axes, "signal-to-noise ratio of one batch")
