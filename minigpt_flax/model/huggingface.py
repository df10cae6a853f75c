"""GPT-2 checkpoints in Hugging Face's format: ``config.json`` and weights, as ``transformers`` reads; nanoGPT's too.

Tensor names and layouts are those of Hugging Face and nanoGPT. Linear weights are (in, out) in Hugging Face's format
and here, and (out, in) in nanoGPT's ``ckpt.pt``. Queries, keys and values are one tensor there, side by side along the
last axis, and the blocks are numbered; here they are three parameters, and the blocks are stacked. The head is the
token embedding, or with ``tie_word_embeddings=False`` the tensor ``lm_head.weight`` (vocabulary, width).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import Params, init_params
from minigpt_flax.model.layout import path_name
from minigpt_flax.model.mlp import MLPS, hidden_size
from minigpt_flax.model.torch_file import StoredTensor, read_torch_file, tensors_of
from minigpt_flax.model.weight_files import bytes_of, open_weights, save_weights, weight_files, write_json
from minigpt_flax.runs.schema import brief, check_fields, check_range, check_type, read_json

CONFIG = "config.json"
NANOGPT = "ckpt.pt"
SHARD = 5 << 30  # bytes per file of weights, the default of transformers 4
PREFIX = "transformer."
EMBEDDING, HEAD, HEAD_KERNEL = "wte.weight", "lm_head.weight", "head/kernel"
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
SAME_ACTIVATION = {  # other names of the same functions -> ours
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh"), "gelu_tanh"),
    "gelu_python": "gelu",
}
FIELDS = {  # our name -> Hugging Face's
    "vocab_size": "vocab_size",
    "context": "n_positions",
    "layers": "n_layer",
    "heads": "n_head",
    "width": "n_embd",
    "norm_eps": "layer_norm_epsilon",
}
ALIASES = {  # names that transformers takes for the same fields
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
REQUIRED: dict[str, Any] = {"model_type": "gpt2"}
REFUSED = ("add_cross_attention", "pruned_heads", "quantization_config")  # fields that change numbers; must be empty
TYPES = {  # the other fields that change numbers; upcasting (reorder_and_upcast_attn) is how attention works here
    **dict.fromkeys(("vocab_size", "n_positions", "n_layer", "n_head", "n_embd"), int),
    **{"layer_norm_epsilon": float, "n_inner": int | None, "activation_function": str},
    **dict.fromkeys(("tie_word_embeddings", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"), bool),
}
DEFAULTS = {
    "activation_function": "gelu_new",
    "n_inner": None,
    "tie_word_embeddings": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}
MAX_SIZES = {  # keep the products of sizes small
    **dict.fromkeys(("vocab_size", "n_positions", "n_embd", "n_inner"), 1 << 22),
    **dict.fromkeys(("n_layer", "n_head"), 1 << 14),
}
FACTORS = ("embedding_scale", "residual_scale", "logit_scale")  # of a configuration; GPT-2 has none
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
DTYPES = ("F64", "F32", "F16", "BF16")  # of weights, as safetensors names them
MIN_BYTES = 2  # per number: the smallest of these dtypes
MAX_LISTED = 10  # tensors that an error message lists
CAUSAL_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # constants that older checkpoints include


class Described(NamedTuple):
    """Content of ``config.json``: the model, and whether scores are divided by the number of the layer, from 1."""

    model: ModelConfig
    by_layer: bool


def save_gpt2(
    folder: Path,
    params: Mapping[str, Any],
    config: ModelConfig,
    *,
    token_ids: Mapping[str, int] | None = None,
    shard_bytes: int = SHARD,
) -> None:
    """Write configuration and weights. The format requires biases: those that the model lacks are written as zeros.

    It has no factors either: those of the configuration are multiplied into the weights, see `without_factors`.

    Args:
      folder: An existing folder.
      params: Parameters of this configuration.
      config: A configuration that the format can represent.
      token_ids: The fields ``bos_token_id``, ``eos_token_id`` and ``pad_token_id``, if the tokenizer has these tokens.
      shard_bytes: Maximum size of a file of weights.

    Raises:
      UserError: The format cannot represent the model.
    """
    params, config = without_factors(params, config)
    tensors = to_gpt2(params, config)
    if not config.bias:
        tensors |= {
            f"{name.removesuffix('.weight')}.bias": np.zeros(tensor.shape[-1], np.float32)
            for name, tensor in tensors.items()
            if not name.endswith(("wte.weight", "wpe.weight", HEAD))
        }
    described = REQUIRED | {theirs: getattr(config, ours) for ours, theirs in FIELDS.items()}
    described |= {"architectures": ["GPT2LMHeadModel"], "activation_function": ACTIVATIONS[config.mlp]}
    described |= {"tie_word_embeddings": config.tie_head, "scale_attn_weights": config.attention_scale is None}
    described |= {"n_inner": hidden_size(config), "bos_token_id": None, "eos_token_id": None, **(token_ids or {})}
    described |= {name: config.dropout for name in DROPOUTS}
    save_weights(folder, tensors, shard_bytes)
    write_json(folder / CONFIG, described)


def without_factors(params: Mapping[str, Any], config: ModelConfig) -> tuple[Mapping[str, Any], ModelConfig]:
    """Multiply the factors of a configuration into the weights: the same logits from a model of GPT-2's format.

    The scale of the attention scores goes into the queries; that of the branches into their outputs; that of the
    embedding into its tables, and out of the final norm if the head is tied to them; that of the logits into the final
    norm. A norm of the embedding or of the queries would undo this, but the format has neither.
    """
    scale = config.attention_scale
    factors = {
        r"(token|position)_embedding/.*": config.embedding_scale,
        r"blocks/attention/query/.*": 1.0 if scale in (None, 1.0) else scale * config.head_size**0.5,
        r"blocks/(attention/output|mlp/down)/.*": config.residual_scale,
        r"final_norm/.*": config.logit_scale / (config.embedding_scale if config.tie_head else 1.0),
    }

    def multiplied(path: Any, leaf: Any) -> Any:
        factor = next((factor for name, factor in factors.items() if re.fullmatch(name, path_name(path))), 1.0)
        return leaf if factor == 1.0 else np.asarray(leaf, np.float32) * np.float32(factor)

    ones = {name: 1.0 for name in FACTORS}
    scale = scale if scale in (None, 1.0) else None
    return jax.tree.map_with_path(multiplied, params), dataclasses.replace(config, **ones, attention_scale=scale)


def load_gpt2(folder: Path) -> tuple[ModelConfig, Params]:
    """Read a folder: its configuration, and its weights in any of `weight_files`.

    Dropout is ignored: it is not a property of the weights. Scores that are divided by the number of the layer
    (``scale_attn_by_inverse_layer_idx``) become queries that are.

    Raises:
      UserError: A file is missing or damaged or describes another model, or tensors do not fit (each is named).
    """
    (config, by_layer), files = _described(folder), weight_files(folder)
    with open_weights(files) as stored:
        params = _loaded(stored, config, ", ".join(map(show, files)))
    if by_layer:
        query = params["blocks"]["attention"]["query"]
        number = np.arange(1, config.layers + 1, dtype=np.float32)
        query |= {name: leaf / number.reshape(-1, *[1] * (leaf.ndim - 1)) for name, leaf in query.items()}
    return config, params


def _loaded(stored: Mapping[str, StoredTensor], config: ModelConfig, where: str) -> Params:
    """Read tensors, after comparing their dtypes and shapes with a configuration."""
    stored = {name: part for name, part in stored.items() if not CAUSAL_MASK.fullmatch(name.removeprefix(PREFIX))}
    for name, part in stored.items():
        if part.dtype not in DTYPES:
            given = f"{where}: {brief(name)} has the dtype {part.dtype}"
            raise UserError(f"{given}, which is not supported; convert it to one of {', '.join(DTYPES)}")
    shapes = {name.removeprefix(PREFIX): part.shape for name, part in stored.items()}
    if config.tie_head and shapes.get(HEAD) == shapes.get(EMBEDDING):  # their values are compared after reading
        shapes.pop(HEAD, None)
    check_shapes(shapes, config)
    return from_gpt2({name: part.read() for name, part in stored.items()}, config)


def read_gpt2_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` only, and compare its sizes with the size of the weights, which are not read.

    Raises:
      UserError: A file is missing, ``config.json`` is damaged or describes another model, or the weights are too short
        for it.
    """
    return _described(folder).model


def _described(folder: Path) -> Described:
    described, where = read_json(folder / CONFIG), show(folder / CONFIG)
    described = {ALIASES[name]: described[name] for name in ALIASES if name in described} | described
    wrong = [f"{k}={brief(described[k])}, not {v!r}" for k, v in REQUIRED.items() if described.get(k, v) != v]
    if wrong:
        raise UserError(f"{where} does not describe a GPT-2: {', '.join(wrong)}")
    if given := [f"{name}={brief(described[name])}" for name in REFUSED if described.get(name)]:
        raise UserError(f"{where} has {', '.join(given)}, which is not supported: only a GPT-2 without it can be read")
    known = {name: described[name] for name in TYPES if name in described}
    values = DEFAULTS | check_fields(known, TYPES, where, optional=DEFAULTS)
    for name, most in MAX_SIZES.items():
        if values[name] is not None:
            check_range(values[name], 1, most, f"{where}: {name}")
    ours = {theirs: name for name, theirs in ACTIVATIONS.items()} | SAME_ACTIVATION
    activation = values["activation_function"]
    if activation not in ours:
        raise UserError(f"{where} has the unsupported activation {brief(activation)}; supported: {', '.join(ours)}")
    _check_length(values, weight_files(folder), where)
    sizes = {name: values[theirs] for name, theirs in FIELDS.items()}
    scale = None if values["scale_attn_weights"] else 1.0
    model = ModelConfig(
        **sizes,
        hidden=values["n_inner"],
        mlp=ours[activation],
        bias=True,
        tie_head=values["tie_word_embeddings"],
        attention_scale=scale,
    )
    return Described(model, values["scale_attn_by_inverse_layer_idx"])


def _check_length(values: Mapping[str, Any], files: list[Path], where: str) -> None:
    """Refuse sizes whose matrices alone need more bytes than the weights have, before anything is allocated."""
    width, inner = values["n_embd"], values["n_inner"] or 4 * values["n_embd"]
    block = 4 * width**2 + 2 * width * inner
    least = values["n_layer"] * block + (values["vocab_size"] + values["n_positions"]) * width
    if bytes_of(files) < least * MIN_BYTES:
        raise UserError(
            f"{', '.join(map(show, files)):.200} is damaged, or of another model: {where} describes at least {least:,} "
            "parameters, and the file is too short for them"
        )


NANOGPT_ARGS = {"vocab_size": "vocab_size", "block_size": "n_positions", "n_layer": "n_layer", "n_head": "n_head"}
NANOGPT_ARGS |= {"n_embd": "n_embd"}  # nanoGPT's name -> Hugging Face's
LINEAR = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")  # (out, in) in nanoGPT
COMPILED = "_orig_mod."  # what torch.compile puts before each name


def read_nanogpt(path: Path) -> tuple[ModelConfig, dict[str, StoredTensor]]:
    """Read the model and the tensors of nanoGPT's ``ckpt.pt``, without the values.

    Raises:
      UserError: it can't be read, contains code, is damaged, or is of another program.
    """
    where, saved = show(path), read_torch_file(path)
    if not isinstance(saved, dict) or not {"model", "model_args"} <= saved.keys():
        raise UserError(f"{where} is not a checkpoint of nanoGPT, a dict with 'model' and 'model_args'")
    given = check_type(saved["model_args"], dict, f"{where}: model_args")
    args = {theirs: check_type(given.get(ours), int, f"{where}: {ours}") for ours, theirs in NANOGPT_ARGS.items()}
    for name, value in args.items():
        check_range(value, 1, MAX_SIZES[name], f"{where}: {name}")
    _check_length(args | {"n_inner": None}, [path], where)
    sizes = {name: args[theirs] for name, theirs in FIELDS.items() if theirs in args}
    tensors = {name.removeprefix(COMPILED): part for name, part in tensors_of(saved["model"], where).items()}
    return ModelConfig(**sizes, bias=check_type(given.get("bias", True), bool, f"{where}: bias")), tensors


def load_nanogpt(path: Path) -> tuple[ModelConfig, Params]:
    """Read nanoGPT's ``ckpt.pt``.

    Raises:
      UserError: see `read_nanogpt`; or tensors do not fit (each is named).
    """
    config, tensors = read_nanogpt(path)
    return config, _loaded({name: _as_conv1d(name, part) for name, part in tensors.items()}, config, show(path))


class Place(NamedTuple):
    """A tensor of nanoGPT: its parameters here, side by side along the last axis, and how it is stored there."""

    paths: tuple[str, ...]
    transposed: bool
    index: tuple[int, ...]


def load_nanogpt_optimizer(path: Path) -> tuple[dict[str, Any], list[Place]] | None:
    """Read the state of the optimizer in nanoGPT's ``ckpt.pt``: AdamW, whose first group are the matrices.

    Returns:
      Its ``state_dict()`` with arrays, and the tensors in the order of its groups; None if the file has none.

    Raises:
      UserError: see `read_nanogpt`; or the optimizer's state is damaged.
    """
    (config, tensors), saved, where = read_nanogpt(path), read_torch_file(path).get("optimizer"), show(path)
    if saved is None:
        return None
    entries = check_type(check_type(saved, dict, f"{where}: optimizer").get("state"), dict, f"{where}: state")
    groups = check_type(saved.get("param_groups"), list, f"{where}: param_groups")
    if not all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups):
        raise UserError(f"{where} is damaged: its optimizer has groups without parameters")
    read = lambda value: value.read() if isinstance(value, StoredTensor) else value
    entries = {i: {k: read(v) for k, v in check_type(e, dict, f"{where}: state").items()} for i, e in entries.items()}
    short, table = {name.removeprefix(PREFIX): part for name, part in tensors.items()}, gpt2_table(config)
    names = sorted((name for name in short if name in table), key=lambda name: len(short[name].shape) < 2)  # stable
    place = lambda name: Place(tuple(p.path for p in table[name]), name.endswith(LINEAR), table[name][0].index)
    return {"state": entries, "param_groups": groups}, [place(name) for name in names]


def _as_conv1d(name: str, part: StoredTensor) -> StoredTensor:
    """A linear weight as (in, out); other tensors as they are."""
    if not name.endswith(LINEAR):
        return part
    return part._replace(shape=part.shape[::-1], read=lambda: part.read().T)


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
    tied = config.tie_head and HEAD in given and EMBEDDING in given
    if tied and np.array_equal(given[HEAD], given[EMBEDDING]):
        del given[HEAD]
    check_shapes({name: tensor.shape for name, tensor in given.items()}, config)
    params = {path: np.zeros(leaf.shape, np.float32) for path, leaf in _shapes(config).items()}
    for name, parts in gpt2_table(config).items():
        tensor = np.asarray(given[name]).T if name == HEAD else np.asarray(given[name])
        for part, values in zip(parts, np.split(tensor, len(parts), axis=-1), strict=True):
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

    def tensor(parts: tuple[Part, ...]) -> np.ndarray:
        return np.concatenate([np.asarray(flat[part.path], np.float32)[part.index] for part in parts], axis=-1)

    tensors = {PREFIX + name: tensor(parts) for name, parts in gpt2_table(config).items() if name != HEAD}
    return tensors if config.tie_head else {**tensors, HEAD: np.ascontiguousarray(flat[HEAD_KERNEL].T, np.float32)}


class Part(NamedTuple):
    """A parameter, or one layer of it, that is part of a checkpoint's tensor."""

    path: str
    index: tuple[int, ...]


def gpt2_table(config: ModelConfig) -> dict[str, tuple[Part, ...]]:
    """The checkpoint's tensor names, each with the parameters that it holds."""
    table = {name: tuple(Part(path, ()) for path in paths) for name, paths in OUTER.items()}
    for i in range(config.layers):
        for name, paths in BLOCK.items():
            table[f"h.{i}.{name}"] = tuple(Part(f"blocks/{path}", (i,)) for path in paths)
    if not config.tie_head:
        table[HEAD] = (Part(HEAD_KERNEL, ()),)  # transposed
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
    for name, parts in gpt2_table(config).items():
        sizes = [shapes[part.path].shape[len(part.index) :] for part in parts]
        expected[name] = sizes[0][::-1] if name == HEAD else (*sizes[0][:-1], sum(size[-1] for size in sizes))
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
        "head_bias": False,
        "embedding_norm": False,
        "qk_norm": False,
        "softcap": None,
        **dict.fromkeys(FACTORS, 1.0),
    }
    wrong = [f"{k}={getattr(config, k)!r} (not {v!r})" for k, v in supported.items() if getattr(config, k) != v]
    if config.attention_scale not in (None, 1.0):
        wrong.append(f"attention_scale={config.attention_scale!r} (not None or 1.0)")
    if MLPS[config.mlp].gated:
        wrong.append(f"mlp={config.mlp!r} (a gated MLP)")
    if wrong:
        raise UserError(f"the GPT-2 format cannot represent this model: {', '.join(wrong)}")
