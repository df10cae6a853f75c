"""Where the training text comes from: a built-in corpus by name, or a file or folder by path.

A corpus is either text, for a tokenizer to cut, or tokens that somebody has cut already. To add a
built-in corpus, write a function that returns a `Corpus` and put it into `CORPORA`; to add a file
format, put its reader into `_READERS`.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from minigpt_flax.errors import UserError, nearest

TEXT_SUFFIXES = (".md", ".py", ".rst", ".tex", ".txt")
"""The files that are read when the source is a folder."""


@dataclass(frozen=True)
class Corpus:
    """Data to train on: `text` or `tokens`, never both.

    Attributes:
        name: what the source was called: a word of `CORPORA`, or the path as given.
        text: the whole text, None for data that is tokens already.
        tokens: the tokens, memory-mapped; None for data that is text.
        sha256: hash of the bytes used, in hexadecimal. Two runs with equal hashes saw equal data.
        sources: the files or documents that the data was joined from, in order.
    """

    name: str
    text: str | None
    tokens: UInt16[np.ndarray, " tokens"] | None
    sha256: str
    sources: tuple[str, ...]


def load_corpus(source: str) -> Corpus:
    """Loads a corpus by name or by path.

    Args:
        source: a name in `CORPORA` (a name wins over a file of the same name, which is still
            reached as ``./name``); or a UTF-8 text file; or a folder, of which every file that
            ends in one of `TEXT_SUFFIXES` is read, subfolders included and hidden ones not, in the
            order of their paths; or a nanoGPT ``.bin`` file of little-endian uint16 tokens.

    Returns:
        The corpus.

    Raises:
        UserError: the source does not exist, cannot be read, is empty, is not UTF-8 text, or
            (``.bin``) is not a whole number of tokens.
    """
    if source in CORPORA:
        return CORPORA[source]()
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return _read_folder(source, path)
        if path.is_file():
            return _READERS.get(path.suffix.lower(), _read_text)(source, path)
    except OSError as error:
        raise UserError(f"cannot read {error.filename or source}: {error.strerror}") from error
    raise UserError(
        f"no corpus and no file or folder {source!r}{nearest(source, CORPORA)}; corpora: "
        f"{', '.join(CORPORA)}; or give a text file, a folder of text files or a nanoGPT .bin file"
    )


def pydocs() -> Corpus:
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
    seen: set[str] = set()
    documents = (_unseen_paragraphs(topics[name], seen) for name in names)
    return _joined("pydocs", names, (text for text in documents if text))


def stdlib() -> Corpus:
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
    names = tuple(file.name for file in files)
    return _joined("stdlib", names, (_decode(file, file.read_bytes()) for file in files))


CORPORA: dict[str, Callable[[], Corpus]] = {f.__name__: f for f in (pydocs, stdlib)}


def _unseen_paragraphs(text: str, seen: set[str]) -> str:
    """The paragraphs of `text` that are not in `seen`, which they join."""
    kept = []
    for paragraph in text.strip().split("\n\n"):
        if paragraph not in seen:
            seen.add(paragraph)
            kept.append(paragraph)
    return "\n\n".join(kept)


def _joined(name: str, sources: tuple[str, ...], texts: Iterable[str]) -> Corpus:
    """One corpus of several documents, two empty lines apart."""
    text = "\n\n\n".join(text.strip("\n") for text in texts) + "\n"
    return Corpus(name, text, None, hashlib.sha256(text.encode()).hexdigest(), sources)


def _read_folder(source: str, folder: Path) -> Corpus:
    """Every text file below `folder`."""
    names = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.suffix.lower() in TEXT_SUFFIXES and file.is_file()
    )
    names = [name for name in names if not any(part[0] == "." for part in name.split("/"))]
    texts = [_decode(folder / name, (folder / name).read_bytes()) for name in names]
    if not any(text.strip() for text in texts):
        raise UserError(
            f"the folder {source!r} has no text: no file in it that ends in one of "
            f"{' '.join(TEXT_SUFFIXES)} has any; give another folder or a single file"
        )
    return _joined(source, tuple(names), texts)


def _read_text(source: str, path: Path) -> Corpus:
    """One text file, byte for byte."""
    data = path.read_bytes()
    text = _decode(path, data)
    if not text.strip():
        raise UserError(f"the file {source!r} has no text; give one with text to learn from")
    return Corpus(source, text, None, hashlib.sha256(data).hexdigest(), (source,))


def _read_nanogpt(source: str, path: Path) -> Corpus:
    """The tokens of a nanoGPT ``.bin``: uint16 and nothing else; its pickle is not opened."""
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"the file {source!r} is empty; prepare it again")
    if size % 2:
        raise UserError(
            f"the file {source!r} has {size} bytes, an odd number, so it is not a whole number of "
            "uint16 tokens; it is cut short or no nanoGPT .bin file: prepare it again"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Corpus(source, None, np.memmap(path, dtype="<u2", mode="r"), digest, (source,))


_READERS: dict[str, Callable[[str, Path], Corpus]] = {".bin": _read_nanogpt}


def _decode(path: Path, data: bytes) -> str:
    """UTF-8 bytes as text; refuses bytes of another encoding, and NUL, which no text has."""
    if b"\0" in data:
        raise UserError(
            f"the file '{path}' is binary or UTF-16, not UTF-8 text (byte 0x00 at byte "
            f"{data.index(0)}); give UTF-8 text"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"the file '{path}' is not UTF-8 (byte 0x{data[error.start]:02x} at byte "
            f"{error.start}); convert it first, perhaps with iconv -f latin1 -t utf-8"
        ) from error
