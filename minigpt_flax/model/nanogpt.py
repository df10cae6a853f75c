"""nanoGPT's ``ckpt.pt``: write a model and its AdamW as nanoGPT saves and resumes them.

:mod:`minigpt_flax.model.huggingface` reads the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.huggingface import EMBEDDING, HEAD, LINEAR, NANOGPT_ARGS, PREFIX, Place, gpt2_table, to_gpt2
from minigpt_flax.model.mlp import hidden_size
from minigpt_flax.model.torch_file import write_torch_file

FIXED = {"mlp": "gelu", "tie_head": True, "norm_eps": 1e-5, "attention_scale": None}  # what its model can't vary
OURS = {"block_size": "context", "n_layer": "layers", "n_head": "heads", "n_embd": "width"}  # its name -> ours


def nanogpt_places(config: ModelConfig) -> dict[str, Place]:
    """Return the tensors of nanoGPT in the order of its ``named_parameters()``, each with its parameters here."""
    table = gpt2_table(config)
    names = sorted(table, key=lambda name: name.startswith("ln_f"))  # stable
    return {
        name: Place(tuple(part.path for part in table[name]), name.endswith(LINEAR), table[name][0].index)
        for name in names
    }


def nanogpt_groups(config: ModelConfig) -> tuple[list[Place], list[Place]]:
    """Return the groups of nanoGPT's AdamW: matrices and embeddings, which decay, and vectors."""
    places = nanogpt_places(config)
    is_vector = lambda name: "ln_" in name or name.endswith(".bias")
    of = lambda vector: [place for name, place in places.items() if is_vector(name) == vector]
    return of(False), of(True)


def check_nanogpt(config: ModelConfig) -> None:
    """Check that nanoGPT's model can be of this configuration.

    Raises:
      UserError: it can't; the fields are named.
    """
    given = {name: getattr(config, name) for name in FIXED} | {"hidden": hidden_size(config)}
    wrong = [f"{k}={given[k]!r} (not {v!r})" for k, v in {**FIXED, "hidden": 4 * config.width}.items() if given[k] != v]
    if wrong:
        raise UserError(f"nanoGPT cannot represent this model: {', '.join(wrong)}")


def save_nanogpt(
    path: Path,
    params: Mapping[str, Any],
    config: ModelConfig,
    *,
    step: int,
    val_loss: float = float("inf"),
    optimizer: Mapping[str, Any] | None = None,
) -> None:
    """Write the checkpoint.

    Args:
      path: File to write.
      params: Parameters of this configuration.
      config: Configuration of the model.
      step: Completed steps.
      val_loss: Lowest validation loss so far, in nats per token.
      optimizer: ``state_dict()`` of its AdamW; None leaves it out, so that nanoGPT can sample but not resume.

    Raises:
      UserError: nanoGPT cannot represent the model.
    """
    check_nanogpt(config)
    tensors = to_gpt2(params, config)
    names = [PREFIX + name for name in nanogpt_places(config)]
    model = {name: tensors[name].T if name.endswith(LINEAR) else tensors[name] for name in names}
    model[HEAD] = model[PREFIX + EMBEDDING]
    args = {name: getattr(config, OURS.get(name, name)) for name in (*NANOGPT_ARGS, "bias", "dropout")}
    saved = {"model": model, "model_args": args, "iter_num": step, "best_val_loss": val_loss, "config": {}}
    write_torch_file(path, saved if optimizer is None else saved | {"optimizer": optimizer})
