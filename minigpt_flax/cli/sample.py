"""``sample RUN``: generate text with a trained run's model, printed as it is decoded. Needs only the run's folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from minigpt_flax.bounds import SEED, SIZE, Bound
from minigpt_flax.cli import compiled
from minigpt_flax.cli.parser import Parser
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import UserError
from minigpt_flax.runs.schema import read_text
from minigpt_flax.text import printable

TEXTS = Bound(1, 10_000, whole=True)
SHARE = Bound(0, 1, above=True)
PENALTY = Bound(0, 1e6, above=True)
LENGTH = Bound(1, 10**9, whole=True)  # tokens
SUMMARY = "Generate text with a run's model."


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--prompt", metavar="TEXT", action="append", help="text to continue; repeatable [end-of-text, or a new line]"
    )
    parser.add_argument("--prompt-file", metavar="FILE", help="read a prompt from a file, or from - (standard input)")
    parser.add_argument("--num", type=TEXTS, default=1, metavar="N", help="samples per prompt [1]")
    parser.add_argument("--max-tokens", type=LENGTH, default=256, metavar="N", help="tokens per sample [256]")
    parser.add_argument("--stop", metavar="TEXT", action="append", help="end a sample before this text; repeatable")
    parser.add_argument(
        "--temperature", type=Bound(0, 1e6), default=0.8, metavar="T", help="sampling temperature; 0: greedy [0.8]"
    )
    parser.add_argument("--top-k", type=SIZE, metavar="K", help="sample from the K most likely tokens [all]")
    parser.add_argument(
        "--top-p", type=SHARE, metavar="P", help="nucleus sampling: most likely tokens of total probability P [1]"
    )
    parser.add_argument(
        "--min-p", type=Bound(0, 1), metavar="P", help="omit tokens below P times the largest probability [0]"
    )
    parser.add_argument(
        "--repetition-penalty", type=PENALTY, metavar="R", help="above 1: make tokens that occurred less likely [1]"
    )
    parser.add_argument("--ignore-eos", action="store_true", help="continue after an end-of-text token")
    parser.add_argument(
        "--special-tokens", action="store_true", help="read <|endoftext|> in a prompt as the token, not as text"
    )
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="random seed [0]")
    parser.add_argument("--step", default="best", metavar="STEP", help="checkpoint: a step, best or last [best]")
    compiled.declare(parser)
    output.declare(parser)


def run(
    *,
    folder: str,
    prompt: list[str] | None,
    prompt_file: str | None,
    num: int,
    stop: list[str] | None,
    step: str,
    compile_cache: str | None,
    quiet: bool,
    json: bool,
    **how: Any,
) -> int:
    """Prints the samples as they are decoded, and the speed to stderr; with ``--json`` a record of each.

    Raises:
      UserError: the run, checkpoint or file doesn't exist, the tokenizer can't encode a prompt, or a number is out of
        range.
    """
    answer = Output(quiet, json)
    if stop and not all(stop):
        raise UserError("--stop is empty: give a text, or omit it")
    prompts: list[str | None] = [*(prompt or ()), *(() if prompt_file is None else (_from_file(prompt_file),))]
    prompts = [text for text in prompts or [None] for _ in range(num)]
    from minigpt_flax.train.memory import require_cache
    from minigpt_flax.train.restore import restore
    from minigpt_flax.train.sample import write

    compiled.use(compile_cache)
    model = restore(Path(folder), step)
    require_cache(model.model, len(prompts))
    pieces = write(model.model, model.params, model.tokenizer, prompts, stops=stop or (), **how)
    if json:
        print_records(pieces, prompts, answer)
    else:
        print_texts(pieces, prompts, sys.stderr if answer.human else None)
    return 0


def print_records(pieces: Iterable[Sequence[Any]], prompts: Sequence[str | None], answer: Output) -> None:
    """Prints a record of each sample at the end: prompt, text and number of tokens."""
    texts, tokens = [""] * len(prompts), [0] * len(prompts)
    for piece in (piece for chunk in pieces for piece in chunk):
        texts[piece.row] += piece.text
        tokens[piece.row] += piece.tokens
    for prompt, text, count in zip(prompts, texts, tokens, strict=True):
        answer.result(text, {"prompt": prompt or "", "text": text, "tokens": count})


def print_texts(pieces: Iterable[Sequence[Any]], prompts: Sequence[str | None], speed_to: TextIO | None) -> None:
    """Prints the samples one after another: each as it is decoded, while the later ones are decoded in the same batch.

    Args:
      pieces: the result of ``write``.
      prompts: of the samples.
      speed_to: stream for a line about the speed; None prints none.
    """
    shown = printable if sys.stdout.isatty() else str  # a pipe or file gets the text unchanged
    waiting = [prompt or "" for prompt in prompts]
    ended = [False] * len(prompts)
    speed, row = Speed(), 0
    _head(row, len(prompts))
    for chunk in pieces:
        speed.add(sum(piece.tokens for piece in chunk))
        for piece in chunk:
            waiting[piece.row] += piece.text
            ended[piece.row] = piece.last
        while row < len(prompts):
            print(shown(waiting[row]), end="", flush=True)
            waiting[row] = ""
            if not ended[row]:
                break
            print()
            row += 1
            _head(row, len(prompts))
    if speed_to is not None:
        print(speed, file=speed_to)


class Speed:
    """Measures the decoding speed."""

    def __init__(self) -> None:
        """Starts the clock."""
        self.times, self.tokens = [time.perf_counter()], [0]

    def add(self, tokens: int) -> None:
        """Counts tokens that were decoded just now."""
        self.times.append(time.perf_counter())
        self.tokens.append(tokens)

    def __str__(self) -> str:
        """Formats tokens, seconds and speed; the speed excludes the first chunks, which wait for compilation."""
        start, *times = self.times
        text = f"{sum(self.tokens):,} tokens in {times[-1] - start:.1f} s, the first after {times[0] - start:.1f} s"
        rest = sum(self.tokens[3:])
        return f"{text}; then {rest / (times[-1] - times[1]):,.0f} tokens/s" if rest else text


def _head(row: int, rows: int) -> None:
    if 1 < rows and row < rows:
        print(f"--- {row + 1} of {rows} ---")


def _from_file(path: str) -> str:
    """Reads a file, or standard input for ``-``, without the final newline."""
    if path != "-":
        return read_text(Path(path)).removesuffix("\n")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UserError("standard input is not UTF-8 text: convert it to UTF-8") from error
