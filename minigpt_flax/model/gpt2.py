"""GPT-2 weights in and out, under the names and in the layout of Hugging Face's checkpoints (and of nanoGPT).

Linear weights are (in, out) in both. Queries, keys and values are one tensor there, side by side along the last axis,
and three here; blocks are numbered there and stacked here. A head is absent there because it is tied to the token
embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import Params, init_params
from minigpt_flax.model.layout import path_name
from minigpt_flax.model.mlp import MLPS
from minigpt_flax.runs.schema import brief

PREFIX = "transformer."
OUTER: dict[str, tuple[str, ...]] = {
    "wte.weight": ("token_embedding/embedding",),
    "wpe.weight": ("position_embedding/embedding",),
    "ln_f.weight": ("final_norm/scale",),
    "ln_f.bias": ("final_norm/bias",),
}
BLOCK: dict[str, tuple[str, ...]] = {  # each tensor there, and the parameters here that lie side by side in it
    "ln_1.weight": ("norm_1/scale",),
    "ln_1.bias": ("norm_1/bias",),
    "attn.c_attn.weight": tuple(f"attention/{part}/kernel" for part in ("query", "key", "value")),
    "attn.c_attn.bias": tuple(f"attention/{part}/bias" for part in ("query", "key", "value")),
    "attn.c_proj.weight": ("attention/output/kernel",),
    "attn.c_proj.bias": ("attention/output/bias",),
    "ln_2.weight": ("norm_2/scale",),
    "ln_2.bias": ("norm_2/bias",),
    "mlp.c_fc.weight": ("mlp/up/kernel",),
    "mlp.c_fc.bias": ("mlp/up/bias",),
    "mlp.c_proj.weight": ("mlp/down/kernel",),
    "mlp.c_proj.bias": ("mlp/down/bias",),
}
NAMED = 10  # tensors that an error names, at most
CAUSAL_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # constants that older checkpoints carry along


def from_gpt2(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> Params:
    """Turns a GPT-2 checkpoint into parameters.

    Args:
        tensors: Arrays by name, with or without the prefix ``transformer.``. The causal masks of older checkpoints and
            an ``lm_head.weight`` equal to the token embedding are skipped.
        config: What the checkpoint holds: GPT-2 itself has ``bias=True`` and ``mlp="gelu_tanh"``, nanoGPT ``"gelu"``.

    Returns:
        float32 parameters for `minigpt_flax.model.gpt.apply`.

    Raises:
        UserError: If the format cannot hold such a model, or the tensors do not fit it, see `check_shapes`.
    """
    given = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    given = {name: tensor for name, tensor in given.items() if not CAUSAL_MASK.fullmatch(name)}
    if _is_tied(given):
        del given["lm_head.weight"]
    check_shapes({name: tensor.shape for name, tensor in given.items()}, config)
    shapes, table = _shapes(config), _table(config)
    params = {path: np.zeros(leaf.shape, np.float32) for path, leaf in shapes.items()}
    for name, parts in table.items():
        for part, values in zip(parts, np.split(np.asarray(given[name]), len(parts), axis=-1), strict=True):
            params[part.path][part.at] = values
    return unflatten_dict({path: jnp.asarray(leaf) for path, leaf in params.items()}, sep="/")


def check_shapes(given: Mapping[str, tuple[int, ...]], config: ModelConfig) -> None:
    """Compares the shapes of tensors, by name without `PREFIX`, with those of a configuration.

    Raises:
        UserError: If the format cannot hold such a model, or naming the tensors that are missing, left over or of
            another shape.
    """
    _check_format(config)
    shapes, table = _shapes(config), _table(config)
    sizes = {name: [shapes[part.path].shape[len(part.at) :] for part in parts] for name, parts in table.items()}
    _check_tensors(given, {name: _joined_shape(found) for name, found in sizes.items()})


def _shapes(config: ModelConfig) -> dict[str, Any]:
    return _by_path(jax.eval_shape(lambda: init_params(config, jax.random.key(0))))


def to_gpt2(params: Mapping[str, Any], config: ModelConfig) -> dict[str, np.ndarray]:
    """Turns parameters into the tensors of a GPT-2 checkpoint; the inverse of `from_gpt2`.

    Args:
        params: Parameters of this configuration.
        config: A configuration that the format can hold.

    Returns:
        float32 arrays by full name, ready for ``safetensors.numpy.save_file``.

    Raises:
        UserError: If the format cannot hold such a model.
    """
    _check_format(config)
    flat = _by_path(params)
    return {
        PREFIX + name: np.concatenate([np.asarray(flat[part.path], np.float32)[part.at] for part in parts], axis=-1)
        for name, parts in _table(config).items()
    }


class Part(NamedTuple):
    """What lies in a tensor there: a parameter here, or one layer of it."""

    path: str
    at: tuple[int, ...]


def _table(config: ModelConfig) -> dict[str, tuple[Part, ...]]:
    """The names of all tensors there, each with its parts here."""
    table = {name: tuple(Part(path, ()) for path in paths) for name, paths in OUTER.items()}
    for i in range(config.layers):
        for name, paths in BLOCK.items():
            table[f"h.{i}.{name}"] = tuple(Part(f"blocks/{path}", (i,)) for path in paths)
    return {name: parts for name, parts in table.items() if config.bias or not name.endswith(".bias")}


def _by_path(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _check_format(config: ModelConfig) -> None:
    held = {
        "norm": "layernorm",
        "position": "learned",
        "key_value_heads": config.heads,
        "tie_head": True,
        "head_bias": False,
        "embedding_norm": False,
        "qk_norm": False,
        "attention_scale": None,
        "softcap": None,
    }
    wrong = [f"{k}={getattr(config, k)!r} (not {v!r})" for k, v in held.items() if getattr(config, k) != v]
    if MLPS[config.mlp].gated:
        wrong.append(f"mlp={config.mlp!r} (a gate)")
    if wrong:
        raise UserError(f"GPT-2's format cannot hold this model: {', '.join(wrong)}")


def _check_tensors(given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    wrong = [f"{name} is missing" for name in expected if name not in given]
    wrong += [f"{brief(name)[1:-1]} is not part of this model" for name in given if name not in expected]
    wrong += [
        f"{name} is {brief(given[name])} instead of {shape}"
        for name, shape in expected.items()
        if name in given and given[name] != shape
    ]
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise UserError(f"these weights do not fit the configuration: {'; '.join(wrong[:NAMED])}{more}")


def _is_tied(given: Mapping[str, np.ndarray]) -> bool:
    return (
        "lm_head.weight" in given
        and "wte.weight" in given
        and np.array_equal(given["lm_head.weight"], given["wte.weight"])
    )


def _joined_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
