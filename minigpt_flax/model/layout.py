"""Role and axes of each parameter, for optimizers that treat matrices, embeddings and vectors differently.

Queries, keys and values are three matrices, not one fused (D, 3 D) array: an optimizer that works on whole matrices
(orthogonalization, Kronecker factors, a trust ratio) would mix three unrelated maps in a shared array, and in a
grouped-query model maps of different sizes. The fused form has no advantage that the compiler does not provide.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Axes:
    """The role of a parameter and the meaning of its axes; a leaf of a pytree, not a subtree.

    Attributes:
      role: ``"matrix"`` (features to features), ``"embedding"`` (a vector per token or position), ``"head"`` (features
        to logits) or ``"vector"`` (biases and scales).
      stacked: axes over which independent parameters of this kind are stacked.
      inputs: axes summed over in the forward pass.
      outputs: axes that remain.
      tensor: the axis that tensor parallelism divides among devices: the outputs of the first matrices of a branch
        (whole heads of queries, keys and values; hidden features), the matching inputs of the second, and the
        vocabulary. None means that every device holds the whole parameter.
    """

    role: str
    stacked: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    tensor: int | None = None


FIRST = r"(attention/(query|key|value)|mlp/(up|gate))"  # the first matrices of a branch
RULES: tuple[tuple[str, Axes], ...] = (  # the first pattern that matches the whole path applies
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
    """Return the `Axes` of every parameter.

    Args:
      params: tree like that of `minigpt_flax.model.gpt.init_params`, of arrays or of shapes.

    Returns:
      A tree of the same structure with an `Axes` at each leaf.

    Raises:
      ValueError: a path is not one of the model's parameters; it is named.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: _axes(path_name(path)), params)


def path_name(path: jax.tree_util.KeyPath) -> str:
    """Return a path in the form ``blocks/attention/query/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _axes(path: str) -> Axes:
    for pattern, axes in RULES:
        if re.fullmatch(pattern, path):
            return axes
    raise ValueError(f"no rule of the layout matches the parameter {path!r}; add one to RULES")
