"""A GPT-2 as a folder, ``model.safetensors`` beside ``config.json``: what Hugging Face's ``transformers`` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import Params
from minigpt_flax.model.gpt2 import from_gpt2, to_gpt2
from minigpt_flax.model.mlp import hidden_size

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
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def load_gpt2(folder: Path) -> tuple[ModelConfig, Params]:
    """Reads the two files; dropout is left out, as it is no part of the weights.

    Raises:
        UserError: If one is missing or damaged, describes another model, or the tensors do not fit, naming each.
    """
    config = read_gpt2_config(folder)
    try:
        return config, from_gpt2(load_file(folder / WEIGHTS), config)
    except OSError as error:
        raise UserError(f"can't read {error.filename or folder / WEIGHTS}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS} is damaged: {error}") from error


def read_gpt2_config(folder: Path) -> ModelConfig:
    """Reads the sizes alone.

    Raises:
        UserError: If ``config.json`` is missing or damaged, or describes another model.
    """
    path = folder / CONFIG
    try:
        return _model(json.loads(path.read_text(encoding="utf-8")), path)
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _model(described: Any, path: Path) -> ModelConfig:
    if not isinstance(described, dict):
        raise UserError(f"{path} is damaged: it is no table of names and values")
    wrong = [f"{k}={described[k]!r}, not {v!r}" for k, v in FIXED.items() if described.get(k, v) != v]
    if wrong:
        raise UserError(f"{path} does not describe a GPT-2: {', '.join(wrong)}")
    missing = [theirs for theirs in NAMES.values() if theirs not in described]
    if missing:
        raise UserError(f"{path} does not say {', '.join(missing)}")
    activation = described.get("activation_function", "gelu_new")
    ours = {theirs: ours for ours, theirs in ACTIVATIONS.items()}
    if activation not in ours:
        raise UserError(f"{path} asks for the activation {activation!r}; there are: {', '.join(ours)}")
    sizes = {name: described[theirs] for name, theirs in NAMES.items()}
    return ModelConfig(**sizes, hidden=described.get("n_inner"), mlp=ours[activation], bias=True)
