"""AdamW: Adam with decoupled weight decay, applied to the weights instead of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, Params, ScalarOrSchedule, schedule_value
from jaxopt_mini.check import check_name, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights


def adamw(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Any | Callable[[Params], Any] | None = None,
    *,
    nesterov: bool = False,
    decay: str = "plain",
    peak_learning_rate: ArrayLike | None = None,
) -> GradientTransformation:
    """Adam with decoupled weight decay.

    Loshchilov, Hutter, "Decoupled Weight Decay Regularization" (2019, arXiv 1711.05101). Beyond :func:`adam`::

        p <- p - lr (m_hat / (sqrt(v_hat) + eps) + weight_decay p)

    The gradient of an L2 penalty would be divided by sqrt(v_hat), so that weights with large gradients would decay
    least; here every weight decays at the same rate.

    AdamC (Defazio 2025, arXiv 2506.02285) also multiplies the decay by lr / ``peak_learning_rate``, which keeps the
    norms of weights before a normalization layer constant: ``decay="corrected"``. With ``decay="independent"`` it is
    weight_decay lr / ``peak_learning_rate`` in each step, whatever the peak.

    Departures: as in torch and Optax, the decay is multiplied by the learning rate (in the paper it is not). The
    default decay is Optax's 1e-4, torch's is 1e-2; language models use 0.1 on matrices and none on vectors.

    Args:
      learning_rate: a number or a schedule; 1e-4 to 8e-3 for language models.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1); 0.95 to 0.99 for language models.
      eps: added outside the root.
      eps_root: added inside the root.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      nesterov: use Nesterov momentum, see :func:`nadamw`.
      decay: "plain", "corrected" or "independent".
      peak_learning_rate: largest learning rate of the schedule, for the last two; None is ``learning_rate``, if that is
        a number.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> tx = adamw(0.1, weight_decay=0.5)
    >>> params = {"w": jnp.array([1.0, -2.0])}
    >>> updates, _ = tx.update({"w": jnp.array([5.0, -0.01])}, tx.init(params), params)
    >>> [round(x, 4) for x in updates["w"].tolist()]
    [-0.15, 0.2]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay, peak_learning_rate=peak_learning_rate)
    check_name(decay, ("plain", "corrected", "independent"), "unknown decay")
    decays = weight_decay if decay == "plain" else _by_rate(learning_rate, weight_decay, decay, peak_learning_rate)
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(decays, mask),
        scale_by_learning_rate(learning_rate),
    )


def _by_rate(learning_rate: Any, weight_decay: Any, decay: str, peak: Any) -> Callable[[ArrayLike], Any]:
    """The weight decay that, times the learning rate, gives a corrected or independent decay."""
    if peak is None and callable(learning_rate):
        raise ValueError(f"decay={decay!r} needs the peak of the schedule: give peak_learning_rate")
    peak = learning_rate if peak is None else peak

    def rate(count):
        factor = schedule_value(learning_rate, count) if decay == "corrected" else 1.0
        return jnp.asarray(schedule_value(weight_decay, count) * factor / peak)

    return rate
