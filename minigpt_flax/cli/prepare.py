"""``prepare SOURCE``: text, JSONL, ``.bin`` files or a dataset as one folder of tokens, for training to map."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt_flax.cli.parser import Parser
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import Failed
from minigpt_flax.invocation import line, show
from minigpt_flax.runs.files import require_absent

if TYPE_CHECKING:
    from minigpt_flax.data import Tokenizer
    from minigpt_flax.data.documents import Piece
    from minigpt_flax.data.sources import Binary, Text

SUMMARY = "Turn text, JSONL, .bin files or a dataset into a folder of tokens."
PATIENCE = 10.0  # seconds between two lines of progress where there is no terminal
ENCODING = "encoding"
CHUNK = 1 << 22  # tokens copied at a time


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("source", metavar="SOURCE", help="what --data takes: a corpus, file, folder, 'glob/*', hf:NAME")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to make, for --data FOLDER")
    parser.add_argument("--tokenizer", default="char", metavar="WORD", help="char, byte, bpe or gpt2 [char]")
    output.declare(parser)


def run(*, source: str, out: str, tokenizer: str, quiet: bool, json: bool) -> int:
    """Makes the folder and says what it holds.

    Raises:
      UserError: the source, the word or the folder can't be used; nothing is left of the folder then.
      Failed: the disk is full; nothing is left either.
    """
    from minigpt_flax.data import open_corpus, replacements
    from minigpt_flax.data.prepared import write_prepared
    from minigpt_flax.data.sources import Binary

    answer, folder, begun = Output(quiet, json), Path(out), time.monotonic()
    require_absent(folder)
    try:
        found = open_corpus(source)
        with Watch(answer.human) as watch:
            if isinstance(found, Binary):
                chosen, training, validation = _of_tokens(found, tokenizer, watch)
            else:
                chosen, training, validation = _of_text(found, tokenizer, watch)
            meta = write_prepared(source, folder, chosen, training, validation)
    except OSError as error:
        raise Failed(
            f"can't write {show(error.filename or folder)}: {error.strerror}; nothing is left of it"
        ) from error
    seconds, tokens = time.monotonic() - begun, meta.train + meta.val
    end = "" if chosen.eot is None else f"; documents end with token {chosen.eot:,}"
    size = sum((folder / name).stat().st_size for name in ("train.bin", "val.bin"))
    lines = (
        f"tokens     {meta.train:,} training and {meta.val:,} validation tokens, {size / 1e6:,.1f} MB",
        f"tokenizer  {chosen.name}, {chosen.vocab_size:,} tokens{end}",
        f"speed      {watch.read / 1e6:,.1f} MB read in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s{_memory()}",
        f"sha256     {meta.sha256}",
        *([f"text       {replacements(watch.replaced)}"] if watch.replaced else []),
        f"next       {line('train', '--data', folder)}",
    )
    record = {"folder": show(folder), "training": meta.train, "validation": meta.val, "vocab_size": chosen.vocab_size}
    record |= {"tokenizer": chosen.name, "sha256": meta.sha256, "seconds": seconds, "replaced": watch.replaced}
    answer.note("\n".join(lines), record)
    return 0


def _of_text(found: Text, word: str, watch: Watch) -> tuple[Tokenizer, Iterable, Iterable | None]:
    from minigpt_flax.data import READY_MADE, TOKENIZERS, encode, running
    from minigpt_flax.spec import bind, parse

    parsed = parse(word, "tokenizer")
    learned = "" if parsed.name in READY_MADE else running(watch.over(found.read(), "learning", found.size))
    tokenizer = bind(parsed, TOKENIZERS, "tokenizer", learned)
    training = encode(tokenizer, watch.over(found.read(), ENCODING, found.size))
    apart = None if found.validation is None else encode(tokenizer, watch.over(found.validation(), ENCODING, None))
    return tokenizer, training, apart


def _of_tokens(found: Binary, word: str, watch: Watch) -> tuple[Tokenizer, Iterable, Iterable | None]:
    from minigpt_flax.data import load_corpus
    from minigpt_flax.train.dataset import choose_tokenizer

    tokenizer = choose_tokenizer([load_corpus(found.name)], word)

    def copy(tokens: Any) -> Iterator[Any]:
        import numpy as np

        checked = tokens.within(tokenizer.vocab_size)
        return (np.asarray(checked[i : i + CHUNK]) for i in range(0, len(checked), CHUNK))

    size = len(found.tokens) * found.tokens.dtype.itemsize
    training = watch.arrays(copy(found.tokens), "copying", size)
    return tokenizer, training, None if found.validation is None else copy(found.validation)


class Watch:
    """Shows how far a stream is read: a bar with the time left in a terminal, elsewhere a line now and then.

    Args:
      shown: whether anybody wants to know.

    Attributes:
      read: bytes of the source, of the last pass over it.
      replaced: lone surrogates that became U+FFFD in what was encoded.
    """

    def __init__(self, shown: bool):
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(highlight=False, soft_wrap=True, quiet=not shown)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(20),
            DownloadColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(
            *columns, console=self.console, transient=True, disable=not (shown and self.console.is_terminal)
        )
        self.read = self.replaced = 0

    def __enter__(self) -> Watch:
        """Begins."""
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        """Clears the bar away."""
        self.bar.stop()

    def over(self, pieces: Iterable[Piece], what: str, size: int | None) -> Iterator[Piece]:
        """Passes on pieces of documents, of ``size`` bytes together where that is known."""
        return self._pass(((piece, piece.size) for piece in self._counted(pieces, what)), what, size)

    def _counted(self, pieces: Iterable[Piece], what: str) -> Iterator[Piece]:
        for piece in pieces:
            self.replaced += piece.replaced if what == ENCODING else 0  # learning reads the same text
            yield piece

    def arrays(self, arrays: Iterable[Any], what: str, size: int) -> Iterator[Any]:
        """Passes on arrays, of ``size`` bytes together."""
        return self._pass(((array, array.nbytes) for array in arrays), what, size)

    def _pass(self, items: Iterable[tuple[Any, int]], what: str, size: int | None) -> Iterator[Any]:
        task = self.bar.add_task(f"{what:9s}", total=size)
        begun = shown = time.monotonic()
        self.read = 0
        for item, count in items:
            yield item
            self.read += count
            self.bar.update(task, completed=self.read)
            now = time.monotonic()
            if now - shown > PATIENCE and not self.console.is_terminal:
                shown = now
                self.console.print(f"{what:9s}  {self._line(size, now - begun)}")
        self.bar.remove_task(task)

    def _line(self, size: int | None, seconds: float) -> str:
        from minigpt_flax.train.clock import spell

        text = f"{self.read / 1e6:,.0f} MB"
        return f"{text} of {size / 1e6:,.0f}, {spell(seconds * (size / self.read - 1))} left" if size else text


def _memory() -> str:
    """The most memory that this process has had."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f", peak memory {peak * (1 if sys.platform == 'darwin' else 1024) / 1e6:,.0f} MB"
