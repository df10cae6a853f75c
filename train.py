"""Train a GPT: words in, a run out: ``python train.py --opt adamw --schedule warmup_cosine``, or ``--help``."""

import sys
from functools import partial

from minigpt_flax import installed
from minigpt_flax.train import cli, command, xla
from minigpt_flax.train.processes import tell_failure


def main(arguments: list[str] | None = None) -> int:
    """Does what the words say; returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    return cli.guarded("train.py", lambda: run(words), partial(tell_failure, words))


def run(arguments: list[str]) -> int:
    """Parses, and trains or shows names."""
    installed.require()
    return command.run(**cli.parser().parse(arguments))


if __name__ == "__main__":
    xla.huge_pages()
    cli.leave(main())
