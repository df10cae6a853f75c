"""Parametrizations: how a model and its optimizer change with width and depth, so that hyperparameters transfer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxopt_mini.tree import by_name
from jaxopt_mini.wrappers import REFUSED, STEP_SIZES, Multipliers, StepSize, multipliers, step_size
from minigpt_flax.errors import UserError
from minigpt_flax.model.config import Architecture, ModelConfig
from minigpt_flax.model.gpt import init_params
from minigpt_flax.model.initializers import INITS
from minigpt_flax.spec import Spec, as_user_error, bind, look_up
from minigpt_flax.train.config.param_groups import REST, assign
from minigpt_flax.train.config.run_config import RunConfig

KIND = "parametrization"
NOT_COVERED = {
    "hyperball": "its steps are relative to the weights",
    "sam": "its perturbation has a width rule of its own",
}


class Scaling(NamedTuple):
    """What a parametrization changes beyond the base.

    Attributes:
      alpha: exponent of the depth.
      decay: scaling of the weight decay.
      like: optimizer whose steps grow like those of an external one.
    """

    alpha: float
    decay: str
    like: str | None


def standard() -> None:
    """The same initialization and learning rate at every width and depth."""


def mup(*, alpha: float = 1.0, decay: str = "independent", like: str | None = None) -> Scaling:
    """Maximal update parametrization (Yang et al. 2022): hyperparameters of a narrow base model suit a wide one.

    Hidden matrices start smaller and have smaller learning rates, by the rule of the optimizer; the logits are divided
    by the width over that of the base. With ``--base-layers`` the depth rules of `completep` apply, too. A model with
    the sizes of its base is the standard one.

    Args:
      alpha: the branches of a model with l times the layers of the base are multiplied by ``l ** -alpha``; 0.5 to 1.
      decay: ``independent`` keeps the learning rate times the weight decay, ``unscaled`` lets it shrink like the
        learning rate of each parameter, ``sqrt`` like its root.
      like: optimizer whose steps grow with the width like those of an external one.
    """
    return Scaling(alpha, decay, like)


def completep(*, alpha: float = 1.0, decay: str = "independent", like: str | None = None) -> Scaling:
    """CompleteP (Dey et al. 2025): `mup` with rules for the depth.

    The base has 4 layers unless ``--base-layers`` is set.

    Args:
      alpha: exponent of the depth, see `mup`.
      decay: scaling of the weight decay, see `mup`.
      like: optimizer whose steps grow like those of an external one.
    """
    return Scaling(alpha, decay, like)


PARAMETRIZATIONS: dict[str, Callable[..., Scaling | None]] = {f.__name__: f for f in (standard, mup, completep)}


def scaling_of(config: RunConfig) -> Scaling | None:
    """What the parametrization of a run changes; None for the standard one.

    Raises:
      UserError: there is no such parametrization, or a keyword is wrong.
    """
    spec = config.parametrization
    return bind(spec, look_up(spec, PARAMETRIZATIONS, KIND), KIND)


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


def factors_of(config: RunConfig, layout: Any) -> Multipliers | None:
    """The factors of every parameter's gradient, value and update; None for the standard parametrization.

    Raises:
      UserError: it is not known how the steps of an optimizer grow, or a wrapper is not covered.
    """
    scaling = scaling_of(config)
    if scaling is None:
        return None
    for spec in config.wrap:
        if spec.name in NOT_COVERED:
            raise UserError(
                f"--parametrization {config.parametrization.name} doesn't cover --wrap {spec.name}: "
                f"{NOT_COVERED[spec.name]}; omit one of them"
            )
    shapes, base = _shapes(config)
    how = {"layout": layout, "alpha": scaling.alpha, "decay": scaling.decay}
    specs = {str(i): group.spec for i, group in enumerate(config.group)} | {REST: config.opt}
    where = f"{KIND} '{config.parametrization}'"

    def of(spec: Spec) -> Multipliers:
        return as_user_error(where, lambda: multipliers(shapes, base, like=_like(spec, scaling), **how))

    names = {name: entry.role for name, entry in by_name(layout).items()}
    assigned = assign(config.group, names)
    used = {label: [by_name(tree) for tree in of(specs[label])] for label in sorted(set(assigned.values()))}
    structure = jax.tree.structure(layout)
    return Multipliers(*(structure.unflatten([used[assigned[n]][i][n] for n in names]) for i in range(3)))


def _like(spec: Spec, scaling: Scaling) -> StepSize:
    if spec.name in STEP_SIZES or spec.name in REFUSED:
        return step_size(spec.name, **spec.keywords)
    if scaling.like is not None:
        return step_size(scaling.like)
    raise UserError(
        f"it is not known how the steps of the optimizer '{spec.name}' grow with the width: name one of --list that "
        f"they grow like, as --{KIND} \"mup(like='adam')\""
    )


def _shapes(config: RunConfig) -> tuple[Any, Any]:
    """The parameters of the model and of its base, abstract; the number of tokens doesn't matter."""
    options = {f.name: getattr(config, f.name) for f in dataclasses.fields(Architecture)}
    model = ModelConfig(**options, vocab_size=1)
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
