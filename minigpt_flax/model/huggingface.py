"""GPT-2 checkpoints in Hugging Face's format: ``model.safetensors`` and ``config.json``, as ``transformers`` reads.

Tensor names and layouts are those of Hugging Face and nanoGPT. Linear weights are (in, out) in both formats. Hugging
Face stores queries, keys and values as one tensor, side by side along the last axis, and numbers the blocks; here they
are three parameters, and the blocks are stacked. The checkpoint has no head: it is tied to the token embedding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import Params, init_params
from minigpt_flax.model.layout import path_name
from minigpt_flax.model.mlp import MLPS, hidden_size
from minigpt_flax.runs.files import replace
from minigpt_flax.runs.schema import brief, check_fields, check_range, read_json, size_of

WEIGHTS, CONFIG = "model.safetensors", "config.json"
PREFIX = "transformer."
EMBEDDING, HEAD = "wte.weight", "lm_head.weight"
OUTER: dict[str, tuple[str, ...]] = {
    EMBEDDING: ("token_embedding/embedding",),
    "wpe.weight": ("position_embedding/embedding",),
    "ln_f.weight": ("final_norm/scale",),
    "ln_f.bias": ("final_norm/bias",),
}
BLOCK: dict[str, tuple[str, ...]] = {  # tensor of the checkpoint -> the parameters that are concatenated in it
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
ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu2": "relu2"}  # our name -> Hugging Face's
FIELDS = {  # our name -> Hugging Face's
    "vocab_size": "vocab_size",
    "context": "n_positions",
    "layers": "n_layer",
    "heads": "n_head",
    "width": "n_embd",
    "norm_eps": "layer_norm_epsilon",
}
REQUIRED: dict[str, Any] = {"model_type": "gpt2", "tie_word_embeddings": True, "scale_attn_weights": True}
TYPES = {
    **dict.fromkeys(("vocab_size", "n_positions", "n_layer", "n_head", "n_embd"), int),
    **{"layer_norm_epsilon": float, "n_inner": int | None, "activation_function": str},
}
MAX_SIZES = {  # keep the products of sizes small
    **dict.fromkeys(("vocab_size", "n_positions", "n_embd", "n_inner"), 1 << 22),
    **dict.fromkeys(("n_layer", "n_head"), 1 << 14),
}
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
DTYPES = ("F64", "F32", "F16")  # dtypes of safetensors that NumPy supports
MIN_BYTES = 2  # per number: the smallest of these dtypes
MAX_LISTED = 10  # tensors that an error message lists
CAUSAL_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # constants that older checkpoints include


def save_gpt2(folder: Path, params: Mapping[str, Any], config: ModelConfig) -> None:
    """Write the two files. The format requires biases: those that the model lacks are written as zeros.

    Args:
      folder: An existing folder.
      params: Parameters of this configuration.
      config: A configuration that the format can represent.

    Raises:
      UserError: The format cannot represent the model.
    """
    tensors = to_gpt2(params, config)
    if not config.bias:
        tensors |= {
            f"{name.removesuffix('.weight')}.bias": np.zeros(tensor.shape[-1], np.float32)
            for name, tensor in tensors.items()
            if not name.endswith(("wte.weight", "wpe.weight"))
        }
    described = REQUIRED | {theirs: getattr(config, ours) for ours, theirs in FIELDS.items()}
    described |= {"architectures": ["GPT2LMHeadModel"], "activation_function": ACTIVATIONS[config.mlp]}
    described |= {"n_inner": hidden_size(config), "bos_token_id": None, "eos_token_id": None}
    described |= {name: config.dropout for name in DROPOUTS}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    replace(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    replace(folder / CONFIG, json.dumps(described, indent=2) + "\n")


def load_gpt2(folder: Path) -> tuple[ModelConfig, Params]:
    """Read the two files. Dropout is ignored: it is not a property of the weights.

    Raises:
      UserError: A file is missing or damaged or describes another model, or tensors do not fit (each is named).
    """
    config, path = read_gpt2_config(folder), folder / WEIGHTS
    try:
        with safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if not CAUSAL_MASK.fullmatch(name.removeprefix(PREFIX))]
            _check_header({name: file.get_slice(name) for name in names}, config, path)
            return config, from_gpt2({name: file.get_tensor(name) for name in names}, config)
    except OSError as error:
        raise UserError(f"can't read {show(error.filename or path)}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(f"{show(path)} is damaged: {' '.join(str(error).split()):.200}") from error


def _check_header(slices: Mapping[str, Any], config: ModelConfig, path: Path) -> None:
    """Compare dtypes and shapes with a configuration before any tensor is read."""
    for name, part in slices.items():
        if part.get_dtype() not in DTYPES:
            given = f"{show(path)}: {brief(name)} has the dtype {part.get_dtype()}"
            raise UserError(f"{given}, which is not supported; convert it to one of {', '.join(DTYPES)}")
    shapes = {name.removeprefix(PREFIX): tuple(part.get_shape()) for name, part in slices.items()}
    if shapes.get(HEAD) == shapes.get(EMBEDDING):  # their values are compared after reading
        shapes.pop(HEAD, None)
    check_shapes(shapes, config)


def read_gpt2_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` only, and compare its sizes with the size of the weights file, which is not read.

    Raises:
      UserError: A file is missing, ``config.json`` is damaged or describes another model, or the weights file is too
        short for it.
    """
    described, where = read_json(folder / CONFIG), show(folder / CONFIG)
    wrong = [f"{k}={brief(described[k])}, not {v!r}" for k, v in REQUIRED.items() if described.get(k, v) != v]
    if wrong:
        raise UserError(f"{where} does not describe a GPT-2: {', '.join(wrong)}")
    known = {name: described[name] for name in TYPES if name in described}
    values = check_fields(known, TYPES, where, optional=("activation_function", "n_inner"))
    for name, most in MAX_SIZES.items():
        if values.get(name) is not None:
            check_range(values[name], 1, most, f"{where}: {name}")
    activation, ours = values.get("activation_function", "gelu_new"), {v: k for k, v in ACTIVATIONS.items()}
    if activation not in ours:
        raise UserError(f"{where} has the unsupported activation {brief(activation)}; supported: {', '.join(ours)}")
    _check_length(values, folder / WEIGHTS, where)
    sizes = {name: values[theirs] for name, theirs in FIELDS.items()}
    return ModelConfig(**sizes, hidden=values.get("n_inner"), mlp=ours[activation], bias=True)


def _check_length(values: Mapping[str, Any], path: Path, where: str) -> None:
    """Refuse sizes whose matrices alone need more bytes than the file has, before anything is allocated."""
    width, inner = values["n_embd"], values.get("n_inner") or 4 * values["n_embd"]
    block = 4 * width**2 + 2 * width * inner
    least = values["n_layer"] * block + (values["vocab_size"] + values["n_positions"]) * width
    if size_of(path) < least * MIN_BYTES:
        raise UserError(
            f"{show(path)} is damaged, or of another model: {where} describes at least {least:,} parameters, and the "
            "file is too short for them"
        )


def from_gpt2(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> Params:
    """Convert the tensors of a GPT-2 checkpoint to parameters.

    Args:
      tensors: Arrays by name, with or without the prefix ``transformer.``. The causal masks of older checkpoints and
        an ``lm_head.weight`` equal to the token embedding are ignored.
      config: Configuration of the checkpoint: GPT-2 itself has ``bias=True`` and ``mlp="gelu_tanh"``, nanoGPT
        ``"gelu"``.

    Returns:
      float32 parameters for `minigpt_flax.model.gpt.apply`.

    Raises:
      UserError: The format cannot represent the model, or tensors do not fit, see `check_shapes`.
    """
    given = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    given = {name: tensor for name, tensor in given.items() if not CAUSAL_MASK.fullmatch(name)}
    if HEAD in given and EMBEDDING in given and np.array_equal(given[HEAD], given[EMBEDDING]):
        del given[HEAD]
    check_shapes({name: tensor.shape for name, tensor in given.items()}, config)
    params = {path: np.zeros(leaf.shape, np.float32) for path, leaf in _shapes(config).items()}
    for name, parts in _table(config).items():
        for part, values in zip(parts, np.split(np.asarray(given[name]), len(parts), axis=-1), strict=True):
            params[part.path][part.index] = values
    return unflatten_dict({path: jnp.asarray(leaf) for path, leaf in params.items()}, sep="/")


def to_gpt2(params: Mapping[str, Any], config: ModelConfig) -> dict[str, np.ndarray]:
    """Convert parameters to the tensors of a GPT-2 checkpoint; the inverse of `from_gpt2`.

    Args:
      params: Parameters of this configuration.
      config: A configuration that the format can represent.

    Returns:
      float32 arrays by full name, ready for ``safetensors.numpy.save_file``.

    Raises:
      UserError: The format cannot represent the model.
    """
    _check_format(config)
    flat = _by_path(params)
    return {
        PREFIX + name: np.concatenate([np.asarray(flat[part.path], np.float32)[part.index] for part in parts], axis=-1)
        for name, parts in _table(config).items()
    }


class Part(NamedTuple):
    """A parameter, or one layer of it, that is part of a checkpoint's tensor."""

    path: str
    index: tuple[int, ...]


def _table(config: ModelConfig) -> dict[str, tuple[Part, ...]]:
    """The checkpoint's tensor names, each with the parameters that it holds."""
    table = {name: tuple(Part(path, ()) for path in paths) for name, paths in OUTER.items()}
    for i in range(config.layers):
        for name, paths in BLOCK.items():
            table[f"h.{i}.{name}"] = tuple(Part(f"blocks/{path}", (i,)) for path in paths)
    return {name: parts for name, parts in table.items() if config.bias or not name.endswith(".bias")}


def _by_path(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _shapes(config: ModelConfig) -> dict[str, Any]:
    return _by_path(jax.eval_shape(lambda: init_params(config, jax.random.key(0))))


def check_shapes(given: Mapping[str, tuple[int, ...]], config: ModelConfig) -> None:
    """Compare the shapes of tensors, by name without `PREFIX`, with those of a configuration.

    Raises:
      UserError: The format cannot represent the model; or tensors are missing, unknown or of another shape (each is
        named).
    """
    _check_format(config)
    shapes = _shapes(config)
    expected = {}
    for name, parts in _table(config).items():
        sizes = [shapes[part.path].shape[len(part.index) :] for part in parts]
        expected[name] = (*sizes[0][:-1], sum(size[-1] for size in sizes))
    _check_tensors(given, expected)


def _check_tensors(given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    wrong = [f"{name} is missing" for name in expected if name not in given]
    wrong += [f"{brief(name)[1:-1]} is not part of this model" for name in given if name not in expected]
    wrong += [
        f"{name} is {brief(given[name])} instead of {shape}"
        for name, shape in expected.items()
        if name in given and given[name] != shape
    ]
    if wrong:
        more = f"; and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
        raise UserError(f"these weights do not fit the configuration: {'; '.join(wrong[:MAX_LISTED])}{more}")


def _check_format(config: ModelConfig) -> None:
    supported = {
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
    wrong = [f"{k}={getattr(config, k)!r} (not {v!r})" for k, v in supported.items() if getattr(config, k) != v]
    if MLPS[config.mlp].gated:
        wrong.append(f"mlp={config.mlp!r} (a gated MLP)")
    if wrong:
        raise UserError(f"the GPT-2 format cannot represent this model: {', '.join(wrong)}")
