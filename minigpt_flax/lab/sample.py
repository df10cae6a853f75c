"""``sample RUN``: text from a trained run. Needs its folder and nothing else, not even its data."""

from __future__ import annotations

from pathlib import Path

from minigpt_flax.errors import UserError
from minigpt_flax.train.cli import Parser, number, whole

SUMMARY = "Print text that a run's model writes."


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument("--prompt", metavar="TEXT", help="what to continue [a new line]")
    parser.add_argument("--num", type=whole, default=1, metavar="N", help="how many texts [1]")
    parser.add_argument("--max-tokens", type=whole, default=256, metavar="N", help="length of each [256]")
    parser.add_argument(
        "--temperature", type=number, default=0.8, metavar="T", help="0: always the likeliest; 1: as it is [0.8]"
    )
    parser.add_argument("--top-k", type=whole, metavar="K", help="draw from the K likeliest tokens [all]")
    parser.add_argument("--top-p", type=number, metavar="P", help="draw from the likeliest that hold P [1]")
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="other draws [0]")
    parser.add_argument("--step", default="best", metavar="STEP", help="checkpoint: a step, best or last [best]")


def run(
    *,
    folder: str,
    prompt: str | None,
    num: int,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    step: str,
) -> int:
    """Prints the texts.

    Raises:
      UserError: no such run or checkpoint, a prompt that the tokenizer can't encode, or a number out of range.
    """
    if num < 1:
        raise UserError(f"--num must be at least 1, got {num}")
    from minigpt_flax.train.restore import restore
    from minigpt_flax.train.sample import sample

    how = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    run = restore(Path(folder), step)
    texts = sample(run.model, run.params, run.tokenizer, prompt, num=num, seed=seed, **how)
    for i, text in enumerate(texts, start=1):
        print(f"--- {i} of {num} ---\n{text}" if num > 1 else text)
    return 0
