"""Data to train on: a built-in corpus by name, or a source or a prepared folder by path.

A corpus is either documents, for a tokenizer to cut, or tokens that somebody has cut already. To add a built-in corpus,
write a function that yields its documents and put it into `CORPORA`; sources are in `sources.py`.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from minigpt_flax.data.documents import Piece, joined, read_text, stripped, whole
from minigpt_flax.data.prepared import is_prepared, open_prepared
from minigpt_flax.data.sources import Binary, Missing, Text, expanded, open_source
from minigpt_flax.data.token_files import Format, TokenFiles, fingerprint
from minigpt_flax.data.tokenizers import Tokenizer
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.invocation import show


@dataclass(frozen=True)
class Corpus:
    """Data to train on: documents or tokens, never both.

    Attributes:
        name: what the source was called: a word of `CORPORA`, or the path as given.
        documents: the documents, None for data that is tokens already.
        tokens: the tokens, memory-mapped; None for data that is text.
        sha256: hash in hexadecimal: of the text; of what `prepare` wrote; or of the fingerprints of ``.bin`` files.
        sources: the files or documents that the data was joined from, in order.
        val_documents: documents to validate on; None leaves it to a split.
        val_tokens: tokens to validate on; None leaves it to a split.
        tokenizer: what made the tokens, if it is at hand.
        format: of the token files, where they say it.
        replaced: lone surrogates of the source that became U+FFFD.
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

    @cached_property
    def text(self) -> str | None:
        """The whole text, None for data that is tokens already."""
        return None if self.documents is None else "".join(joined(map(whole, self.documents)))


def load_corpus(source: str) -> Corpus:
    """Loads a corpus by name or by path.

    Args:
        source: a name in `CORPORA` (a name wins over a file of the same name, which is still reached as ``./name``); a
            folder that `prepare` made; or what `open_source` takes.

    Returns:
        The corpus. Text is in memory, tokens are memory-mapped.

    Raises:
        UserError: the source does not exist, cannot be read, is empty, or is damaged.
    """
    try:
        if is_prepared(expanded(source)) and source not in CORPORA:
            return _of_prepared(source)
        found = open_corpus(source)
        return _of_tokens(found) if isinstance(found, Binary) else _of_text(found)
    except OSError as error:
        raise _unreadable(source, error) from error


def _unreadable(source: str, error: OSError) -> UserError:
    return UserError(f"can't read {show(error.filename or source)}: {error.strerror}")


def open_corpus(source: str) -> Text | Binary:
    """Opens a built-in corpus by name, or a source by path, without loading it.

    Raises:
        UserError: there is none, it cannot be used, or it is prepared already.
    """
    if source in CORPORA:
        return CORPORA[source]()
    if is_prepared(expanded(source)):
        raise UserError(f"the folder {source!r} is prepared already: train on it with --data {source}")
    try:
        return open_source(source)
    except OSError as error:
        raise _unreadable(source, error) from error
    except Missing as error:
        raise UserError(
            f"no corpus and no file or folder {source!r}{nearest(source, CORPORA)}; corpora: {', '.join(CORPORA)}; or "
            "give a text file, a folder, a pattern such as 'books/*.txt', a .jsonl or .bin file, or hf:NAME"
        ) from error


def _of_text(found: Text) -> Corpus:
    documents, replaced = _documents(found.read())
    if not any(text.strip() for text in documents):
        raise UserError(f"{found.name!r} has no text; give one with text to learn from")
    apart, more = (None, 0) if found.validation is None else _documents(found.validation())
    digest = hashlib.sha256()
    for text in [*joined(map(whole, documents)), *joined(map(whole, apart or ()))]:
        digest.update(text.encode())
    return Corpus(
        found.name, documents, None, digest.hexdigest(), found.parts, val_documents=apart, replaced=replaced + more
    )


def _documents(pieces: Iterable[Piece]) -> tuple[tuple[str, ...], int]:
    """The documents, and how many lone surrogates were replaced in them."""
    documents, parts, replaced = [], [], 0
    for piece in pieces:
        parts.append(piece.text)
        replaced += piece.replaced
        if piece.ends:
            documents.append("".join(parts))
            parts = []
    return tuple(documents), replaced


def _of_tokens(found: Binary) -> Corpus:
    prints = [fingerprint(file) for file in found.files + found.validation_files]
    digest = hashlib.sha256("".join(prints).encode()).hexdigest()
    files = tuple(map(str, found.files))
    return Corpus(found.name, None, found.tokens, digest, files, val_tokens=found.validation, format=found.format)


def _of_prepared(source: str) -> Corpus:
    found = open_prepared(source)
    apart, tokenizer = found.validation, found.tokenizer
    return Corpus(source, None, found.tokens, found.sha256, (source,), val_tokens=apart, tokenizer=tokenizer)


def pydocs() -> Text:
    """The reference of the Python language that is inside every CPython: about 0.4 MB of English.

    The topics of ``help()``, in the order of their names. They quote one another at length, so each
    paragraph is kept only where it first appears: otherwise the model would be validated on
    text that it has been trained on. The text differs between versions of Python.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError(
            "this Python was installed without its documentation (pydoc_data), so there is no "
            "corpus 'pydocs'; use --data stdlib or a text file"
        ) from error
    names = tuple(sorted(topics))

    def read() -> Iterator[Piece]:
        seen: set[str] = set()
        yield from stripped(whole(_unseen_paragraphs(topics[name], seen)) for name in names)

    return Text("pydocs", names, read, sum(len(topics[name].encode()) for name in names))


def stdlib() -> Text:
    """The sources of the standard library's top-level modules: about 5 MB of Python.

    Only what `sys.stdlib_module_names` lists, so that nothing gets in that this machine added.
    The text differs between versions of Python.
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
            yield from stripped(read_text(file))

    return Text("stdlib", tuple(file.name for file in files), read, sum(file.stat().st_size for file in files))


CORPORA: dict[str, Callable[[], Text]] = {f.__name__: f for f in (pydocs, stdlib)}


def _unseen_paragraphs(text: str, seen: set[str]) -> str:
    """The paragraphs of `text` that are not in `seen`, which they join."""
    kept = []
    for paragraph in text.strip().split("\n\n"):
        if paragraph not in seen:
            seen.add(paragraph)
            kept.append(paragraph)
    return "\n\n".join(kept)
