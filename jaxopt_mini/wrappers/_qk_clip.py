"""QK-clip: bounds the attention logits by scaling the weights of queries and keys after a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    require_params,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.matrices import as_leaves, as_matrices
from jaxopt_mini.tree import by_name, path_name, widen
from jaxopt_mini.wrappers._conditional import per_update


class QKClipState(NamedTuple):
    """State of :func:`qk_clip`."""

    inner_state: OptState


@per_update
def qk_clip(
    inner: GradientTransformation,
    *,
    threshold: ArrayLike = 100.0,
    query: str = "query",
    key: str = "key",
    layout: Any | None = None,
) -> GradientTransformationExtraArgs:
    """Bounds the attention logits by scaling queries and keys.

    Kimi Team, "Kimi K2: Open Agentic Intelligence" (2025, arXiv 2507.20534), with Muon: MuonClip. For each head, S is
    the largest attention logit, scale q k', of the batch::

        gamma = min(1, threshold / S)
        W_q, W_k <- sqrt(gamma) W_q, sqrt(gamma) W_k        after the inner update

    Heads below the threshold are unchanged, so that a clip late in training does nothing to most of them. Query heads
    that share a key have one gamma, of their largest S. A normalization of queries and keys undoes the scaling.

    The parameters of queries and keys are found by their names in a path, ``blocks/attention/query/kernel``, and the
    outputs of each are divided into heads in order. If a wrapper outside accumulates gradients, S is that of its last
    micro-batch; a training step that computes S for all of them passes their maximum.

    Args:
      inner: a complete optimizer, such as ``muon``.
      threshold: largest logit, tau; 100 in the paper.
      query: name of the module of the queries.
      key: name of the module of the keys.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation with a :class:`QKClipState`, with the state of ``inner``. ``update`` needs the parameters and
      ``max_logits``, a dict: path of a module, such as ``blocks/attention`` -> ``float32[*stacked, heads]``.

    Raises:
      ValueError: ``threshold`` is negative; or ``update`` is called without the parameters or the logits of a module.

    >>> from jaxopt_mini import sgd
    >>> params = {"query": jnp.array([[2.0, 2.0]]), "key": jnp.array([[8.0, 8.0]])}  # one input, two heads of size 1
    >>> tx, grads = qk_clip(sgd(0.0), threshold=4.0), jax.tree.map(jnp.zeros_like, params)
    >>> updates, _ = tx.update(grads, tx.init(params), params, max_logits={"": jnp.array([16.0, 3.0])})
    >>> print(params["query"] + updates["query"], params["key"] + updates["key"])
    [[1. 2.]] [[4. 8.]]
    """
    check_nonnegative(threshold=threshold)
    inner = with_extra_args_support(inner)

    def init(params):
        return QKClipState(inner.init(params))

    def update(updates, state, params=None, *, max_logits: Mapping[str, jax.Array] | None = None, **extra_args):
        params = require_params(params, "qk_clip")
        new, inner_state = inner.update(updates, state.inner_state, params, max_logits=max_logits, **extra_args)
        entries, logits = resolve(layout, params), max_logits or {}
        widths = {_place(name, (query, key)): entry.fans(leaf.shape)[1] for name, leaf, entry in _rows(params, entries)}

        def one(path, u, p, entry):
            module, part = _place(path_name(path), (query, key))
            if part is None:
                return u
            if module not in logits:
                raise ValueError(
                    f"qk_clip needs the largest logits of the module {module!r}: call update(updates, state, params, "
                    "max_logits={module: float32[*stacked, heads]})"
                )
            s = jnp.asarray(logits[module])
            heads = s.shape[-1] * widths.get((module, key), widths[module, part]) // widths.get((module, query), 1)
            s = jnp.max(s.reshape(*s.shape[:-1], heads, -1), axis=-1)  # over the queries that share a key
            above = s > threshold
            root = jnp.sqrt(jnp.where(above, threshold / jnp.where(above, s, 1.0), 1.0))
            moved = _scaled(widen(p) + widen(u), entry, root)
            return (moved - widen(p)).astype(u.dtype)

        return jax.tree.map_with_path(one, new, params, entries), QKClipState(inner_state)

    return transformation(init, update)


def _rows(params: Any, entries: Any) -> list[tuple[str, Any, ParamLayout]]:
    """Name, value and layout of every parameter."""
    return list(zip(by_name(params), jax.tree.leaves(params), jax.tree.leaves(entries), strict=True))


def _place(name: str, parts: tuple[str, str]) -> tuple[str, str | None]:
    """The module of a parameter, and which of its two parts the parameter is in; None for another parameter.

    >>> _place("blocks/attention/query/kernel", ("query", "key")), _place("head/kernel", ("query", "key"))
    (('blocks/attention', 'query'), ('head/kernel', None))
    """
    keys = name.split("/")
    at = next((i for i, own in enumerate(keys) if own in parts), None)
    return (name, None) if at is None else ("/".join(keys[:at]), keys[at])


def _scaled(leaf: jax.Array, entry: ParamLayout, factor: jax.Array) -> jax.Array:
    """Multiplies the outputs of each head, or of each group of heads, by a factor of its own."""
    matrix = as_matrices(leaf, entry)
    heads = matrix.reshape(*matrix.shape[:-1], factor.shape[-1], -1) * factor[..., None, :, None]
    return as_leaves(heads.reshape(matrix.shape), entry, leaf)
