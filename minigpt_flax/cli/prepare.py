"""``prepare SOURCE``: tokenize text, JSONL, ``.bin`` files or a dataset into one folder, memory-mapped by training."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt_flax.cli.parser import Parser
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.invocation import line, show
from minigpt_flax.progress import Progress
from minigpt_flax.runs.files import output_errors, require_absent

if TYPE_CHECKING:
    from minigpt_flax.data import Tokenizer
    from minigpt_flax.data.documents import Piece
    from minigpt_flax.data.sources import TextSource, TokenSource

SUMMARY = "Tokenize text, JSONL, .bin files or a dataset into a folder."
LINE_INTERVAL = 10.0  # seconds between two lines of progress, without a terminal
ENCODING = "encoding"
CHUNK = 1 << 22  # tokens copied at a time


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("source", metavar="SOURCE", help="corpus, file, folder, 'glob/*' or hf:NAME, as for --data")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to create, for --data FOLDER")
    parser.add_argument("--tokenizer", default="char", metavar="SPEC", help="char, byte, bpe or gpt2 [char]")
    output.declare(parser)


def run(*, source: str, out: str, tokenizer: str, quiet: bool, json: bool) -> int:
    """Writes the folder and prints a summary of it.

    Raises:
      UserError: the source, the tokenizer or the folder can't be used; the folder is removed.
      Failed: the disk is full; the folder is removed.
    """
    from minigpt_flax.data import open_corpus, replacement_note
    from minigpt_flax.data.prepared import write_prepared
    from minigpt_flax.data.sources import TokenSource

    answer, folder, begun = Output(quiet, json), Path(out), time.monotonic()
    require_absent(folder)
    with output_errors(folder):
        corpus = open_corpus(source)
        with StreamProgress(answer.human) as progress:
            progress.notes += corpus.notes
            if isinstance(corpus, TokenSource):
                chosen, training, validation = _of_tokens(corpus, tokenizer, progress)
            else:
                chosen, training, validation = _of_text(corpus, tokenizer, progress)
            meta = write_prepared(source, folder, chosen, training, validation)
    seconds, tokens = time.monotonic() - begun, meta.train + meta.val
    end = "" if chosen.eot is None else f"; documents end with token {chosen.eot:,}"
    size = sum((folder / name).stat().st_size for name in ("train.bin", "val.bin"))
    lines = (
        f"tokens     {meta.train:,} training and {meta.val:,} validation tokens, {size / 1e6:,.1f} MB",
        f"tokenizer  {chosen.name}, {chosen.vocab_size:,} tokens{end}",
        f"speed      {progress.read / 1e6:,.1f} MB in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s{_memory()}",
        f"sha256     {meta.sha256}",
        *(f"data       {note}" for note in progress.notes),
        *([f"text       {replacement_note(progress.replaced)}"] if progress.replaced else []),
        f"next       {line('train', '--data', folder)}",
    )
    record = {"folder": show(folder), "training": meta.train, "validation": meta.val, "vocab_size": chosen.vocab_size}
    record |= {"tokenizer": chosen.name, "sha256": meta.sha256, "seconds": seconds, "replaced": progress.replaced}
    record |= {"notes": progress.notes}
    answer.note("\n".join(lines), record)
    return 0


def _of_text(corpus: TextSource, text: str, progress: StreamProgress) -> tuple[Tokenizer, Iterable, Iterable | None]:
    from minigpt_flax.data import READY_MADE, TOKENIZERS, encode, rechunk
    from minigpt_flax.spec import bind, look_up, parse

    spec = parse(text, "tokenizer")
    sample = "" if spec.name in READY_MADE else rechunk(progress.pieces(corpus.read(), "learning", corpus.size))
    with progress.waiting(f"training the tokenizer {spec}"):
        tokenizer = bind(spec, look_up(spec, TOKENIZERS, "tokenizer"), "tokenizer", sample)
    encoded = lambda pieces, size: encode(tokenizer, progress.pieces(pieces, ENCODING, size))
    validation = None if corpus.validation is None else encoded(corpus.validation(), None)
    return tokenizer, encoded(corpus.read(), corpus.size), validation


def _of_tokens(corpus: TokenSource, text: str, progress: StreamProgress) -> tuple[Tokenizer, Iterable, Iterable | None]:
    from minigpt_flax.data import load_corpus
    from minigpt_flax.spec import parse
    from minigpt_flax.train.dataset import choose_tokenizer

    tokenizer, notes = choose_tokenizer([load_corpus(corpus.name)], parse(text, "tokenizer"))
    progress.notes += notes

    def copy(tokens: Any) -> Iterator[Any]:
        import numpy as np

        checked = tokens.with_vocab_size(tokenizer.vocab_size)
        return (np.asarray(checked[i : i + CHUNK]) for i in range(0, len(checked), CHUNK))

    size = len(corpus.tokens) * corpus.tokens.dtype.itemsize
    training = progress.arrays(copy(corpus.tokens), "copying", size)
    return tokenizer, training, None if corpus.validation is None else copy(corpus.validation)


class StreamProgress(Progress):
    """How much of a stream is read: a bar with the remaining time in a terminal, periodic lines elsewhere.

    Args:
      shown: whether anything is printed.

    Attributes:
      read: bytes of the source, of the last pass over it.
      replaced: lone surrogates that became U+FFFD in the encoded text.
      notes: what a user should know about the source, one line each.
    """

    def __init__(self, shown: bool):
        super().__init__("DownloadColumn", "left", "TimeRemainingColumn", shown=shown)
        self.read = self.replaced = 0
        self.notes: list[str] = []

    def pieces(self, pieces: Iterable[Piece], label: str, size: int | None) -> Iterator[Piece]:
        """Yields pieces of documents, ``size`` bytes in total if that is known."""
        return self._count(((piece, piece.size) for piece in self._with_replaced(pieces, label)), label, size)

    def _with_replaced(self, pieces: Iterable[Piece], label: str) -> Iterator[Piece]:
        for piece in pieces:
            self.replaced += piece.replaced if label == ENCODING else 0  # learning reads the same text
            yield piece

    def arrays(self, arrays: Iterable[Any], label: str, size: int) -> Iterator[Any]:
        """Yields arrays, ``size`` bytes in total."""
        return self._count(((array, array.nbytes) for array in arrays), label, size)

    def _count(self, items: Iterable[tuple[Any, int]], label: str, size: int | None) -> Iterator[Any]:
        task = self.add(f"{label:9s}", size)
        begun = shown = time.monotonic()
        self.read = 0
        for item, count in items:
            yield item
            self.read += count
            self.update(task, self.read)
            now = time.monotonic()
            if now - shown > LINE_INTERVAL and not self.console.is_terminal:
                shown = now
                self.print(f"{label:9s}  {self._line(size, now - begun)}")
        self.remove(task)

    def _line(self, size: int | None, seconds: float) -> str:
        from minigpt_flax.train.clock import spell

        text = f"{self.read / 1e6:,.0f} MB"
        return f"{text} of {size / 1e6:,.0f}, {spell(seconds * (size / self.read - 1))} left" if size else text


def _memory() -> str:
    """Peak memory of this process, if the system reports it."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f", peak memory {peak * (1 if sys.platform == 'darwin' else 1024) / 1e6:,.0f} MB"
