"""StableAdamW: AdamW with update clipping per tensor, for gradients that outgrow their second moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    transformation,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.states import get
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.clip import at_most
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import absolute_square, bias_correction, times


def scale_by_stable_adamw(
    inner: GradientTransformation, b2: ArrayLike, eps: ArrayLike, layout: Any | None = None
) -> GradientTransformationExtraArgs:
    """Divides the update of each tensor by the RMS of g / sqrt(v_hat), if that exceeds 1.

    Args:
      inner: a chain with one ``scale_by_adam``.
      b2: its decay of the mean of the squared gradient.
      eps: lower bound of sqrt(v_hat).
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation with the state of ``inner``.
    """

    def calmed(update: jax.Array, g: jax.Array, v: jax.Array, entry: ParamLayout) -> jax.Array:
        ratio = absolute_square(g) / jnp.maximum(v, jnp.square(eps))
        rms = jnp.sqrt(jnp.mean(ratio, entry.inputs + entry.outputs, keepdims=True))
        return times(update, at_most(1.0, rms))

    def update(updates, state, params=None, **extra_args):
        new, state = inner.update(updates, state, params, **extra_args)
        v = bias_correction(get(state, "ScaleByAdamState.nu"), b2, get(state, "ScaleByAdamState.count"))
        return jax.tree.map(calmed, new, updates, v, resolve(layout, updates)), state

    return transformation(inner.init, update)


def stable_adamw(
    learning_rate: ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    eps: ArrayLike = 1e-6,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """AdamW that shrinks a tensor's step when gradients spike.

    Wortsman et al., "Stable and low-precision training for large-scale vision-language models" (2023, arXiv
    2304.13013). Beyond :func:`adamw`, each tensor (each layer of a stack) has its own learning rate::

        lr_tensor = lr / max(1, RMS(g / max(sqrt(v_hat), eps)))
        p <- p - lr_tensor (m_hat / (sqrt(v_hat) + eps) + weight_decay p)

    This is Adafactor's update clipping in AdamW: where gradients grow faster than v adapts, which precedes loss spikes,
    the step shrinks, and clipping by global norm isn't needed.

    Departures: the paper builds the bias correction into b1 and b2, which gives the same m_hat and v_hat.

    Args:
      learning_rate: a number or a schedule; as for :func:`adamw`.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added outside the root.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      weight_decay: a number or a schedule, times the learning rate of the tensor; the paper uses 0.2.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`, which names the stacked axes; None infers it.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    AdamW's second step would be -0.14:

    >>> tx = stable_adamw(0.1, b1=0.0)
    >>> params = {"w": jnp.zeros(2)}
    >>> state = tx.init(params)
    >>> for size in (1.0, 10.0):
    ...     updates, state = tx.update({"w": jnp.full(2, size)}, state, params)
    ...     print([round(x, 4) for x in updates["w"].tolist()])
    [-0.1, -0.1]
    [-0.1, -0.1]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    inner = chain(scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype), add_decayed_weights(weight_decay, mask))
    return chain(scale_by_stable_adamw(inner, b2, eps, layout), scale_by_learning_rate(learning_rate))
