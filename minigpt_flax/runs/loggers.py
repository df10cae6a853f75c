"""``--log``: loggers that receive every record of ``metrics.jsonl`` as it is written.

The package of a logger is imported only if the logger is used.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from minigpt_flax.errors import UserError
from minigpt_flax.spec import Spec, look_up_name

CLOCK = ("step", "tokens", "seconds")  # keys of a record that are no measurements


@runtime_checkable
class Logger(Protocol):
    """Receives records until it is closed."""

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Receives one record of ``metrics.jsonl``; non-finite numbers are None."""

    def close(self) -> None:
        """Writes everything that is still buffered."""


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns the measurements of a record."""
    return {name: value for name, value in record.items() if name not in CLOCK and value is not None}


class tensorboard:
    """TensorBoard, through tensorboardX: ``tensorboard --logdir runs`` shows the curves of all runs.

    The event files are in the run's folder, ``tensorboard/``. Package: tensorboardX.
    """

    package = "tensorboardX"

    def __init__(self, folder: Path, config: Mapping[str, Any], done: int):
        from tensorboardX import SummaryWriter

        # TensorBoard hides events after the step that this run is resumed from.
        # The file's name has the second of its creation; the suffix keeps two within one second apart, in order.
        self.writer = SummaryWriter(
            str(folder / "tensorboard"), purge_step=done + 1 if done else None, filename_suffix=f".{done:09d}"
        )
        self.writer.add_text("config", "\n".join(f"    {name}: {value}" for name, value in config.items()), done)

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Writes the numbers of a record."""
        for name, value in numbers(record).items():
            self.writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Writes the remaining events."""
        self.writer.close()


class wandb:
    """Weights & Biases; offline with ``WANDB_MODE=offline``. The project is ``WANDB_PROJECT`` or minigpt_flax.

    A resumed run continues there too, as its name is its id. Package: wandb.
    """

    package = "wandb"

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
        """Sends the remaining records."""
        self.run.finish()


LOGGERS: dict[str, Any] = {f.__name__: f for f in (tensorboard, wandb)}


def require(specs: Sequence[Spec]) -> None:
    """Refuses an unknown logger, and one whose package isn't installed.

    Raises:
      UserError: names the loggers, or the package to install.
    """
    for spec in specs:
        row: Any = look_up_name(spec, LOGGERS, "logger")
        if importlib.util.find_spec(row.package) is None:
            raise UserError(f"--log {spec} needs the package {row.package}: pip install {row.package}")


def open_all(specs: Sequence[Spec], folder: Path, config: Mapping[str, Any], done: int) -> list[Logger]:
    """Opens the loggers of a run.

    Args:
      specs: name rows of ``LOGGERS``.
      folder: of the run.
      config: of the run, as text.
      done: steps done before.
    """
    return [LOGGERS[spec.name](folder, config, done) for spec in specs]
