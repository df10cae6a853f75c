"""What each parameter of the model is, for optimizers that treat matrices, embeddings and vectors differently.

Queries, keys and values are three matrices, not one fused (D, 3 D) array: a rule that works on a whole matrix
(orthogonalisation, Kronecker factors, a trust ratio) mixes three unrelated maps when they share an array, and a
grouped-query model would mix maps of different sizes. The fused form buys nothing that the compiler cannot do.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Axes:
    """The meaning of one parameter and of its axes; a leaf, not a subtree, of a pytree.

    Args:
        role: ``"matrix"`` (features to features), ``"embedding"`` (a vector per token or position), ``"head"``
            (features to logits) or ``"vector"`` (biases and scales).
        stacked: Axes over which independent parameters of this kind are stacked.
        inputs: Axes summed over in the forward pass.
        outputs: Axes that remain.
        tensor: The axis that tensor parallelism may divide among devices: what comes out of the first matrices of a
            branch (whole heads of queries, keys and values; hidden features) goes into the second, and the vocabulary.
            None means that every device keeps the whole.
    """

    role: str
    stacked: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    tensor: int | None = None


FIRST = r"(attention/(query|key|value)|mlp/(up|gate))"  # of the two layers of matrices in a branch
RULES: tuple[tuple[str, Axes], ...] = (  # the first pattern that matches the whole path holds
    (r"token_embedding/embedding", Axes("embedding", (), (0,), (1,), tensor=0)),
    (r"position_embedding/embedding", Axes("embedding", (), (0,), (1,))),
    (rf"blocks/{FIRST}/kernel", Axes("matrix", (0,), (1,), (2,), tensor=2)),
    (rf"blocks/{FIRST}/bias", Axes("vector", (0,), (), (1,), tensor=1)),
    (r"blocks/(attention/output|mlp/down)/kernel", Axes("matrix", (0,), (1,), (2,), tensor=1)),
    (r"blocks/.*/(scale|bias)", Axes("vector", (0,), (), (1,))),
    (r"(embedding|final)_norm/(scale|bias)", Axes("vector", (), (), (0,))),
    (r"head/kernel", Axes("head", (), (0,), (1,), tensor=1)),
    (r"head/bias", Axes("vector", (), (), (0,), tensor=0)),
)


def layout(params: Mapping[str, Any]) -> dict[str, Any]:
    """Says what every parameter is.

    Args:
        params: A tree like that of `minigpt_flax.model.gpt.init_params`, of arrays or of their shapes.

    Returns:
        A tree of the same structure with an `Axes` at each leaf.

    Raises:
        ValueError: If a path is none of the model's, naming it.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: _axes(path_name(path)), params)


def path_name(path: jax.tree_util.KeyPath) -> str:
    """Returns a path as in ``blocks/attention/query/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _axes(path: str) -> Axes:
    for pattern, axes in RULES:
        if re.fullmatch(pattern, path):
            return axes
    raise ValueError(f"no rule of the layout covers the parameter {path!r}; add one to RULES")
