"""Prepared folders: tokens on disk, ready to be memory-mapped, with their tokenizer and a hash.

``train.bin`` and ``val.bin`` have nanoGPT's format (uint16, or uint32 for vocabularies above 65,536),
``tokenizer.json`` is the tokenizer, and ``tokens.json`` describes them. The folder is renamed to its final name when it
is complete.
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

from minigpt_flax.data.batches import split_index
from minigpt_flax.data.token_files import TokenFiles, fingerprint
from minigpt_flax.data.tokenizers import Tokenizer, digest_of, load_tokenizer
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.files import replace, replacing, staged, truncate
from minigpt_flax.runs.schema import WHOLE, brief, check_fields, check_range, check_type, read_json, size_of, types_of

META = "tokens.json"
FILES = ("train.bin", "val.bin")
DTYPES = ("<u2", "<u4")
VERSION = 2  # version 1 has no tokenizer_sha256
MAX_VAL_TOKENS = 10 << 20  # of a validation split: the number that modded-nanogpt validates on
_COPY = 1 << 24  # bytes per read
_SHA256 = re.compile(r"[0-9a-f]{64}")
Stream = Iterable[Integer[np.ndarray, " some"]]


@dataclass(frozen=True)
class Meta:
    """Content of ``tokens.json``.

    Attributes:
      version: format version.
      source: source of the data.
      dtype: dtype of the tokens.
      train: number of training tokens.
      val: number of validation tokens.
      sha256: hash of the bytes of the training tokens followed by the validation tokens.
      fingerprints: fingerprints of the two files.
      tokenizer_sha256: hash of the tokenizer's file; None in folders of version 1.
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
    """An open prepared folder: memory-mapped tokens and their tokenizer."""

    tokens: TokenFiles
    validation: TokenFiles
    tokenizer: Tokenizer
    sha256: str


def is_prepared(folder: Path) -> bool:
    """Return whether `prepare` wrote this folder."""
    return os.path.lexists(folder / META)


def open_prepared(source: str) -> Prepared:
    """Map the tokens of a prepared folder, and check the files against ``tokens.json``.

    Raises:
      UserError: a file is missing, damaged, or has changed since the folder was written.
    """
    folder = Path(os.path.expanduser(source))
    meta = read_meta(folder)
    tokenizer = load_tokenizer(folder, meta.tokenizer_sha256)
    dtype = np.dtype(meta.dtype)

    def mapped(name: str, count: int, known: str) -> TokenFiles:
        path = folder / name
        if size_of(path) != count * dtype.itemsize or fingerprint(path) != known:
            raise UserError(f"the file '{path}' has changed since it was prepared: prepare the data again")
        return TokenFiles([np.memmap(path, dtype, "r")], str(path), tokenizer.vocab_size)

    train, val = map(mapped, FILES, (meta.train, meta.val), meta.fingerprints)
    return Prepared(train, val, tokenizer, meta.sha256)


def read_meta(folder: Path) -> Meta:
    """Read and check ``tokens.json``.

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
    """Write a prepared folder. It is named ``OUT.partial``, without ``tokens.json``, until it is complete.

    Args:
      source: source of the data.
      out: the folder; must not exist.
      tokenizer: tokenizer of the tokens.
      training: training tokens, in chunks.
      validation: validation tokens; None takes the last tenth of the training tokens, at most `MAX_VAL_TOKENS`.

    Returns:
      The content of ``tokens.json``.

    Raises:
      UserError: the folder exists, another process is writing it, or there are too few tokens.
      OSError: the disk is full; nothing remains of the folder.
    """
    dtype = np.dtype(DTYPES[tokenizer.vocab_size > 1 << 16])
    with staged(out) as scratch:
        train, val = (scratch / name for name in FILES)
        digest = hashlib.sha256()
        count = _write(train, training, dtype, digest)
        if validation is None:
            count, val_count = _split_files(train, val, count, dtype)
        else:
            val_count = _write(val, validation, dtype, digest)
        if not count or not val_count:
            raise UserError(f"{source!r} has no text to {'validate on' if count else 'train on'}")
        tokenizer.save(scratch)
        prints, tokenizer_digest = (fingerprint(train), fingerprint(val)), digest_of(scratch)
        meta = Meta(VERSION, source, dtype.str, count, val_count, digest.hexdigest(), prints, tokenizer_digest)
        replace(scratch / META, json.dumps(asdict(meta), indent=1) + "\n")
    return meta


def _write(path: Path, tokens: Stream, dtype: np.dtype, digest) -> int:
    count = 0
    with replacing(path) as file:
        for chunk in tokens:
            data = chunk.astype(dtype).tobytes()
            digest.update(data)
            file.write(data)
            count += len(chunk)
    return count


def _split_files(train: Path, val: Path, count: int, dtype: np.dtype) -> tuple[int, int]:
    """Move the last tenth of the training tokens, as in `split`, to the validation file."""
    start = max(split_index(count), count - MAX_VAL_TOKENS)
    with train.open("rb") as source, replacing(val) as target:
        source.seek(start * dtype.itemsize)
        shutil.copyfileobj(source, target, _COPY)
    truncate(train, start * dtype.itemsize)
    return start, count - start
