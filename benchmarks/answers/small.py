"""The small GPT that the pages train, and where what they measured is kept."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minigpt_flax.train.build import Run, loss_sum
from minigpt_flax.train.config.run_config import RunConfig, resolve

SIZES = {"layers": 2, "width": 64, "heads": 4, "context": 32, "batch_size": 12}


class Kept:
    """Numbers by name in a file: what is there is never measured again.

    Args:
      path: JSON.
    """

    def __init__(self, path: Path):
        self.path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        """The numbers of this name, measured if they aren't there; the processor's seconds are added up."""
        if name not in self.values:
            before = time.process_time()
            found = measure()
            self.values[name] = found
            self.values["seconds"] = self.seconds + time.process_time() - before
            self.path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self.path.with_suffix(".tmp")
            scratch.write_text(json.dumps(self.values) + "\n")
            scratch.replace(self.path)
            print(f"{name}: {time.process_time() - before:.1f} s", flush=True)
        return self.values[name]

    @property
    def seconds(self) -> float:
        """That all of it took, of all cores together: what a busy machine doesn't alter much."""
        return self.values.get("seconds", 0.0)


def config(steps: int, **more: Any) -> RunConfig:
    """A run of the small GPT."""
    return resolve({**SIZES, "steps": steps, **more}, "nano")


def mean_loss(run: Run) -> Callable[[Any, jax.Array], jax.Array]:
    """``(params, int32[B, T + 1]) -> float32[]``, nats a token."""
    whole = loss_sum(dataclasses.replace(run.model, dropout=0.0))

    def loss(params, batch):
        total, count = whole(params, batch[:, :-1], batch[:, 1:], jax.random.key(0))
        return total / count

    return loss


def final_loss(run: Run, state: Any) -> float | None:
    """Validation loss; None where training broke."""
    loss = run.evaluate(state.evaluation_params)["val_loss"]
    return loss if math.isfinite(loss) else None


def batches(run: Run, steps: int) -> jax.Array:
    """int32[steps, B, T + 1]."""
    return jnp.asarray(np.stack([run.batches(t) for t in range(steps)]))
