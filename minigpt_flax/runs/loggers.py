"""Where else the lines of ``metrics.jsonl`` go: each logger gets every record as it is written, and nothing else.

A logger's package is imported only when it is asked for.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from minigpt_flax.errors import UserError
from minigpt_flax.spec import look_up_name

CLOCK = ("step", "tokens", "seconds")  # what a record has beside its numbers


@runtime_checkable
class Logger(Protocol):
    """Takes records until it is closed."""

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Takes one line of ``metrics.jsonl``; a number that isn't finite is None."""

    def close(self) -> None:
        """Brings everything to where it belongs."""


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """What there is to plot in a record."""
    return {name: value for name, value in record.items() if name not in CLOCK and value is not None}


class tensorboard:
    """TensorBoard, through tensorboardX: ``tensorboard --logdir runs`` shows the curves of all runs.

    The event files are in the run's folder, ``tensorboard/``. Package: tensorboardX.
    """

    package, extra = "tensorboardX", "tensorboard"

    def __init__(self, folder: Path, config: Mapping[str, Any], done: int):
        from tensorboardX import SummaryWriter

        # TensorBoard strikes out what an earlier sitting logged after the step that this one goes on from.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1 if done else None)
        self.writer.add_text("config", "\n".join(f"    {name}: {value}" for name, value in config.items()), done)

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Writes the numbers of a record."""
        for name, value in numbers(record).items():
            self.writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Writes what is left."""
        self.writer.close()


class wandb:
    """Weights & Biases; offline where ``WANDB_MODE=offline`` says so. The project is ``WANDB_PROJECT`` or minigpt_flax.

    A run that goes on goes on there too: its name is its id. Package: wandb.
    """

    package, extra = "wandb", "wandb"

    def __init__(self, folder: Path, config: Mapping[str, Any], done: int):
        import wandb as package  # pyright: ignore[reportMissingImports]

        self.run = package.init(
            project=os.environ.get("WANDB_PROJECT", "minigpt_flax"),
            name=folder.name,
            dir=folder,
            config=dict(config),
            resume="allow",
            settings=package.Settings(silent=True, console="off"),
        )
        self.run.define_metric("*", step_metric="step")

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Sends the numbers of a record."""
        self.run.log({"step": record["step"], **numbers(record)})

    def close(self) -> None:
        """Sends what is left."""
        self.run.finish()


LOGGERS: dict[str, Any] = {f.__name__: f for f in (tensorboard, wandb)}


def require(names: Sequence[str]) -> None:
    """Refuses a logger that there isn't, or that lacks its package.

    Raises:
      UserError: says what there is, or what to install.
    """
    for name in names:
        row = look_up_name(name, LOGGERS, "logger")
        if importlib.util.find_spec(row.package) is None:
            raise UserError(f"--log {name} needs the package {row.package}: pip install 'jaxopt-mini[{row.extra}]'")


def open_all(names: Sequence[str], folder: Path, config: Mapping[str, Any], done: int) -> list[Logger]:
    """Opens the loggers of a run.

    Args:
      names: of rows of ``LOGGERS``.
      folder: of the run.
      config: of the run.
      done: steps that are done already.
    """
    return [LOGGERS[name](folder, config, done) for name in names]
