"""A GPT in Flax, trained with any Optax-compatible optimizer. The names below are the public interface.

They are imported when they are first used: ``import minigpt_flax`` does not import JAX or other slow packages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigpt_flax._api import compare as compare, load as load, train as train, tune as tune
    from minigpt_flax.compare.results import ComparisonResult as ComparisonResult
    from minigpt_flax.errors import (
        CheckpointError as CheckpointError,
        Diverged as Diverged,
        TrainingFailed as TrainingFailed,
        UserError as UserError,
    )
    from minigpt_flax.model.config import ModelConfig as ModelConfig
    from minigpt_flax.model.gpt import GPT as GPT
    from minigpt_flax.train.build import Run as Run, build as build
    from minigpt_flax.train.callbacks import Callback as Callback
    from minigpt_flax.train.config.run_config import RunConfig as RunConfig
    from minigpt_flax.train.dataset import Dataset as Dataset, from_tokens as from_tokens
    from minigpt_flax.train.loop import Result as Result, fit as fit
    from minigpt_flax.train.restore import TrainedModel as TrainedModel
    from minigpt_flax.tune.results import TuningResult as TuningResult

_MODULES = {
    "_api": ("load",),
    "compare.results": ("ComparisonResult",),
    "errors": ("CheckpointError", "Diverged", "TrainingFailed", "UserError"),
    "model.config": ("ModelConfig",),
    "model.gpt": ("GPT",),
    "train.build": ("Run", "build"),
    "train.callbacks": ("Callback",),
    "train.config.run_config": ("RunConfig",),
    "train.dataset": ("Dataset", "from_tokens"),
    "train.loop": ("Result", "fit"),
    "train.restore": ("TrainedModel",),
    "tune.results": ("TuningResult",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_PACKAGES = ("compare", "train", "tune")  # which can be called
__all__ = sorted([*_MODULE_OF, *_PACKAGES])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use."""
    if name in _PACKAGES:
        return _imported(name)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_imported(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def _imported(module: str) -> Any:
    from minigpt_flax.installed import import_or_explain

    return import_or_explain(f"{__name__}.{module}")


def __dir__() -> list[str]:
    """Lists the public names too."""
    return sorted({*globals(), *__all__})
