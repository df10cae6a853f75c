"""Train a GPT: words in, a run out: ``python train.py --opt adamw --schedule warmup_cosine``, or ``--help``."""

import sys

from minigpt_flax.cli import early


def main(arguments: list[str] | None = None) -> int:
    """Does what the words say; returns the exit status."""
    from minigpt_flax.cli import entry

    words = sys.argv[1:] if arguments is None else arguments
    return entry.guarded("train.py", lambda: run(words), words=words)


def run(arguments: list[str]) -> int:
    """Parses, and trains or shows names."""
    from minigpt_flax.cli import installed, parser, train
    from minigpt_flax.train import memory

    installed.require()
    values = parser.parser().parse(arguments)
    memory.require_address_space()
    status = train.run(**values)
    parser.tell_repeated()
    return status


if __name__ == "__main__":
    early.start(main)
