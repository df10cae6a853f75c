"""A prepared folder: tokens on disk, ready to be mapped, with the tokenizer that made them and a hash.

``train.bin`` and ``val.bin`` are nanoGPT's own files (uint16, or uint32 for vocabularies above 65,536),
``tokenizer.json`` the tokenizer, ``tokens.json`` what they are. The folder gets its name when it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from minigpt_flax.data.batches import border
from minigpt_flax.data.tokenfiles import TokenFiles, fingerprint
from minigpt_flax.data.tokenizers import Tokenizer, load_tokenizer
from minigpt_flax.errors import UserError

META = "tokens.json"
FILES = ("train.bin", "val.bin")
VERSION = 1
MOST = 10 << 20  # validation tokens that are set apart at most: what modded-nanogpt validates on
_COPY = 1 << 24  # bytes
Stream = Iterable[Integer[np.ndarray, " some"]]


@dataclass(frozen=True)
class Meta:
    """What ``tokens.json`` says.

    Attributes:
        version: of this format.
        source: what was prepared.
        dtype: of the tokens.
        train: number of training tokens.
        val: number of validation tokens.
        sha256: of the bytes of the training and the validation tokens, one after the other.
        fingerprints: of the two files.
    """

    version: int
    source: str
    dtype: str
    train: int
    val: int
    sha256: str
    fingerprints: list[str]


@dataclass(frozen=True)
class Prepared:
    """An open folder: tokens mapped, and what made them."""

    tokens: TokenFiles
    validation: TokenFiles
    tokenizer: Tokenizer
    sha256: str


def is_prepared(folder: Path) -> bool:
    """Whether `prepare` made this folder."""
    return (folder / META).is_file()


def open_prepared(source: str) -> Prepared:
    """Maps the tokens of a prepared folder, and checks the files against what it says of them.

    Raises:
        UserError: a file is missing, or another than when the folder was made.
    """
    folder = Path(source).expanduser()
    try:
        meta = Meta(**json.loads((folder / META).read_text(encoding="utf-8")))
        dtype = np.dtype(meta.dtype)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{folder / META} is damaged ({' '.join(str(error).split())}): prepare the data again"
        ) from error
    if meta.version != VERSION:
        raise UserError(f"{folder / META} is of version {meta.version}, not {VERSION}: prepare the data again")
    tokenizer = load_tokenizer(folder)

    def mapped(name: str, count: int, known: str) -> TokenFiles:
        path = folder / name
        if path.stat().st_size != count * dtype.itemsize or fingerprint(path) != known:
            raise UserError(f"the file '{path}' is not the one that was prepared: prepare the data again")
        return TokenFiles([np.memmap(path, dtype, "r")], str(path), tokenizer.vocab_size)

    train, val = map(mapped, FILES, (meta.train, meta.val), meta.fingerprints)
    return Prepared(train, val, tokenizer, meta.sha256)


def write_prepared(source: str, out: Path, tokenizer: Tokenizer, training: Stream, validation: Stream | None) -> Meta:
    """Writes the folder. Until it is whole it has another name, ``OUT.partial``, and no ``tokens.json``.

    Args:
        source: what is prepared.
        out: the folder; must not be there.
        tokenizer: that makes the tokens.
        training: the tokens, some at a time.
        validation: those to validate on; None takes the last tenth of the training tokens, at most `MOST`.

    Returns:
        What was written.

    Raises:
        UserError: the folder is there, another process is making it, or the disk is full.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    with _scratch(out) as scratch:
        train, val = (scratch / f"{name}.partial" for name in FILES)
        digest = hashlib.sha256()
        count = _write(train, training, dtype, digest)
        if validation is None:
            count, apart = _set_apart(train, val, count, dtype)
        else:
            apart = _write(val, validation, dtype, digest)
        if not count or not apart:
            raise UserError(f"{source!r} has no text to {'validate on' if count else 'learn from'}")
        tokenizer.save(scratch)
        meta = Meta(
            VERSION, source, dtype.str, count, apart, digest.hexdigest(), [fingerprint(train), fingerprint(val)]
        )
        (scratch / META).write_text(json.dumps(asdict(meta), indent=1) + "\n", encoding="utf-8")
        for path, name in zip((train, val), FILES, strict=True):
            path.rename(scratch / name)
        for file in scratch.iterdir():
            _sync(file)
        scratch.rename(out)
    return meta


def require_free(out: Path) -> None:
    """Refuses a folder that is there already.

    Raises:
        UserError: it is.
    """
    if out.exists():
        raise UserError(f"{out} exists already: give another --out, or remove it")


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder to write into, gone again if that fails."""
    require_free(out)
    scratch = out.with_name(f"{out.name}.partial")
    ours = not scratch.exists()  # Ctrl-C may come as soon as it is made
    try:
        _make(scratch)
        yield scratch
    except BaseException as error:
        if not ours:
            raise
        shutil.rmtree(scratch, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise UserError(f"can't write {out}: {error.strerror}; nothing is left of it") from error
        raise


def _make(scratch: Path) -> None:
    try:
        scratch.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir()
    except FileExistsError as error:
        raise UserError(
            f"{scratch} is there: another process is preparing {scratch.stem}, or one was killed; remove it if none "
            "does"
        ) from error
    except OSError as error:
        raise UserError(f"can't make the folder {scratch}: {error.strerror}") from error


def _write(path: Path, tokens: Stream, dtype: np.dtype, digest) -> int:
    count = 0
    with path.open("wb") as file:
        for some in tokens:
            data = some.astype(dtype).tobytes()
            digest.update(data)
            file.write(data)
            count += len(some)
    return count


def _set_apart(train: Path, val: Path, count: int, dtype: np.dtype) -> tuple[int, int]:
    """Moves the last tenth of the training tokens, as `split` cuts them, into a file of its own."""
    start = max(border(count), count - MOST)
    with train.open("r+b") as source, val.open("wb") as target:
        source.seek(start * dtype.itemsize)
        shutil.copyfileobj(source, target, _COPY)
        source.truncate(start * dtype.itemsize)
    return start, count - start


def _sync(file: Path) -> None:
    """Brings a file to the disk itself, so that a power cut can't leave a folder that only looks whole."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
