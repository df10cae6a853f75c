"""``average RUN``: average the parameters of a run's last checkpoints into a new run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigpt_flax.bounds import Bound
from minigpt_flax.cli.parser import Parser
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.files import output_errors, require_absent, staged
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.runs.schema import read_json
from minigpt_flax.text import counted

NUMBER = Bound(2, 10_000, whole=True)
SUMMARY = "Average a run's last checkpoints into a new run folder."


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument("--last", type=NUMBER, default=5, metavar="N", help="number of latest checkpoints [5]")
    parser.add_argument("--out", metavar="FOLDER", help="folder to create; must not exist [RUN-average]")
    output.declare(parser)


def run(*, folder: str, last: int, out: str | None, quiet: bool, json: bool) -> int:
    """Writes the folder.

    Raises:
      UserError: the run is missing or has fewer checkpoints, one is damaged, or the folder can't be created.
      Failed: the disk is full; the folder is removed.
    """
    answer = Output(quiet, json)
    source = RunFolder(folder)
    target = Path(out) if out else source.path.with_name(f"{source.path.name}-average")
    require_absent(target)
    source.require()
    steps = last_steps(source, last)
    with output_errors(target), staged(target) as scratch:
        write_run(scratch, source, steps)
    text = f"{show(target)}: the mean of {len(steps)} checkpoints, of steps {', '.join(f'{s:,}' for s in steps)}"
    answer.note(text, {"folder": show(target), "steps": steps})
    return 0


def last_steps(source: RunFolder, last: int) -> list[int]:
    """The steps of the ``last`` latest checkpoints.

    Raises:
      UserError: there are fewer.
    """
    from minigpt_flax.train.restore import open_checkpoints

    with open_checkpoints(source.path) as checkpoints:
        steps = checkpoints.steps()
    if len(steps) < last:
        remedy = f"give --last {len(steps)}, or train" if len(steps) > 1 else "train"
        raise UserError(
            f"{show(source.path)} holds {counted(len(steps), 'checkpoint')}, fewer than --last {last}: {remedy} with a "
            "larger --keep or --keep-every"
        )
    return steps[-last:]


def write_run(out: Path, source: RunFolder, steps: Sequence[int]) -> None:
    """Writes a run with one checkpoint, the mean; its optimizer is SGD, since no optimizer state belongs to a mean.

    Raises:
      UserError: a checkpoint is damaged.
      OSError: a file can't be written.
    """
    import jax.numpy as jnp

    from minigpt_flax.train.build import make_setup
    from minigpt_flax.train.checkpoint import Checkpoints
    from minigpt_flax.train.config.run_config import changed
    from minigpt_flax.train.config.stored import to_json
    from minigpt_flax.train.restore import settings_of
    from minigpt_flax.train.state import TrainState

    _, config, tokenizer = settings_of(source.path)
    config = changed(config, opt="sgd", wrap=(), group=(), probe=())
    params = mean_params(source.path, steps)
    state = TrainState(jnp.int32(steps[-1]), params, make_setup(config, tokenizer).tx.init(params))
    env = read_json(source.env) | {"averaged": list(steps)}
    folder = RunFolder(out)
    folder.fill(to_json(config), env, tokenizer.save)
    with Checkpoints(folder.checkpoints, keep=1) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()


def mean_params(path: Path, steps: Sequence[int]) -> Any:
    """The mean of the evaluation parameters of checkpoints, in their dtypes; holds two models in memory.

    Raises:
      UserError: a checkpoint is damaged.
    """
    import jax

    from jaxopt_mini.tree import cast_like, widen
    from minigpt_flax.train.restore import restore

    first = restore(path, str(steps[0])).params
    mean = jax.tree.map(widen, first)
    for number, step in enumerate(steps[1:], 2):
        params = restore(path, str(step)).params
        mean = jax.tree.map(lambda a, p, n=number: a + (widen(p) - a) / n, mean, params)
    return cast_like(mean, first)
