"""Train one run of a comparison in its own folder, from where it stands, without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from jaxopt_mini.tree import nbytes
from minigpt_flax.errors import Diverged, UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.runs.records import read_run
from minigpt_flax.train.build import Run
from minigpt_flax.train.callbacks import Guard, Log
from minigpt_flax.train.checkpoint import Checkpoints
from minigpt_flax.train.config.run_config import read_config, to_json
from minigpt_flax.train.loop import train
from minigpt_flax.train.parts import part_names
from minigpt_flax.train.run import environment
from minigpt_flax.train.stop import Stop

Watch = Callable[[int], None]
"""Told the number of steps done."""


def finished(path: Path) -> bool:
    """Whether a run has nothing left to do: all steps are done, or it broke."""
    return (path / "config.json").is_file() and read_run(path).state != "unfinished"


def trial(run: Run, path: Path, stop: Stop, watch: Watch = lambda step: None) -> None:
    """Trains the run, or what is left of it; one that breaks is over, and its records say so.

    Raises:
      UserError: the folder can't be used.
      Failed: something can't be written.
    """
    with prepared(run, path) as folder, Checkpoints(folder.checkpoints, run.config.keep) as checkpoints:
        state = checkpoints.restore(run.state, print) if checkpoints.steps() else run.init()
        folder.forget_after(int(state.step))
        checkpoints.scores, records = folder.scores(), folder.records()
        with log(run, folder, records[-1]["seconds"] if records else 0.0) as lines:
            try:
                train(
                    run,
                    state,
                    hooks=[lines, guard(run, lines), lambda step, metrics: watch(step)],
                    on_validation=lines.write,
                    before_save=lines.sync,
                    checkpoints=checkpoints,
                    stop=stop,
                )
            except Diverged:
                lines.write(last_step(folder) + 1, {"loss": float("nan")})


@contextmanager
def prepared(run: Run, path: Path, **more: Any) -> Iterator[RunFolder]:
    """The run's folder, this process's alone, made if it isn't there.

    Raises:
      UserError: it can't be made, another process has it, or it holds another run.
    """
    folder = RunFolder(path)
    if folder.config.is_file():
        if read_config(folder.config).config != run.config:
            raise UserError(f"{show(path)} holds a run of another configuration: give the comparison another --name")
    else:
        folder.create(reuse=True)
    with folder.claim():
        if not folder.config.is_file():
            env = environment(run) | {"state_bytes_per_param": state_bytes(run)} | more
            folder.fill(to_json(run.config), env, run.tokenizer.save)
        yield folder


def state_bytes(run: Run) -> float:
    """Bytes that the optimizer remembers for each parameter."""
    count = sum(leaf.size for leaf in jax.tree.leaves(run.shapes))
    return nbytes(jax.eval_shape(run.init).opt_state) / count


def log(run: Run, folder: RunFolder, seconds: float = 0.0) -> Log:
    """Writes the run's ``metrics.jsonl``."""
    return Log(folder, run.config.log_every, run.config.step_tokens, seconds)


def guard(run: Run, lines: Log) -> Guard:
    """Ends a run that breaks, or leaves out too many steps in a row; an explosion is put on record."""
    return Guard(
        part_names(run.layout, run.shapes),
        run.config.explosion,
        lambda step, norm, name: lines.write(step, {"explosion": norm}),
        skips=run.on_nan.skips,
    )


def last_step(folder: RunFolder) -> int:
    """The last step on record."""
    return max((record["step"] for record in folder.records()), default=0)
