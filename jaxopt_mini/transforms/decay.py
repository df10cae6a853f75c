"""Weight decay as a transformation; its position in the chain determines its kind.

After the preconditioner it is decoupled (AdamW); before it, it is the gradient of an L2 penalty (Adam with L2).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini.base import (
    GradientTransformation,
    Params,
    ScalarOrSchedule,
    require_params,
    stateless,
)
from jaxopt_mini.combine import masked
from jaxopt_mini.transforms._scale import scheduled
from jaxopt_mini.tree import widen


def _decayed(updates, params, rate, cautious=False):
    def add(update, param):
        if update is None:
            return None
        u, p = widen(update), widen(param)
        inwards = jnp.real(jnp.conj(jnp.sign(u)) * jnp.sign(p)) >= 0 if cautious else True
        return jnp.where(inwards, u + rate * p, u).astype(update.dtype)

    return jax.tree.map(add, updates, require_params(params, "weight decay"), is_leaf=lambda leaf: leaf is None)


def add_decayed_weights(
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    *,
    cautious: bool = False,
) -> GradientTransformation:
    """Adds ``weight_decay * params`` to the updates, in float32, rounded once.

    Args:
      weight_decay: a number (may be traced) or a schedule of the step count. Later links of the chain, usually the
        learning rate, multiply it.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      cautious: only decay entries that the update, which is subtracted later, doesn't move away from zero.

    Returns:
      A transformation without state for a number, with an ``optax.ScaleByScheduleState`` for a schedule; with a mask,
      inside an ``optax.MaskedState``.

    >>> import jax.numpy as jnp
    >>> tx = add_decayed_weights(0.1)
    >>> updates, _ = tx.update({"w": jnp.float32(1.0)}, tx.init({}), {"w": jnp.float32(2.0)})
    >>> print(updates["w"])
    1.2
    """
    if callable(weight_decay):
        link = scheduled(partial(_decayed, cautious=cautious), weight_decay)
    else:
        link = stateless(lambda updates, params: _decayed(updates, params, weight_decay, cautious))
    return link if mask is None else masked(link, mask)
