"""Sources, the values of ``--data``: a file, a folder, a glob or a Hugging Face dataset, as documents or as tokens.

Opening a source loads nothing: documents are streamed, tokens are memory-mapped.
"""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from minigpt_flax.data.documents import FIELD, Piece, read_jsonl, read_text, record_piece, strip_documents
from minigpt_flax.data.token_files import Format, TokenFiles, read_bin
from minigpt_flax.errors import UserError
from minigpt_flax.runs.schema import size_of

TEXT_SUFFIXES = (".md", ".py", ".rst", ".tex", ".txt")
"""Suffixes of the files that are read from a folder of text."""
HUB = "hf:"
BIN = ".bin"
Stream = Callable[[], Iterator[Piece]]


class SourceNotFound(UserError):
    """There is no such file or folder."""


@dataclass(frozen=True)
class TextSource:
    """A source of documents.

    Attributes:
      name: the source as given.
      parts: files or documents that it consists of, in order.
      read: starts reading the documents.
      size: number of bytes to read; None if unknown.
      validation: starts reading the validation documents; None if the source has none.
    """

    name: str
    parts: tuple[str, ...]
    read: Stream
    size: int | None = None
    validation: Stream | None = None


@dataclass(frozen=True)
class TokenSource:
    """A source of tokens.

    Attributes:
      name: the source as given.
      files: files of the training tokens, in order.
      tokens: tokens of these files.
      validation_files: files of the validation tokens, if any.
      validation: validation tokens, or None.
      format: format of the files; None if they have no header.
    """

    name: str
    files: tuple[Path, ...]
    tokens: TokenFiles
    validation_files: tuple[Path, ...] = ()
    validation: TokenFiles | None = None
    format: Format | None = None


def open_source(source: str) -> TextSource | TokenSource:
    """Open a source.

    Args:
      source: a text file; a folder of text files (`TEXT_SUFFIXES`; including subfolders, excluding hidden files) or of
        ``.bin`` files; a ``.jsonl`` file; a ``.bin`` file of nanoGPT or llm.c; a glob of files, such as
        ``books/*.txt``; or ``hf:NAME`` or ``hf:NAME:CONFIG``, a Hugging Face dataset. ``SOURCE#FIELD`` names the field
        of JSON records, or the column of a dataset, that contains the text.

    Returns:
      Its documents or tokens. Validation data comes from files beside ``train`` files with ``val`` in their names
      instead, or from the split ``validation`` of a dataset; it may be None.

    Raises:
      UserError: the source does not exist, or is empty, damaged or mixed.
    """
    path, field = expand_path(source), None
    if "#" in source and not os.path.lexists(path):
        source_path, _, field = source.rpartition("#")
        path = expand_path(source_path)
    if source.startswith(HUB):
        return _hugging_face(source, source.removeprefix(HUB).removesuffix(f"#{field}"), field)
    if path.is_dir():
        return _folder(source, path)
    files = [path] if os.path.lexists(path) else [file for file in sorted(_matching(path)) if file.is_file()]
    if not files:
        raise _absent(source, path)
    for file in files:
        size_of(file)  # refuses a pipe, a device or a dangling link
    return _binary(source, files) if any(_is_bin(file) for file in files) else _text(source, files, field)


def expand_path(source: str) -> Path:
    """Return the path of a source, with ``~`` expanded; for an unknown user it is unchanged, as in a shell.

    Raises:
      UserError: the name is empty, which would mean the working directory.
    """
    if not source.strip():
        raise UserError("--data is empty: give a corpus, a file, a folder, a pattern such as 'books/*.txt', or hf:NAME")
    return Path(os.path.expanduser(source))


def _matching(path: Path) -> Iterator[Path]:
    """Yield the files that match a glob. Its longest prefix that exists as a folder is taken literally."""
    parent = next((above for above in path.parents if os.path.lexists(above)), Path())
    for name in glob.iglob(str(path.relative_to(parent)), root_dir=parent, recursive=True):
        yield parent / name


def _absent(source: str, path: Path) -> UserError:
    if glob.has_magic(str(path)):
        return UserError(f"no file matches {source!r}; patterns are relative to the folder '{Path.cwd()}'")
    return SourceNotFound(f"no file or folder {source!r}")


def _folder(source: str, folder: Path) -> TextSource | TokenSource:
    """Open the ``.bin`` files in a folder, or else every text file in it and its subfolders."""
    tokens = sorted(file for file in folder.iterdir() if _is_bin(file) and file.is_file())
    if tokens:
        return _binary(source, tokens)
    names = sorted(_texts_below(folder))
    found = _text(source, [folder / name for name in names], None, names)
    if not any(piece.text.strip() for piece in found.read()):
        raise UserError(
            f"the folder {source!r} has no text: no file with a suffix of {' '.join(TEXT_SUFFIXES)} has any (and there "
            "is no .bin file); give another folder, or a pattern such as 'folder/*.jsonl'"
        )
    return found


def _texts_below(folder: Path) -> Iterator[str]:
    """Yield the paths of the text files in a folder and its subfolders, relative to it, excluding hidden ones.

    Raises:
      OSError: a folder can't be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    for above, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            file = Path(above, name)
            if file.suffix.lower() in TEXT_SUFFIXES and not name.startswith(".") and file.is_file():
                yield file.relative_to(folder).as_posix()


def _text(source: str, files: list[Path], field: str | None, names: list[str] | None = None) -> TextSource:
    """Open text files: a single one unchanged, several without the newlines at their ends."""
    records = [file for file in files if file.suffix.lower() == ".jsonl"]
    if field is not None and not records:
        raise UserError(f"{source!r} names the field {field!r}, but only .jsonl files and {HUB} datasets have fields")

    def read() -> Iterator[Piece]:
        for file in files:
            if file in records:
                yield from read_jsonl(file, field or FIELD)
            else:
                yield from read_text(file) if len(files) == 1 and not names else strip_documents(read_text(file))

    return TextSource(source, tuple(names or map(str, files)), read, sum(file.stat().st_size for file in files))


def _is_bin(file: Path) -> bool:
    return file.suffix.lower() == BIN


def _is_validation(file: Path) -> bool:
    """Return whether a file has validation tokens, such as ``val.bin`` or ``fineweb_val_000000.bin``."""
    return re.search(r"(^|[^a-z])val([^a-z]|$)", file.name.lower()) is not None


def _beside(files: list[Path]) -> list[Path]:
    """Return the validation files of training files: the same names, except for ``val`` and the shard number."""
    found = set()
    for file in files:
        if "train" in file.name:
            pattern = re.sub(r"\d+", "*", glob.escape(file.name).replace("train", "val"))
            found |= set(file.parent.glob(pattern))
    return sorted(found)


def _binary(source: str, files: list[Path]) -> TokenSource:
    others = [file for file in files if not _is_bin(file)]
    if others:
        raise UserError(f"{source!r} mixes tokens (.bin) and text ('{others[0]}'): give each its own --data")
    training = [file for file in files if not _is_validation(file)] or files
    validation = [file for file in files if file not in training] or _beside(training)
    read = [read_bin(file) for file in training + validation]
    forms = {form for _, form in read}
    if len(forms) > 1:
        raise UserError(
            f"{source!r} has .bin files of several formats (with and without llm.c's header): give each its own --data"
        )
    parts = [tokens for tokens, _ in read]
    tokens = TokenFiles(parts[: len(training)], source)
    held_out = TokenFiles(parts[len(training) :], source) if validation else None
    return TokenSource(source, tuple(training), tokens, tuple(validation), held_out, forms.pop())


def _hugging_face(source: str, name: str, field: str | None) -> TextSource:
    """Open a dataset of the Hugging Face Hub, or of a local folder, as a stream: ``NAME`` or ``NAME:CONFIG``."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{source!r} needs the package datasets: pip install datasets") from error
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every failed attempt
    name, _, config = name.partition(":")
    try:
        found: Any = datasets.load_dataset(name, config or None, streaming=True)
    except Exception as error:  # of the network, the hub, the dataset or a parser, without a common base class
        raise UserError(
            f"can't open the Hugging Face dataset {name!r} ({_reason(error)}); check the name and the network, or give "
            "a file"
        ) from error
    if "train" not in found:
        raise UserError(f"the dataset {name!r} has no split 'train'; it has: {', '.join(found)}")
    read = {split: partial(_rows, rows, field or FIELD, name) for split, rows in found.items()}
    return TextSource(source, (name,), read["train"], None, read.get("validation"))


def _rows(rows: Any, field: str, name: str) -> Iterator[Piece]:
    number, rows = -1, iter(rows)
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # of the network, a decompressor or a parser, without a common base class
            raise UserError(f"can't read the dataset {name!r} after row {number}: {_reason(error)}") from error
        if row is None:
            return
        number += 1
        yield record_piece(row, field, f"the dataset {name!r}, row {number},")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
