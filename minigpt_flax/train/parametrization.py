"""Parametrizations: how a model and its optimizer change with width and depth, so that hyperparameters transfer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from minigpt_flax.spec import bind, look_up
from minigpt_flax.train.config.run_config import RunConfig

KIND = "parametrization"


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
