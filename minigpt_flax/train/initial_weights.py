"""Where a run's first parameters come from: drawn, or those of a GPT-2 or of another run (``--init``)."""

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
from minigpt_flax.data.tokenizers.bpe import read_hugging_face
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.model.gpt2_folder import load_gpt2, read_gpt2_config
from minigpt_flax.model.layout import path_name
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.train.build import Run, model_config
from minigpt_flax.train.compile import call_once
from minigpt_flax.train.config.run_config import RunConfig, flag_of, spelled_out
from minigpt_flax.train.restore import restore, settings_of
from minigpt_flax.train.state import TrainState, init_state

HUB = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
HUB_FILES = ["config.json", "model.safetensors"]  # without its tokenizer, which is the one of the word gpt2
SHAPE = (  # the fields that parameters fit into; all others of a model are free
    *("vocab_size", "layers", "heads", "kv_heads", "width", "hidden", "context", "norm", "norm_eps", "position"),
    *("rope_base", "mlp", "bias", "norm_bias", "head_bias", "tie_head", "embedding_norm"),
    *("qk_norm", "qk_norm_scale", "attention_scale", "softcap", "softcap_form"),
)


class Origin(NamedTuple):
    """What a run starts from.

    Attributes:
      name: as it was given.
      fields: of ``RunConfig``, that it determines.
      load: ``() -> parameters``; None where they are drawn.
      tokenizer: that lies beside the parameters.
      advised: those of the fields that may be typed otherwise.
    """

    name: str
    fields: Mapping[str, Any]
    load: Callable[[], Any] | None
    tokenizer: Tokenizer | None
    advised: Collection[str] = ()


def origin(name: str | None) -> Origin:
    """Finds what ``--init`` names and reads how large it is; None is nothing.

    Raises:
      UserError: there is no such thing, or it can't be read.
    """
    if name is None:
        return Origin("", {}, None, None)
    path = Path(os.path.expanduser(name))
    if not path.is_dir():
        found = _of_gpt2(name, _from_hub(name))
        return found._replace(fields={**found.fields, "tokenizer": "gpt2"})
    return (_of_run if RunFolder(path).env.is_file() else _of_gpt2)(name, path)


def _of_run(name: str, path: Path) -> Origin:
    """The parameters of a run's best checkpoint, or their average if it keeps one."""
    _, config, tokenizer = settings_of(path)
    model = model_config(config, tokenizer.vocab_size)
    fields = {field: getattr(model, field) for field in SHAPE} | {"tokenizer": config.tokenizer}
    return Origin(name, fields, lambda: restore(path).params, tokenizer)


def _of_gpt2(name: str, path: Path) -> Origin:
    """A folder of Hugging Face's, with its own tokenizer if that is there."""
    model, beside = read_gpt2_config(path), path / "tokenizer.json"
    fields = {field: getattr(model, field) for field in SHAPE}
    tokenizer = read_hugging_face(beside) if os.path.lexists(beside) else None
    fields |= {} if tokenizer is None else {"tokenizer": tokenizer.name}
    return Origin(name, fields, lambda: load_gpt2(path)[1], tokenizer, advised=("tokenizer",))


def _from_hub(name: str) -> Path:
    """The folder of one of OpenAI's models, downloaded where it isn't in the cache."""
    if name not in HUB:
        raise UserError(
            f"--init {name}: no such folder{nearest(name, HUB)}; give a run's, one with a GPT-2 (config.json and "
            f"model.safetensors), or one of {', '.join(HUB)}"
        )
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"--init {name} needs the package huggingface_hub: pip install huggingface-hub") from error
    try:
        return Path(snapshot_download(HUB[name], allow_patterns=HUB_FILES))
    except Exception as error:  # whatever the network raises
        raise UserError(
            f"--init {name}: {HUB[name]} is not in the cache of the Hugging Face hub and can't be downloaded "
            f"({type(error).__name__}); give a folder with its config.json and model.safetensors"
        ) from error


def inherited(given: Mapping[str, Any], source: Origin) -> Mapping[str, Any]:
    """The fields that a source determines.

    Raises:
      UserError: something else was typed; a shorter context is no conflict.
    """
    names = source.fields.keys() - set(source.advised)
    typed = {name: given[name] for name in names if given.get(name) is not None}
    for name, value in spelled_out(typed, dict(source.fields)).items():
        has = source.fields[name]
        if value != has and not (name == "context" and value < has):
            raise UserError(
                f"--init {source.name} has {name}={has!r}, but {flag_of(name)} says {value!r}: leave that flag out, "
                "or take other weights"
            )
    return source.fields


def known_tokenizer(config: RunConfig, source: Origin) -> Tokenizer | None:
    """The tokenizer beside the parameters, unless the run wants another."""
    return source.tokenizer if config.tokenizer == source.fields.get("tokenizer") else None


def first_params(run: Run, source: Origin) -> Any:
    """The parameters that a source gives, as the run has them; None where they are drawn.

    Raises:
      UserError: they can't be read, or don't fit.
    """
    return None if source.load is None else jax.tree.map(_fitted, source.load(), run.state.params)


def digest(params: Any) -> str:
    """SHA-256 of parameters: their names, types, shapes and numbers."""
    hashed = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        hashed.update(
            f"{path_name(path)} {leaf.dtype.name}{list(leaf.shape)}\n".encode() + np.ascontiguousarray(leaf).tobytes()
        )
    return hashed.hexdigest()


def first_state(run: Run, params: Any) -> TrainState:
    """The state before the first step, where the run wants it: parameters, and an optimizer that remembers nothing.

    Args:
      run: what begins.
      params: see :func:`first_params`; None draws them.
    """
    if params is None:
        return call_once(run.init)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, run.state)
    copied = lambda params: init_state(jax.tree.map(jnp.copy, params), run.tx)  # no buffer is donated twice
    return call_once(jax.jit(copied, out_shardings=shardings), params)


def _fitted(leaf: Any, like: Any) -> np.ndarray:
    """One parameter as the run has it; the positions beyond a shorter context fall away."""
    return np.asarray(leaf)[tuple(slice(size) for size in like.shape)].astype(like.dtype)
