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

from minigpt_flax.data.compressed import COMPRESSED, suffix_of
from minigpt_flax.data.documents import FIELD, Piece, read_text, record_piece, strip_documents
from minigpt_flax.data.records import RECORDS
from minigpt_flax.data.token_files import HEADERLESS, Format, TokenFiles, has_header, read_bin
from minigpt_flax.data.tokenizers import Tokenizer
from minigpt_flax.data.tokenizers.nanogpt import META, read_meta_pickle
from minigpt_flax.errors import UserError
from minigpt_flax.runs.schema import size_of

TEXT_SUFFIXES = (".md", ".py", ".rst", ".tex", ".txt")
"""Suffixes of the files that are read from a folder of text, beside those of `LINES`."""
LINES = (".jsonl", ".ndjson", ".parquet")
"""Suffixes of records that are always documents; in a folder, others are read only if there is nothing else."""
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
ARRAYS = (".npy", ".npz")
MARKUP = (".htm", ".html", ".ipynb", ".rtf", ".svg", ".xml")
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
      notes: what a user should know about the source, one line each.
    """

    name: str
    parts: tuple[str, ...]
    read: Stream
    size: int | None = None
    validation: Stream | None = None
    notes: tuple[str, ...] = ()


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
      tokenizer: tokenizer of the tokens, if it lies beside them.
      notes: what a user should know about the source, one line each.
    """

    name: str
    files: tuple[Path, ...]
    tokens: TokenFiles
    validation_files: tuple[Path, ...] = ()
    validation: TokenFiles | None = None
    format: Format | None = None
    tokenizer: Tokenizer | None = None
    notes: tuple[str, ...] = ()


def open_source(source: str) -> TextSource | TokenSource:
    """Open a source.

    Args:
      source: a text file; a folder of text files (`TEXT_SUFFIXES` and `LINES`; including subfolders, excluding hidden
        files) or of ``.bin`` files; a file of `RECORDS`; either of them compressed (`COMPRESSED`); a ``.bin`` file of
        nanoGPT or llm.c; a glob of files, such as ``books/*.txt``; or ``hf:NAME`` or ``hf:NAME:CONFIG``, a Hugging Face
        dataset or a folder of one. ``SOURCE#FIELD`` names the field or column of records that contains the text, or the
        dtype of a ``.bin`` file without a header (`HEADERLESS`).

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
        return _folder(source, path, field)
    files = [path] if os.path.lexists(path) else [file for file in sorted(_matching(path)) if file.is_file()]
    if not files:
        raise _absent(source, path)
    for file in files:
        if file.is_symlink() and not os.path.exists(file):
            raise UserError(f"'{file}' is a link to {os.readlink(file)!r}, which can't be opened")
        size_of(file)  # refuses a pipe or a device
    if any(_is_bin(file) for file in files):
        return _binary(source, files, field)
    found = _text(source, files, field)
    if not any(piece.text.strip() for piece in found.read()):
        raise UserError(f"{source!r} has no text: give another file")
    return found


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


def _folder(source: str, folder: Path, field: str | None) -> TextSource | TokenSource:
    """Open the ``.bin`` files in a folder, or else every text file in it and its subfolders."""
    tokens = sorted(file for file in folder.iterdir() if _is_bin(file) and file.is_file())
    suffixes = {name: suffix_of(Path(name)) for name in sorted(_files_below(folder))}
    names = [name for name, suffix in suffixes.items() if suffix in (*TEXT_SUFFIXES, *LINES)]
    if tokens:
        if names and not all(_is_token_file(file) for file in tokens):
            raise UserError(
                f"the folder {source!r} has text ('{names[0]}') and .bin files whose names don't say train or val "
                f"('{tokens[0].name}'): give the one you mean, such as '{folder}/*{suffixes[names[0]]}'"
            )
        return _binary(source, tokens, field)
    others = [name for name, suffix in suffixes.items() if suffix in RECORDS and name not in names]
    notes = _left_out(folder, others) if names and others else ()
    names = names or others
    found = _text(source, [folder / name for name in names], field, names, notes)
    if not names or not any(piece.text.strip() for piece in found.read()):
        raise UserError(
            f"the folder {source!r} has no text: no file with a suffix of {' '.join((*TEXT_SUFFIXES, *RECORDS))} has "
            "any (and there is no .bin file); give another folder, or a pattern such as 'folder/*.log'"
        )
    return found


def _left_out(folder: Path, names: list[str]) -> tuple[str, ...]:
    suffix = suffix_of(Path(names[0]))
    return (f"{len(names)} files such as {names[0]} left out beside text; --data '{folder}/*{suffix}' reads them",)


def _files_below(folder: Path) -> Iterator[str]:
    """Yield the paths of the files in a folder and its subfolders, relative to it, excluding hidden ones.

    Raises:
      OSError: a folder can't be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    for above, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            file = Path(above, name)
            if not name.startswith(".") and file.is_file():
                yield file.relative_to(folder).as_posix()


def _text(
    source: str, files: list[Path], field: str | None, names: list[str] | None = None, notes: tuple[str, ...] = ()
) -> TextSource:
    """Open text files: a single one unchanged, several without the newlines at their ends."""
    if archives := [file for file in files if file.suffix.lower() in ARCHIVES or suffix_of(file) in ARCHIVES]:
        raise UserError(f"'{archives[0]}' is an archive of files: unpack it, and give its folder")
    if arrays := [file for file in files if file.suffix.lower() in ARRAYS]:
        raise UserError(
            f"'{arrays[0]}' is a NumPy file: write its tokens to a .bin file, array.astype('uint16').tofile('x.bin')"
        )
    if marked := [file for file in files if suffix_of(file) in MARKUP]:
        notes += (f"'{marked[0]}' is read as it is, with its markup",)
    if field is not None and not any(suffix_of(file) in RECORDS for file in files):
        raise UserError(
            f"{source!r} names the field {field!r}, but only records ({' '.join(RECORDS)}) and {HUB} datasets have "
            "fields"
        )

    def read() -> Iterator[Piece]:
        for file in files:
            if (reader := RECORDS.get(suffix_of(file))) is not None:
                yield from reader(file, field or FIELD)
            else:
                yield from read_text(file) if len(files) == 1 and not names else strip_documents(read_text(file))

    plain = not any(file.suffix.lower() in (*COMPRESSED, ".parquet") for file in files)
    size = sum(file.stat().st_size for file in files) if plain else None
    return TextSource(source, tuple(names or map(str, files)), read, size, notes=notes)


def _is_bin(file: Path) -> bool:
    return suffix_of(file) == BIN


def _is_token_file(file: Path) -> bool:
    """Return whether a ``.bin`` file is one of tokens by its name or header."""
    return (
        _is_validation(file)
        or re.search(r"(^|[^a-z])train([^a-z]|$)", file.name.lower()) is not None
        or (has_header(file))
    )


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


def _binary(source: str, files: list[Path], dtype: str | None) -> TokenSource:
    if others := [file for file in files if not _is_bin(file)]:
        raise UserError(f"{source!r} mixes tokens (.bin) and text ('{others[0]}'): give each its own --data")
    if packed := [file for file in files if file.suffix.lower() in COMPRESSED]:
        raise UserError(f"'{packed[0]}' is compressed, and tokens are memory-mapped: decompress it first")
    if dtype not in (None, *HEADERLESS):
        raise UserError(f"{source!r}: tokens have no field {dtype!r}; after # stands {' or '.join(HEADERLESS)}")
    training = [file for file in files if not _is_validation(file)] or files
    validation = [file for file in files if file not in training] or _beside(training)
    read = [read_bin(file, dtype) for file in training + validation]
    forms = {form for _, form in read}
    if len(forms) > 1:
        raise UserError(
            f"{source!r} has .bin files of several formats (with and without llm.c's header): give each its own --data"
        )
    parts = [tokens for tokens, _ in read]
    tokens = TokenFiles(parts[: len(training)], source)
    held_out = TokenFiles(parts[len(training) :], source) if validation else None
    known = _characters_beside(training[0])
    return TokenSource(source, tuple(training), tokens, tuple(validation), held_out, forms.pop(), *known)


def _characters_beside(file: Path) -> tuple[Tokenizer | None, tuple[str, ...]]:
    """Return the tokenizer of nanoGPT's ``meta.pkl`` beside a file; a note if it can't be read."""
    path = file.parent / META
    if not os.path.lexists(path):
        return None, ()
    try:
        return read_meta_pickle(path), ()
    except UserError as error:
        return None, (f"token ids only, so samples are numbers: {error}",)


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
