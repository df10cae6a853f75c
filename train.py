"""Train a GPT: ``python train.py --opt adamw --schedule warmup_cosine``; ``--help`` lists all flags."""

import sys

from minigpt_flax.cli import early


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    from minigpt_flax.cli import entry

    arguments = sys.argv[1:] if arguments is None else arguments
    return entry.guarded("train.py", lambda: run(arguments), arguments=arguments)


def run(arguments: list[str]) -> int:
    """Parses the arguments; trains, or prints names."""
    from minigpt_flax import installed
    from minigpt_flax.cli import parser, train
    from minigpt_flax.train import memory

    installed.require()
    build = parser.parser()
    values = build.parse(arguments)
    memory.require_address_space()
    status = train.run(**values)
    build.report_repeated()
    return status


if __name__ == "__main__":
    early.start(main)
