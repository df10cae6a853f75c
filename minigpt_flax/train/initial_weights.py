"""Initial weights (``--init``): random, or those of a GPT-2, a nanoGPT checkpoint or another run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minigpt_flax.data import Tokenizer
from minigpt_flax.data.corpora import is_text
from minigpt_flax.data.tokenizers.folder import read_folder
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.model.huggingface import (
    CONFIG,
    NANOGPT,
    load_gpt2,
    load_nanogpt,
    load_nanogpt_optimizer,
    read_gpt2_config,
    read_nanogpt,
)
from minigpt_flax.model.layout import path_name
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.train.build import Run, model_config
from minigpt_flax.train.compile import run_unoptimized
from minigpt_flax.train.config.run_config import BASE_SIZES, STANDARD, RunConfig, flag_of, normalized, parsed
from minigpt_flax.train.initial_optimizer import NO_OPTIMIZER, LoadedOptimizer, replaced
from minigpt_flax.train.restore import restore, settings_of
from minigpt_flax.train.state import TrainState, init_state

HUB = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
HUB_FILES = ["config.json", "model.safetensors"]  # the tokenizer is the spec gpt2
SHAPE = (  # the fields of a model that its parameters determine
    *("vocab_size", "layers", "heads", "kv_heads", "width", "hidden", "context", "norm", "norm_eps", "position"),
    *("rope_base", "mlp", "bias", "norm_bias", "head_bias", "tie_head", "embedding_norm"),
    *("qk_norm", "qk_norm_scale", "attention_scale", "softcap", "softcap_form"),
)


class InitialWeights(NamedTuple):
    """Weights that a run starts from.

    Attributes:
      name: value of ``--init``.
      fields: fields of ``RunConfig`` that the weights determine.
      load: ``() -> parameters``; None for random weights.
      tokenizer: tokenizer stored with the weights, if any.
      advised: the ``fields`` that the user may override.
      load_optimizer: ``() -> (state_dict, places)`` of the optimizer of PyTorch that trained them, or None; None if
        the weights have none.
    """

    name: str
    fields: Mapping[str, Any]
    load: Callable[[], Any] | None
    tokenizer: Tokenizer | None
    advised: Collection[str] = ()
    load_optimizer: Callable[[], tuple[Any, Any] | None] | None = None


def initial_weights(name: str | None) -> InitialWeights:
    """Find the weights that ``--init`` names and read their sizes; None means random weights.

    Raises:
      UserError: the weights do not exist or can't be read.
    """
    if name is None:
        return InitialWeights("", {}, None, None)
    path = Path(os.path.expanduser(name))
    if path.is_dir() and RunFolder(path).env.is_file():
        return _of_run(name, path)
    if path.is_file() or (os.path.lexists(path / NANOGPT) and not os.path.lexists(path / CONFIG)):
        return _of_nanogpt(name, path if path.is_file() else path / NANOGPT)
    if path.is_dir():
        return _of_gpt2(name, path)
    found = _of_gpt2(name, _from_hub(name))
    return found._replace(fields={**found.fields, "tokenizer": "gpt2"})


def _of_run(name: str, path: Path) -> InitialWeights:
    """The parameters of a run's best checkpoint, or their average if the optimizer maintains one."""
    _, config, tokenizer = settings_of(path)
    model = model_config(config, tokenizer.vocab_size)
    fields = {field: getattr(model, field) for field in SHAPE} | {"tokenizer": str(config.tokenizer)}
    fields |= {field: getattr(config, field) for field in ("attention_scale", *BASE_SIZES)}  # without factors
    fields |= {"parametrization": str(config.parametrization)}
    return InitialWeights(name, fields, lambda: restore(path).params, tokenizer)


def _of_gpt2(name: str, path: Path) -> InitialWeights:
    """A folder in Hugging Face's format, with its own tokenizer if it has one."""
    model, tokenizer = read_gpt2_config(path), read_folder(path)
    fields = {field: getattr(model, field) for field in SHAPE} | {"parametrization": STANDARD}
    fields |= {} if tokenizer is None else {"tokenizer": tokenizer.name}
    return InitialWeights(name, fields, lambda: load_gpt2(path)[1], tokenizer, advised=("tokenizer",))


def _of_nanogpt(name: str, path: Path) -> InitialWeights:
    """A nanoGPT checkpoint, which has no tokenizer."""
    model, _ = read_nanogpt(path)
    fields = {field: getattr(model, field) for field in SHAPE} | {"parametrization": STANDARD}
    optimizer = lambda: load_nanogpt_optimizer(path)
    load = lambda: load_nanogpt(path)[1]
    return InitialWeights(name, fields, load, None, advised=("tokenizer",), load_optimizer=optimizer)


def require_tokenizer(given: Mapping[str, Any], source: InitialWeights, data: Collection[str]) -> None:
    """Check that the tokenizer of existing weights is known, if the data is text.

    Raises:
      UserError: neither the weights nor the user specify a tokenizer.
    """
    known = source.load is None or "tokenizer" in source.fields or given.get("tokenizer") is not None
    if not known and (texts := [name for name in data if is_text(name)]):
        raise UserError(
            f"--init {source.name} has no tokenizer (tokenizer.json, vocab.json and merges.txt, or vocab.txt), and "
            f"{texts[0]} is text: give the --tokenizer that the weights were trained with, such as --tokenizer gpt2"
        )


def _from_hub(name: str) -> Path:
    """The folder of one of OpenAI's models, downloaded unless it is in the cache."""
    if name not in HUB:
        raise UserError(
            f"--init {name}: no such folder{nearest(name, HUB)}; give the folder of a run, of a GPT-2 (config.json and "
            f"model.safetensors), nanoGPT's ckpt.pt, or one of {', '.join(HUB)}"
        )
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"--init {name} needs the package huggingface_hub: pip install huggingface-hub") from error
    try:
        return Path(snapshot_download(HUB[name], allow_patterns=HUB_FILES))
    except Exception as error:  # network errors have no common base class
        raise UserError(
            f"--init {name}: {HUB[name]} is not in the cache of the Hugging Face hub and can't be downloaded "
            f"({type(error).__name__}); give a folder with its config.json and model.safetensors"
        ) from error


def fields_from_weights(given: Mapping[str, Any], source: InitialWeights) -> Mapping[str, Any]:
    """Return the fields that the weights determine.

    Raises:
      UserError: a flag contradicts one of them; a shorter context is allowed.
    """
    names = source.fields.keys() - set(source.advised)
    below = {name: parsed(name, value) for name, value in source.fields.items()}
    for name, value in normalized({name: given.get(name) for name in names}, below).items():
        has = below[name]
        if value != has and not (name == "context" and value < has):
            raise UserError(
                f"--init {source.name} has {name}={source.fields[name]!r}, but {flag_of(name)} says "
                f"{given[name]!r}: omit that flag, or use other weights"
            )
    return source.fields


def known_tokenizer(config: RunConfig, source: InitialWeights) -> Tokenizer | None:
    """The tokenizer stored with the weights, unless the run uses another."""
    same = str(config.tokenizer) == source.fields.get("tokenizer")
    return source.tokenizer if same else None


def first_params(run: Run, source: InitialWeights) -> Any:
    """Load the parameters with the shapes and dtypes of the run; None for random weights.

    Raises:
      UserError: the parameters can't be read, or do not fit.
    """
    return None if source.load is None else jax.tree.map(_fitted, source.load(), run.state.params)


def digest(params: Any) -> str:
    """SHA-256 of parameters: names, dtypes, shapes and values."""
    hashed = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        hashed.update(
            f"{path_name(path)} {leaf.dtype.name}{list(leaf.shape)}\n".encode() + np.ascontiguousarray(leaf).tobytes()
        )
    return hashed.hexdigest()


def first_state(run: Run, params: Any, optimizer: LoadedOptimizer = NO_OPTIMIZER) -> TrainState:
    """Create the state before the first step, with the shardings of the run.

    Args:
      run: the run.
      params: parameters from :func:`first_params`; None initializes them randomly.
      optimizer: values of the optimizer's state, from :func:`load_optimizer`.
    """
    if params is None:
        return run_unoptimized(run.init)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, run.state)

    def copied(params: Any, values: Any) -> TrainState:
        state = init_state(jax.tree.map(jnp.copy, params), run.tx)  # no buffer is donated twice
        return state._replace(opt_state=replaced(state.opt_state, values))

    return run_unoptimized(jax.jit(copied, out_shardings=shardings), params, optimizer.values)


def _fitted(leaf: Any, like: Any) -> np.ndarray:
    """Convert one parameter to the run's shape and dtype; positions beyond a shorter context are dropped."""
    return np.asarray(leaf)[tuple(slice(size) for size in like.shape)].astype(like.dtype)
