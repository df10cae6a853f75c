"""Layer-wise learning-rate decay: the lower a layer, the smaller its steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini import states
from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.tree import times
from jaxopt_mini.wrappers._conditional import per_update


@per_update
def layer_decay(
    inner: GradientTransformation, *, decay: float = 0.8, layout: Any | None = None
) -> GradientTransformationExtraArgs:
    """Multiplies the learning rate of each layer by ``decay`` once per layer between it and the head.

    For fine-tuning; Clark, Luong, Le, Manning, "ELECTRA" (2020, arXiv 2003.10555), as in BEiT (arXiv 2106.08254). With
    L layers, numbered from 0::

        u <- decay^(L + 1) u     embeddings
        u <- decay^(L - i) u     layer i
        u <- u                   the rest: head, final normalization

    Weight decay inside ``inner`` is multiplied too, as it is proportional to the learning rate. Layers are entries of
    the first stacked axis; for a model that is not stacked, use :func:`~jaxopt_mini.partition`.

    Args:
      inner: a complete optimizer, including its learning rate, which stores no average of the parameters.
      decay: factor per layer, at least 0; 0.8 in ELECTRA.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation with the state of ``inner``.

    Raises:
      ValueError: ``decay`` is negative, or, from ``init``, no parameter is stacked, stacks have different numbers
        of layers, or ``inner`` averages the parameters (schedule-free rules, ``ema_params``, ``lookahead``).

    >>> from jaxopt_mini import sgd
    >>> tx = layer_decay(sgd(1.0), decay=0.5)
    >>> params = {"blocks": {"kernel": jnp.zeros((2, 3, 3)), "bias": jnp.zeros((2, 3))}, "out": jnp.zeros((3, 1))}
    >>> updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    >>> updates["blocks"]["bias"][:, 0].tolist(), updates["out"][0].tolist()
    ([-0.25, -0.5], [-1.0])
    """
    check_nonnegative(decay=decay)
    inner = with_extra_args_support(inner)

    def init(params):
        count_layers(resolve(layout, params), params)
        state = inner.init(params)
        if states.has_average(state, params):
            raise ValueError(
                "layer_decay can't be around an optimizer that averages the parameters: put the average around it, as "
                "ema_params(layer_decay(...)); schedule-free rules need a learning rate per group instead"
            )
        return state

    def update(updates, state, params=None, **extra_args):
        entries = resolve(layout, updates)
        layers = count_layers(entries, updates)
        new, state = inner.update(updates, state, params, **extra_args)
        return jax.tree.map(lambda u, entry: times(u, _factors(entry, u.ndim, layers, decay)), new, entries), state

    return transformation(init, update)


def count_layers(layout: Any, params: Any) -> int:
    """The number of layers of a stacked model.

    Raises:
      ValueError: nothing is stacked, or stacks have different lengths.
    """
    pairs = zip(jax.tree.leaves(layout), jax.tree.leaves(params), strict=True)
    lengths = {leaf.shape[entry.stacked[0]] for entry, leaf in pairs if entry.stacked}
    if len(lengths) != 1:
        found = (
            f"stacks of {', '.join(map(str, sorted(lengths)))} layers" if lengths else "no parameter that is stacked"
        )
        raise ValueError(f"layer_decay needs one stack of layers, found {found}: give a layout, or use partition")
    return lengths.pop()


def _factors(entry: ParamLayout, ndim: int, layers: int, decay: float) -> jax.Array:
    """Factor of a parameter, float32[]; of a stack, one per layer, with axes of length 1 for the others."""
    if not entry.stacked:
        return jnp.asarray(decay ** (layers + 1) if entry.role == "embedding" else 1, jnp.float32)
    factors = jnp.array([decay ** (layers - i) for i in range(layers)], jnp.float32)
    return jnp.expand_dims(factors, [axis for axis in range(ndim) if axis != entry.stacked[0]])
