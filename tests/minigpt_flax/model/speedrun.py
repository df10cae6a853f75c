"""Architecture of the preset ``speedrun``, and a NumPy implementation of that model, written from its formulas."""

import dataclasses

import numpy as np

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.train.config.presets import PRESETS

FIELDS = {field.name for field in dataclasses.fields(ModelConfig)}
SIZES = {"vocab_size", "layers", "heads", "width", "context", "dtype"}
PARTS = {name: value for name, value in PRESETS["speedrun"].items() if name in FIELDS - SIZES}


def rms(x):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + np.finfo(np.float32).eps)


def turned(x):
    """Rotates (T, N, H): the first quarter of the features with the third, by 1024^(-i / (H/4 - 1)) a position."""
    quarter = x.shape[-1] // 4
    angle = np.arange(len(x))[:, None, None] * 1024.0 ** -np.linspace(0, 1, quarter)
    points = (x[..., :quarter] + 1j * x[..., 2 * quarter : 3 * quarter]) * np.exp(1j * angle)
    return np.concatenate([points.real, x[..., quarter : 2 * quarter], points.imag, x[..., 3 * quarter :]], axis=-1)


def attention(x, part, heads):
    q, k, v = (
        (x @ part[name]["kernel"] + part[name]["bias"]).reshape(len(x), heads, -1) for name in ("query", "key", "value")
    )
    q, k, mixed = turned(rms(q)), turned(rms(k)), np.zeros_like(v)
    for t, n in np.ndindex(len(x), heads):
        weights = np.exp(0.12 * (k[: t + 1, n] @ q[t, n]))
        mixed[t, n] = weights @ v[: t + 1, n] / weights.sum()
    return mixed.reshape(x.shape) @ part["output"]["kernel"] + part["output"]["bias"]


def logits(params, tokens, heads):
    """float64 logits of one sequence."""
    x = rms(params["token_embedding"]["embedding"][tokens]) * params["embedding_norm"]["scale"]
    blocks = params["blocks"]
    for i in range(len(blocks["norm_1"]["scale"])):
        block = {name: of_layer(part, i) for name, part in blocks.items()}
        x = x + attention(rms(x) * block["norm_1"]["scale"], block["attention"], heads)
        up, down = block["mlp"]["up"], block["mlp"]["down"]
        hidden = np.maximum(rms(x) * block["norm_2"]["scale"] @ up["kernel"] + up["bias"], 0) ** 2
        x = x + hidden @ down["kernel"] + down["bias"]
    free = rms(x) * params["final_norm"]["scale"] @ params["head"]["kernel"] + params["head"]["bias"]
    return 15 * free / np.sqrt(free**2 + 225)


def of_layer(tree, i):
    return {name: of_layer(part, i) if isinstance(part, dict) else part[i] for name, part in tree.items()}
