"""Adafactor: Adam without momentum, with a factored second moment and steps relative to the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, Params, ScalarOrSchedule, transformation
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale, scale_by_learning_rate
from jaxopt_mini.transforms.clip import clip_by_block_rms
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.transforms.factored import scale_by_factored_rms
from jaxopt_mini.transforms.moments import ema
from jaxopt_mini.transforms.trust import scale_by_param_block_rms
from jaxopt_mini.tree import cast_like, widen


def adafactor(
    learning_rate: ScalarOrSchedule | None = None,
    min_dim_size_to_factor: int | jax.Array = 128,
    decay_rate: ArrayLike = 0.8,
    decay_offset: ArrayLike = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: ArrayLike | None = 1.0,
    momentum: ArrayLike | None = None,
    dtype_momentum: DTypeLike = jnp.float32,
    weight_decay_rate: ScalarOrSchedule | None = None,
    eps: ArrayLike = 1e-30,
    factored: bool = True,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    *,
    min_scale: ArrayLike = 1e-3,
    decay_by_rate: bool = False,
    layout: Any | None = None,
) -> GradientTransformation:
    """Adam in little memory: a factored second moment.

    Shazeer, Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost" (2018, arXiv 1804.04235). Descends
    from :func:`rmsprop`. For each matrix (per layer in a stack), with b = 1 - t^-decay_rate::

        R <- b R + (1 - b) mean_j (g^2 + eps)         C <- b C + (1 - b) mean_i (g^2 + eps)
        u = g / sqrt(R_i C_j / mean(R))               u <- u / max(1, rms(u) / clipping_threshold)
        m <- momentum m + (1 - momentum) lr max(rms(p), min_scale) u
        p <- p - m - weight_decay_rate p

    Departures from Optax: Optax clips and scales a stack of layers as one tensor. The decay is not multiplied by the
    learning rate; in torch it is, ``weight_decay_rate=lr * w``, and in Hugging Face also by max(rms(p), min_scale),
    where this scales the step: ``decay_by_rate=True``. Both factor matrices of every size,
    ``min_dim_size_to_factor=1``, and their relative step size is the schedule ``lambda t: jnp.minimum(lr, (t + 1.0) **
    -0.5)``, with lr = 1e-2 in Hugging Face. torch's ``eps=(e1, e2)`` is ``eps=e1**2, min_scale=e2``: it bounds the
    product of the means by e1^2 instead of adding to the squares. The learning rate is inside the momentum, as in
    Hugging Face.

    Args:
      learning_rate: a number or a schedule: the size of a step relative to the weights, 1e-3 to 1e-2; None is 1.
      min_dim_size_to_factor: tensors whose second longest axis is shorter store a second moment per entry.
      decay_rate: power of the decay, >= 0.
      decay_offset: number of the first step, for fine-tuning.
      multiply_by_parameter_scale: steps relative to the root mean square of the weights; False makes them absolute.
      clipping_threshold: largest root mean square of a tensor's u; None is unbounded.
      momentum: decay of a mean of the steps, in [0, 1); None disables it.
      dtype_momentum: dtype that the momentum is stored in.
      weight_decay_rate: a number or a schedule, not times the learning rate; None disables it.
      eps: added to the squares.
      factored: False stores all second moments per entry.
      weight_decay_mask: leaves to decay, a tree of booleans or a function of the parameters that returns one.
      min_scale: lower bound of the root mean square of the weights.
      decay_by_rate: multiply the decay by all that the step is multiplied by.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`, which names the stacked axes; None infers it.

    Returns:
      A transformation; 4 (rows + columns) bytes of state per float32 matrix, and 4 per parameter with momentum.

    >>> tx, params = adafactor(0.1), {"w": jnp.array([3.0, -3.0])}
    >>> updates, _ = tx.update({"w": jnp.array([1.0, 100.0])}, tx.init(params), params)
    >>> print(updates["w"])
    [-0.3 -0.3]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay_rate=weight_decay_rate)
    check_nonnegative(eps=eps, min_scale=min_scale, clipping_threshold=clipping_threshold)
    check_nonnegative(min_dim_size_to_factor=min_dim_size_to_factor)
    check_fraction(momentum=momentum)
    rate = (
        learning_rate is not None and scale_by_learning_rate(learning_rate, flip_sign=False),
        multiply_by_parameter_scale and scale_by_param_block_rms(min_scale, layout=layout),
    )
    decay = weight_decay_rate is not None and add_decayed_weights(weight_decay_rate, weight_decay_mask)
    links = (
        scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps, layout=layout),
        clipping_threshold is not None and clip_by_block_rms(clipping_threshold, layout=layout),
        *rate,
        momentum is not None and ema(momentum, False, dtype_momentum),
        _plus(decay, *rate) if decay and decay_by_rate else decay,
        scale(-1.0),
    )
    return chain(*(link for link in links if link))


def _plus(*links):
    """Adds what the links make of updates of zero."""
    inner = chain(*(link for link in links if link))

    def update(updates, state, params=None, **extra_args):
        more, state = inner.update(jax.tree.map(jnp.zeros_like, updates), state, params, **extra_args)
        return cast_like(jax.tree.map(lambda u, m: widen(u) + widen(m), updates, more), updates), state

    return transformation(inner.init, update)
