"""Load training data: a built-in corpus by name, or a source or a prepared folder by path.

A corpus consists of documents, to be tokenized, or of tokens. To add a built-in corpus, write a function that yields
its documents and add it to `CORPORA`; `sources.py` opens files and datasets.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from minigpt_flax.data.documents import Piece, join_documents, read_text, single_piece, strip_documents
from minigpt_flax.data.prepared import is_prepared, open_prepared
from minigpt_flax.data.sources import HUB, SourceNotFound, TextSource, TokenSource, expand_path, open_source
from minigpt_flax.data.token_files import Format, TokenFiles, fingerprint
from minigpt_flax.data.tokenizers import Tokenizer
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.invocation import show


@dataclass(frozen=True)
class Corpus:
    """Training data: documents or tokens, never both.

    Attributes:
      name: name of the source: a name in `CORPORA`, or the path as given.
      documents: the documents; None if the data is tokens.
      tokens: the tokens, memory-mapped; None if the data is text.
      sha256: hexadecimal hash: of the text, of the prepared tokens, or of the fingerprints of ``.bin`` files.
      sources: files or documents that the data consists of, in order.
      val_documents: validation documents; None means that `split` makes the validation split.
      val_tokens: validation tokens; None means that `split` makes the validation split.
      tokenizer: tokenizer of the tokens, if available.
      format: format of the token files, if they have a header.
      replaced: number of lone surrogates of the source that were replaced by U+FFFD.
      notes: what a user should know about the source, one line each.
    """

    name: str
    documents: tuple[str, ...] | None
    tokens: TokenFiles | None
    sha256: str
    sources: tuple[str, ...]
    val_documents: tuple[str, ...] | None = None
    val_tokens: TokenFiles | None = None
    tokenizer: Tokenizer | None = None
    format: Format | None = None
    replaced: int = 0
    notes: tuple[str, ...] = ()

    @cached_property
    def text(self) -> str | None:
        """The whole text; None if the data is tokens."""
        return None if self.documents is None else "".join(join_documents(map(single_piece, self.documents)))


def load_corpus(source: str) -> Corpus:
    """Load a corpus by name or by path.

    Args:
      source: a name in `CORPORA` (which takes precedence over a file of that name; write ``./name`` for the file); a
        prepared folder; or a source of `open_source`.

    Returns:
      The corpus. Text is in memory, tokens are memory-mapped.

    Raises:
      UserError: the source does not exist, can't be read, is empty, or is damaged.
    """
    try:
        if is_prepared(expand_path(source)) and source not in CORPORA:
            return _of_prepared(source)
        found = open_corpus(source)
        return _of_tokens(found) if isinstance(found, TokenSource) else _of_text(found)
    except OSError as error:
        raise _unreadable(source, error) from error


def is_text(source: str) -> bool:
    """Return whether a corpus or source consists of text, not of tokens; opens its files, but reads no text.

    Raises:
      UserError: see `open_corpus`.
    """
    if source.startswith(HUB):
        return True
    if is_prepared(expand_path(source)) and source not in CORPORA:
        return False
    return isinstance(open_corpus(source), TextSource)


def _unreadable(source: str, error: OSError) -> UserError:
    return UserError(f"can't read {show(error.filename or source)}: {error.strerror}")


def open_corpus(source: str) -> TextSource | TokenSource:
    """Open a built-in corpus by name, or a source by path, without loading it.

    Raises:
      UserError: it does not exist, can't be used, or is a prepared folder.
    """
    if source in CORPORA:
        return CORPORA[source]()
    if is_prepared(expand_path(source)):
        raise UserError(f"the folder {source!r} is already prepared: train on it with --data {source}")
    try:
        return open_source(source)
    except OSError as error:
        raise _unreadable(source, error) from error
    except SourceNotFound as error:
        raise UserError(
            f"no corpus and no file or folder {source!r}{nearest(source, CORPORA)}; corpora: {', '.join(CORPORA)}; or "
            "give a text file, a folder, a pattern such as 'books/*.txt', a .jsonl or .bin file, or hf:NAME"
        ) from error


def _of_text(found: TextSource) -> Corpus:
    documents, replaced = _documents(found.read())
    if not any(text.strip() for text in documents):
        raise UserError(f"{found.name!r} has no text; give one with text to learn from")
    val, more = (None, 0) if found.validation is None else _documents(found.validation())
    digest = hashlib.sha256()
    for text in [*join_documents(map(single_piece, documents)), *join_documents(map(single_piece, val or ()))]:
        digest.update(text.encode())
    counts: dict[str, Any] = {"replaced": replaced + more, "notes": found.notes}
    return Corpus(found.name, documents, None, digest.hexdigest(), found.parts, val_documents=val, **counts)


def _documents(pieces: Iterable[Piece]) -> tuple[tuple[str, ...], int]:
    """Join pieces to documents; also return the number of replaced lone surrogates."""
    documents, parts, replaced = [], [], 0
    for piece in pieces:
        parts.append(piece.text)
        replaced += piece.replaced
        if piece.ends:
            documents.append("".join(parts))
            parts = []
    return tuple(documents), replaced


def _of_tokens(found: TokenSource) -> Corpus:
    prints = [fingerprint(file) for file in found.files + found.validation_files]
    digest = hashlib.sha256("".join(prints).encode()).hexdigest()
    files = tuple(map(str, found.files))
    known: dict[str, Any] = {"val_tokens": found.validation, "format": found.format, "tokenizer": found.tokenizer}
    known |= {"notes": found.notes}
    return Corpus(found.name, None, found.tokens, digest, files, **known)


def _of_prepared(source: str) -> Corpus:
    found = open_prepared(source)
    val, tokenizer = found.validation, found.tokenizer
    return Corpus(source, None, found.tokens, found.sha256, (source,), val_tokens=val, tokenizer=tokenizer)


def pydocs() -> TextSource:
    """Reference of the Python language, included in every CPython: about 0.4 MB of English.

    The topics of ``help()``, in the order of their names. They quote one another at length, so each paragraph is kept
    only where it first appears: otherwise the validation split would contain text of the training split. The text
    differs between versions of Python.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError(
            "this Python was installed without its documentation (pydoc_data), so there is no corpus 'pydocs'; use "
            "--data stdlib or a text file"
        ) from error
    names = tuple(sorted(topics))

    def read() -> Iterator[Piece]:
        seen: set[str] = set()
        yield from strip_documents(single_piece(_unseen_paragraphs(topics[name], seen)) for name in names)

    return TextSource("pydocs", names, read, sum(len(topics[name].encode()) for name in names))


def stdlib() -> TextSource:
    """Source code of the standard library's top-level modules: about 5 MB of Python.

    Only modules in `sys.stdlib_module_names`, so that packages installed on this machine are not included. The text
    differs between versions of Python.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    files = [folder / f"{name}.py" for name in sorted(sys.stdlib_module_names)]
    files = [file for file in files if file.is_file()]
    if not files:
        raise UserError(
            f"no sources of the standard library in {folder}, so there is no corpus 'stdlib'; "
            "use --data pydocs or a text file"
        )

    def read() -> Iterator[Piece]:
        for file in files:
            yield from strip_documents(read_text(file))

    return TextSource("stdlib", tuple(file.name for file in files), read, sum(file.stat().st_size for file in files))


CORPORA: dict[str, Callable[[], TextSource]] = {f.__name__: f for f in (pydocs, stdlib)}


def _unseen_paragraphs(text: str, seen: set[str]) -> str:
    """Return the paragraphs of `text` that are not in `seen`, and add them to it."""
    kept = []
    for paragraph in text.strip().split("\n\n"):
        if paragraph not in seen:
            seen.add(paragraph)
            kept.append(paragraph)
    return "\n\n".join(kept)
