"""Weights of a Hugging Face folder, whole or in shards: safetensors, or what ``torch.save`` wrote."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minigpt_flax.errors import UserError, damaged
from minigpt_flax.invocation import show
from minigpt_flax.model.torch_file import StoredTensor, read_torch_file, tensors_of
from minigpt_flax.runs.files import replace
from minigpt_flax.runs.schema import LARGE, brief, check_type, read_json, size_of

SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
NAMES = (SAFETENSORS, SAFETENSORS + INDEX, TORCH, TORCH + INDEX)  # in the order of preference of transformers
MAX_SHARDS = 1 << 10


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights, in order.

    Raises:
      UserError: there are none, or the index of the shards is damaged.
    """
    name = next((name for name in NAMES if os.path.lexists(folder / name)), SAFETENSORS)
    if not name.endswith(INDEX):
        return [folder / name]
    where = show(folder / name)
    shards = check_type(read_json(folder / name, LARGE >> 4).get("weight_map"), dict, f"{where}: weight_map")
    found = sorted({check_type(shard, str, f"{where}: weight_map") for shard in shards.values()})
    if not 0 < len(found) <= MAX_SHARDS or any(Path(shard).name != shard for shard in found):
        raise UserError(f"{where} is damaged: it must name 1 to {MAX_SHARDS} files of its own folder")
    return [folder / shard for shard in found]


def bytes_of(files: list[Path]) -> int:
    """Return the total size of the files."""
    return sum(map(size_of, files))


@contextmanager
def open_weights(files: list[Path]) -> Iterator[dict[str, StoredTensor]]:
    """Open the tensors of all files, by name, without reading their values.

    Raises:
      UserError: a file can't be read or is damaged, or two contain the same tensor.
    """
    found: dict[str, StoredTensor] = {}
    with ExitStack() as stack:
        for path in files:
            with _naming(path):
                here = _torch(path) if path.suffix == ".bin" else _safetensors(stack, path)
            if twice := found.keys() & here.keys():
                raise UserError(f"{show(path)} contains {brief(min(twice))}, which another file contains too")
            found |= here
        yield found


def _torch(path: Path) -> dict[str, StoredTensor]:
    return tensors_of(read_torch_file(path), show(path))


def _safetensors(stack: ExitStack, path: Path) -> dict[str, StoredTensor]:
    file = stack.enter_context(safe_open(path, framework="numpy"))

    def stored(name: str) -> StoredTensor:
        part = file.get_slice(name)
        return StoredTensor(part.get_dtype(), tuple(part.get_shape()), functools.partial(_read, file, name, path))

    return {name: stored(name) for name in file.keys()}


def _read(file: Any, name: str, path: Path) -> np.ndarray:
    with _naming(path):
        return file.get_tensor(name)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"can't read {show(error.filename or path)}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise damaged(show(path), error) from error


def save_weights(folder: Path, tensors: Mapping[str, np.ndarray], shard_bytes: int) -> None:
    """Write ``model.safetensors``, or shards of at most `shard_bytes` and their index, as transformers does.

    A tensor that is larger has a shard of its own.
    """
    shards: list[dict[str, np.ndarray]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(part.nbytes for part in shards[-1].values()) + tensor.nbytes > shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    if len(shards) == 1:
        _write(folder / SAFETENSORS, shards[0])
        return
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write(folder / name, shard)
    total = sum(tensor.nbytes for tensor in tensors.values())
    places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    write_json(folder / (SAFETENSORS + INDEX), {"metadata": {"total_size": total}, "weight_map": places})


def _write(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    replace(path, save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, {"format": "pt"}))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file."""
    replace(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
