"""Tensors of a ``torch.save`` file (``ckpt.pt``, ``pytorch_model.bin``), without PyTorch and without executing code.

The file is a zip archive: ``data.pkl`` describes the objects, and each storage is an entry of raw bytes. A pickle can
name any function to call, so the unpickler here knows only containers and what describes a tensor; every other name is
refused. Tensors are read when they are needed. Written files have the same names, so that ``torch.load`` reads them,
also with ``weights_only``.
"""

from __future__ import annotations

import collections
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from minigpt_flax.errors import UserError, damaged
from minigpt_flax.invocation import quote, show
from minigpt_flax.runs.schema import brief, size_of

PICKLE = 1 << 26  # maximum bytes of the description
MAX_DIMS = 8
DTYPES: dict[str, tuple[str, np.dtype]] = {  # PyTorch's storage -> name of the dtype in safetensors, and NumPy's
    "DoubleStorage": ("F64", np.dtype("<f8")),
    "FloatStorage": ("F32", np.dtype("<f4")),
    "HalfStorage": ("F16", np.dtype("<f2")),
    "BFloat16Storage": ("BF16", np.dtype(jnp.bfloat16)),
    "LongStorage": ("I64", np.dtype("<i8")),
    "IntStorage": ("I32", np.dtype("<i4")),
    "ShortStorage": ("I16", np.dtype("<i2")),
    "CharStorage": ("I8", np.dtype("i1")),
    "ByteStorage": ("U8", np.dtype("u1")),
    "BoolStorage": ("BOOL", np.dtype("?")),
}


class StoredTensor(NamedTuple):
    """A tensor in a file.

    Attributes:
      dtype: as safetensors names it, such as ``F32``.
      shape: its shape.
      read: reads the values.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class _Storage(NamedTuple):
    entry: zipfile.ZipInfo
    dtype: str
    kind: np.dtype


def read_torch_file(path: Path) -> Any:
    """Read what ``torch.save`` wrote: containers, numbers, text, and tensors as `StoredTensor`.

    Raises:
      UserError: the file can't be read, is damaged, has PyTorch's format from before version 1.6, or contains anything
        else; a function that it names is not called.
    """
    size_of(path)  # refuses a pipe or a device
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{show(path)} is not in the zip format of torch.save: it is damaged, or from before PyTorch 1.6; "
            f"convert it where PyTorch is installed: {converting_line(path)}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return _load(_Archive(path, archive))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"can't read {show(path)}: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle raises anything
        raise damaged(show(path), error) from error


def converting_line(path: Path) -> str:
    """Return a command that writes the file again in the zip format."""
    code = "import sys, torch; torch.save(torch.load(sys.argv[1], weights_only=True), sys.argv[1])"
    return f"python -c {quote(code)} {quote(show(path))}"


class _Archive:
    """The entries of the file, below the folder that all of them are in."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self._archive = path, archive
        self._entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}

    def entry(self, name: str) -> zipfile.ZipInfo:
        """Return an entry; it must not be compressed, so that it is as long as its bytes in the file."""
        entry = self._entries.get(name)
        if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise UserError(f"{show(self.path)} is damaged, or not of PyTorch: {brief(name)} is missing or compressed")
        return entry

    def has(self, name: str) -> bool:
        return name in self._entries

    def read(self, entry: zipfile.ZipInfo) -> bytes:
        return self._archive.read(entry)


def _load(archive: _Archive) -> Any:
    described = archive.entry("data.pkl")
    if described.file_size > PICKLE:
        raise UserError(f"{show(archive.path)}: data.pkl has {described.file_size:,} bytes, more than {PICKLE:,}")
    if archive.has("byteorder") and archive.read(archive.entry("byteorder")) != b"little":
        raise UserError(f"{show(archive.path)} was written on a big-endian machine, which is not supported")
    with archive._archive.open(described) as file:
        return _Unpickler(file, archive).load()


class _Unpickler(pickle.Unpickler):
    """Knows containers and tensors; every other name is refused before it is looked up."""

    def __init__(self, file: Any, archive: _Archive):
        super().__init__(file, encoding="utf-8")
        self._archive = archive
        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch", "Size"): tuple,
            ("torch", "device"): lambda *name: name,
            **{("torch", name): name for name in DTYPES},
        }

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name of PyTorch."""
        if (module, name) not in self._known:
            raise UserError(
                f"{show(self._archive.path)} names {brief(f'{module}.{name}')}, which is no tensor, so it was not read "
                "and nothing of it was executed; if you trust the file, save its weights as model.safetensors"
            )
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """Return a storage: ``("storage", type, key, device, number of elements)``."""
        word, kind, key, _, count = pid
        dtype, numpy = DTYPES[kind]
        entry = self._archive.entry(f"data/{key}")
        if word != "storage" or entry.file_size != count * numpy.itemsize:
            raise UserError(f"{show(self._archive.path)} is damaged: the storage {brief(key)} has another length")
        return _Storage(entry, dtype, numpy)

    def _tensor(self, storage: _Storage, offset: int, shape: tuple, stride: tuple, *_: Any) -> StoredTensor:
        numbers = (offset, *shape, *stride)
        if len(shape) != len(stride) or len(shape) > MAX_DIMS or any(type(n) is not int or n < 0 for n in numbers):
            raise UserError(f"{show(self._archive.path)} is damaged: a tensor has the shape {brief(shape)}")
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if math.prod(shape) and (last + 1) * storage.kind.itemsize > storage.entry.file_size:
            raise UserError(f"{show(self._archive.path)} is damaged: a tensor is larger than its storage")
        path, name = self._archive.path, storage.entry.filename

        def read() -> np.ndarray:
            with zipfile.ZipFile(path) as archive:
                flat = np.frombuffer(archive.read(name), storage.kind)[offset:]
            steps = [step * storage.kind.itemsize for step in stride]
            return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)

        return StoredTensor(storage.dtype, tuple(shape), read)


def tensors_of(values: Any, where: str) -> dict[str, StoredTensor]:
    """Return the tensors of a state dict, by name.

    Raises:
      UserError: it is none.
    """
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise UserError(f"{where} has no state dict: tensors by name")
    return {name: value for name, value in values.items() if isinstance(value, StoredTensor)}


def write_torch_file(path: Path, value: Any) -> None:
    """Write what ``torch.load`` reads as ``value``, with a tensor in place of each array.

    Args:
      path: File to write.
      value: Dicts, lists, tuples, text, numbers and None; and arrays whose dtype is one of `DTYPES`.
    """
    arrays: list[np.ndarray] = []
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + _pickled(value, arrays) + b".")
        archive.writestr("archive/byteorder", b"little")
        for number, array in enumerate(arrays):
            archive.writestr(f"archive/data/{number}", np.ascontiguousarray(array).tobytes())
        archive.writestr("archive/version", b"3\n")


def _pickled(value: Any, arrays: list[np.ndarray]) -> bytes:
    """The opcodes of a value, of pickle's protocol 2; its arrays are appended to ``arrays``."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    if isinstance(value, np.ndarray):
        return _pickled_tensor(value, arrays)
    if isinstance(value, Mapping):
        return b"}(" + b"".join(_pickled(part, arrays) for item in value.items() for part in item) + b"u"
    parts = b"".join(_pickled(part, arrays) for part in value)
    return b"](" + parts + b"e" if isinstance(value, list) else b"(" + parts + b"t"


def _pickled_tensor(array: np.ndarray, arrays: list[np.ndarray]) -> bytes:
    kind = next(name for name, (_, dtype) in DTYPES.items() if dtype == array.dtype)
    key, strides = str(len(arrays)), [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    arrays.append(array)
    one = lambda value: _pickled(value, arrays)
    named = lambda module, name: f"c{module}\n{name}\n".encode()
    storage = b"(" + one("storage") + named("torch", kind) + one(key) + one("cpu") + one(array.size) + b"tQ"
    hooks = named("collections", "OrderedDict") + b")R"
    arguments = storage + one(0) + one(array.shape) + one(tuple(strides)) + one(False) + hooks
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"
