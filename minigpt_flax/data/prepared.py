"""A prepared folder: tokens on disk, ready to be mapped, with the tokenizer that made them and a hash.

``train.bin`` and ``val.bin`` are nanoGPT's own files (uint16, or uint32 for vocabularies above 65,536),
``tokenizer.json`` the tokenizer, ``tokens.json`` what they are. The folder gets its name when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from minigpt_flax.data.batches import border
from minigpt_flax.data.token_files import TokenFiles, fingerprint
from minigpt_flax.data.tokenizers import Tokenizer, digest_of, load_tokenizer
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.files import replace, replacing, staged, truncate
from minigpt_flax.runs.schema import WHOLE, brief, check_fields, check_range, check_type, read_json, size_of, types_of

META = "tokens.json"
FILES = ("train.bin", "val.bin")
DTYPES = ("<u2", "<u4")
VERSION = 2  # 1 has no tokenizer_sha256
MOST = 10 << 20  # validation tokens that are set apart at most: what modded-nanogpt validates on
_COPY = 1 << 24  # bytes
_SHA256 = re.compile(r"[0-9a-f]{64}")
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
        tokenizer_sha256: of the tokenizer's file; None in folders of version 1.
    """

    version: int
    source: str
    dtype: str
    train: int
    val: int
    sha256: str
    fingerprints: tuple[str, ...]
    tokenizer_sha256: str | None = None


@dataclass(frozen=True)
class Prepared:
    """An open folder: tokens mapped, and what made them."""

    tokens: TokenFiles
    validation: TokenFiles
    tokenizer: Tokenizer
    sha256: str


def is_prepared(folder: Path) -> bool:
    """Whether `prepare` made this folder."""
    return os.path.lexists(folder / META)


def open_prepared(source: str) -> Prepared:
    """Maps the tokens of a prepared folder, and checks the files against what it says of them.

    Raises:
        UserError: a file is missing, damaged, or another than when the folder was made.
    """
    folder = Path(os.path.expanduser(source))
    meta = read_meta(folder)
    tokenizer = load_tokenizer(folder, meta.tokenizer_sha256)
    dtype = np.dtype(meta.dtype)

    def mapped(name: str, count: int, known: str) -> TokenFiles:
        path = folder / name
        if size_of(path) != count * dtype.itemsize or fingerprint(path) != known:
            raise UserError(f"the file '{path}' is not the one that was prepared: prepare the data again")
        return TokenFiles([np.memmap(path, dtype, "r")], str(path), tokenizer.vocab_size)

    train, val = map(mapped, FILES, (meta.train, meta.val), meta.fingerprints)
    return Prepared(train, val, tokenizer, meta.sha256)


def read_meta(folder: Path) -> Meta:
    """Reads and checks ``tokens.json``.

    Raises:
        UserError: it is missing, damaged or of another version.
    """
    where = show(folder / META)
    try:
        return _meta(read_json(folder / META), where)
    except UserError as error:
        raise UserError(f"{error}; prepare the data again") from error


def _meta(values: dict[str, Any], where: str) -> Meta:
    version = check_type(values.get("version"), int, f"{where}: version")
    if not 1 <= version <= VERSION:
        raise UserError(f"{where} is of version {brief(version)}, not 1 to {VERSION}")
    fields = types_of(Meta)
    if version == 1:
        del fields["tokenizer_sha256"]
    meta = Meta(**check_fields(values, fields, where))
    if meta.dtype not in DTYPES:
        raise UserError(f"{where}: dtype must be one of {', '.join(DTYPES)}, got {brief(meta.dtype)}")
    for name in ("train", "val"):
        check_range(getattr(meta, name), 1, WHOLE, f"{where}: {name}")
    if len(meta.fingerprints) != len(FILES):
        raise UserError(f"{where}: fingerprints must be {len(FILES)}, got {len(meta.fingerprints)}")
    hashes = (meta.sha256, *meta.fingerprints, *([] if version == 1 else [meta.tokenizer_sha256 or ""]))
    if wrong := [text for text in hashes if not _SHA256.fullmatch(text)]:
        raise UserError(f"{where}: a SHA-256 must be 64 hexadecimal digits, got {brief(wrong[0])}")
    return meta


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
        UserError: the folder is there, another process is making it, or there are too few tokens.
        OSError: the disk is full; nothing is left of the folder.
    """
    dtype = np.dtype(DTYPES[tokenizer.vocab_size > 1 << 16])
    with staged(out) as scratch:
        train, val = (scratch / name for name in FILES)
        digest = hashlib.sha256()
        count = _write(train, training, dtype, digest)
        if validation is None:
            count, apart = _set_apart(train, val, count, dtype)
        else:
            apart = _write(val, validation, dtype, digest)
        if not count or not apart:
            raise UserError(f"{source!r} has no text to {'validate on' if count else 'learn from'}")
        tokenizer.save(scratch)
        prints, made_by = (fingerprint(train), fingerprint(val)), digest_of(scratch)
        meta = Meta(VERSION, source, dtype.str, count, apart, digest.hexdigest(), prints, made_by)
        replace(scratch / META, json.dumps(asdict(meta), indent=1) + "\n")
    return meta


def _write(path: Path, tokens: Stream, dtype: np.dtype, digest) -> int:
    count = 0
    with replacing(path) as file:
        for some in tokens:
            data = some.astype(dtype).tobytes()
            digest.update(data)
            file.write(data)
            count += len(some)
    return count


def _set_apart(train: Path, val: Path, count: int, dtype: np.dtype) -> tuple[int, int]:
    """Moves the last tenth of the training tokens, as `split` cuts them, into a file of its own."""
    start = max(border(count), count - MOST)
    with train.open("rb") as source, replacing(val) as target:
        source.seek(start * dtype.itemsize)
        shutil.copyfileobj(source, target, _COPY)
    truncate(train, start * dtype.itemsize)
    return start, count - start
