"""A GPT-2 as a folder, ``model.safetensors`` beside ``config.json``: what Hugging Face's ``transformers`` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import Params
from minigpt_flax.model.gpt2 import CAUSAL_MASK, PREFIX, check_shapes, from_gpt2, to_gpt2
from minigpt_flax.model.mlp import hidden_size
from minigpt_flax.runs.files import replace
from minigpt_flax.runs.schema import brief, check_fields, check_range, read_json, size_of

WEIGHTS, CONFIG = "model.safetensors", "config.json"
ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu2": "relu2"}  # our name -> theirs
NAMES = {  # our name -> theirs
    "vocab_size": "vocab_size",
    "context": "n_positions",
    "layers": "n_layer",
    "heads": "n_head",
    "width": "n_embd",
    "norm_eps": "layer_norm_epsilon",
}
FIXED: dict[str, Any] = {"model_type": "gpt2", "tie_word_embeddings": True, "scale_attn_weights": True}
TYPES = {
    **dict.fromkeys(("vocab_size", "n_positions", "n_layer", "n_head", "n_embd"), int),
    **{"layer_norm_epsilon": float, "n_inner": int | None, "activation_function": str},
}
MOST = {  # of the sizes, so that their products stay small numbers
    **dict.fromkeys(("vocab_size", "n_positions", "n_embd", "n_inner"), 1 << 22),
    **dict.fromkeys(("n_layer", "n_head"), 1 << 14),
}
DTYPES = ("F64", "F32", "F16")  # of safetensors, that NumPy has
BYTES = 2  # of a number of the smallest of these
EMBEDDING, HEAD = "wte.weight", "lm_head.weight"
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


def save_gpt2(folder: Path, params: Mapping[str, Any], config: ModelConfig) -> None:
    """Writes the two files; biases that the model lacks are written as zeros, which the format can't leave out.

    Args:
        folder: Is there.
        params: Parameters of this configuration.
        config: A configuration that the format can hold.

    Raises:
        UserError: If the format cannot hold such a model.
    """
    tensors = to_gpt2(params, config)
    if not config.bias:
        tensors |= {
            f"{name.removesuffix('.weight')}.bias": np.zeros(tensor.shape[-1], np.float32)
            for name, tensor in tensors.items()
            if not name.endswith(("wte.weight", "wpe.weight"))
        }
    described = FIXED | {theirs: getattr(config, ours) for ours, theirs in NAMES.items()}
    described |= {"architectures": ["GPT2LMHeadModel"], "activation_function": ACTIVATIONS[config.mlp]}
    described |= {"n_inner": hidden_size(config), "bos_token_id": None, "eos_token_id": None}
    described |= {name: config.dropout for name in DROPOUTS}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    replace(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    replace(folder / CONFIG, json.dumps(described, indent=2) + "\n")


def load_gpt2(folder: Path) -> tuple[ModelConfig, Params]:
    """Reads the two files; dropout is left out, as it is no part of the weights.

    Raises:
        UserError: If one is missing or damaged, describes another model, or the tensors do not fit, naming each.
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
    """Compares types and shapes with those of a configuration, before a tensor is read."""
    for name, part in slices.items():
        if part.get_dtype() not in DTYPES:
            said = f"{show(path)}: {brief(name)} is of type {part.get_dtype()}"
            raise UserError(f"{said}, which is not supported; convert it to one of {', '.join(DTYPES)}")
    shapes = {name.removeprefix(PREFIX): tuple(part.get_shape()) for name, part in slices.items()}
    if shapes.get(HEAD) == shapes.get(EMBEDDING):  # its numbers are compared when they are read
        shapes.pop(HEAD, None)
    check_shapes(shapes, config)


def read_gpt2_config(folder: Path) -> ModelConfig:
    """Reads the sizes alone, and compares them with the length of the weights, which are not read.

    Raises:
        UserError: If a file is missing, ``config.json`` is damaged or describes another model, or the weights are too
            short for it.
    """
    described, where = read_json(folder / CONFIG), show(folder / CONFIG)
    wrong = [f"{k}={brief(described[k])}, not {v!r}" for k, v in FIXED.items() if described.get(k, v) != v]
    if wrong:
        raise UserError(f"{where} does not describe a GPT-2: {', '.join(wrong)}")
    known = {name: described[name] for name in TYPES if name in described}
    found = check_fields(known, TYPES, where, optional=("activation_function", "n_inner"))
    for name, most in MOST.items():
        if found.get(name) is not None:
            check_range(found[name], 1, most, f"{where}: {name}")
    activation, ours = found.get("activation_function", "gelu_new"), {v: k for k, v in ACTIVATIONS.items()}
    if activation not in ours:
        raise UserError(f"{where} asks for the activation {brief(activation)}; there are: {', '.join(ours)}")
    _check_length(found, folder / WEIGHTS, where)
    sizes = {name: found[theirs] for name, theirs in NAMES.items()}
    return ModelConfig(**sizes, hidden=found.get("n_inner"), mlp=ours[activation], bias=True)


def _check_length(found: Mapping[str, Any], path: Path, where: str) -> None:
    """Refuses sizes whose matrices alone take more bytes than the weights have, before anything is made from them."""
    width, inner = found["n_embd"], found.get("n_inner") or 4 * found["n_embd"]
    block = 4 * width**2 + 2 * width * inner
    least = found["n_layer"] * block + (found["vocab_size"] + found["n_positions"]) * width
    if size_of(path) < least * BYTES:
        raise UserError(
            f"{show(path)} is damaged, or of another model: {where} describes at least {least:,} parameters, and it is "
            "too short for them"
        )
