"""The base of a run's model, and the factors of a parametrization in the model."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax

from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig, architecture_of
from minigpt_flax.model.gpt import init_params
from minigpt_flax.model.initializers import INITS
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.parametrization import KIND, scaling_of


def base_of(config: RunConfig, model: ModelConfig) -> ModelConfig:
    """The base model: the run's model with the width, layers and heads of the base, and hidden width in proportion.

    Raises:
      UserError: a size of the base is not a whole number, or they don't fit together.
    """
    width = config.base_width or model.width
    flag = f"--base-width {width}"
    heads = config.base_heads or _proportional(width, model.width, model.heads, flag, "heads")
    hidden = model.hidden and _proportional(width, model.width, model.hidden, flag, "hidden")
    kv_heads = model.kv_heads
    if kv_heads is not None and (kv_heads * heads) % model.heads == 0:
        kv_heads = kv_heads * heads // model.heads
    sizes = {"width": width, "heads": heads, "kv_heads": kv_heads, "hidden": hidden}
    try:
        return dataclasses.replace(model, **sizes, layers=config.base_layers or model.layers)
    except UserError as error:
        raise UserError(f"the base of {flag} is impossible: {error}") from error


def _proportional(width: int, whole: int, part: int, flag: str, name: str) -> int:
    """``part`` of ``whole`` in proportion at another width."""
    if width * part % whole:
        raise UserError(
            f"{flag}: the base would have {width * part / whole:g} as its --{name}, in proportion to {part} of "
            f"--width {whole}: give another --base-width" + (", or --base-heads" if name == "heads" else "")
        )
    return width * part // whole


def parametrized(config: RunConfig, model: ModelConfig) -> ModelConfig:
    """The model with the factors of the run's parametrization.

    Raises:
      UserError: see :func:`base_of`.
    """
    scaling = scaling_of(config)
    if scaling is None:
        return model
    base = base_of(config, model)
    if not 0.5 <= scaling.alpha <= 1:
        raise UserError(f"{KIND} '{config.parametrization}': alpha must be from 0.5 to 1, got {scaling.alpha:g}")
    return dataclasses.replace(
        model,
        logit_scale=base.width / model.width,
        residual_scale=(model.layers / base.layers) ** -scaling.alpha,
        attention_scale=_attention_scale(model, base),
        init_width=base.width,
        init_layers=base.layers,
    )


def _attention_scale(model: ModelConfig, base: ModelConfig) -> float | None:
    """The scale of the base's attention scores, divided by the growth of the heads unless queries are normalized."""
    grown = model.head_size / base.head_size
    if grown == 1:
        return model.attention_scale
    own = base.head_size**-0.5 if model.attention_scale is None else model.attention_scale
    return own if model.qk_norm else own / grown


def shapes_of(config: RunConfig) -> tuple[Any, Any]:
    """The parameters of the model and of its base, abstract; the number of tokens doesn't matter."""
    model = ModelConfig(**architecture_of(config), vocab_size=1)
    return _abstract(model), _abstract(base_of(config, model))


@functools.cache
def _abstract(model: ModelConfig) -> Any:
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def initial_std(model: ModelConfig, name: str, shape: tuple[int, ...]) -> float | None:
    """Standard deviation of a parameter's initial values; None for biases and scales.

    >>> initial_std(ModelConfig(vocab_size=65), "blocks/mlp/up/kernel", (4, 128, 512))
    0.02
    """
    init = INITS[model.init_scheme]
    if name.endswith("embedding"):
        return init.embedding
    if not name.endswith("kernel"):
        return None
    if name == "head/kernel":
        return init.head
    return init.output(model) if "/output/" in name or "/down/" in name else init.first(model, shape[-2])
