"""Persistent compilation cache, so that the same run starts faster the next time. Imports no JAX.

Compiled programs contain machine code: one of another version, or for another processor, may crash the process. So each
folder is for one version of JAX and one kind of machine, both part of its name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import stat
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

from minigpt_flax.errors import UserError
from minigpt_flax.runs import files

LIMIT = 2 * 2**30  # bytes in all folders together; the least recently used programs are removed first
SHORTEST = 0.2  # seconds; programs that compile faster aren't cached
NONE = "none"
OWN = "minigpt-compiled"  # subfolder for the cache: nothing outside of it is changed
TAG = "CACHEDIR.TAG"
MARK = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache of minigpt_flax: it may be removed.\n"


def use(choice: str | None, device_kind: str) -> str | None:
    """Enables JAX's persistent compilation cache.

    Args:
      choice: a folder, or ``none`` to disable the cache; None uses the folder configured in JAX, else the user's cache.
      device_kind: JAX's name of the device.

    Returns:
      A warning if the folder can't be used, so that nothing is cached; else None.

    Raises:
      UserError: the folder is an empty string.
    """
    import jax

    if choice == "":
        raise UserError("--compile-cache needs a folder, or none")
    if choice == NONE:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    # A program that can't be read or written is compiled again, which needs no warning, here or in JAX's own folder.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    if choice is None and jax.config.values["jax_compilation_cache_dir"] is not None:
        return None
    root = Path(os.path.realpath(users_cache() if choice is None else Path(choice).expanduser())) / OWN
    folder = root / machine(device_kind)
    try:
        mark(root)
        if folder.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link")
        files.make_folder(folder)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"compiled programs are not cached: can't write {folder}: {error.strerror}"
    prune(root, LIMIT)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    return None


def mark(root: Path) -> None:
    """Creates the cache's own folder and its tag file, see https://bford.info/cachedir.

    Raises:
      OSError: it can't be created, is a symbolic link, or is not empty and lacks the tag file.
    """
    if root.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link")
    files.make_folder(root)
    if not is_marked(root):
        if any(root.iterdir()):
            raise OSError(errno.EEXIST, f"it has other files and no {TAG}")
        files.replace(root / TAG, MARK)


def is_marked(root: Path) -> bool:
    """Whether a folder is a cache that :func:`mark` made."""
    tag = root / TAG
    return tag.is_file() and not tag.is_symlink() and tag.stat().st_size == len(MARK) and tag.read_text() == MARK


def users_cache() -> Path:
    """The user's cache folder, by the XDG convention."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "minigpt_flax"


def machine(device_kind: str) -> str:
    """Name of the folder: versions, device, and a digest of the processor's features."""
    name = f"jax-{version('jax')}-jaxlib-{version('jaxlib')}-{device_kind}-{processor()}"
    return re.sub(r"[^a-z0-9.]+", "-", name.lower())


def processor() -> str:
    """A digest of the processor's model and instruction set."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        features = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    except OSError:  # not Linux
        features = [platform.processor(), platform.machine()]
    return hashlib.sha256("\n".join(features).encode()).hexdigest()[:12]


def prune(root: Path, limit: int) -> None:
    """Removes the least recently used files of a cache, until the others have at most ``limit`` bytes.

    Follows no symbolic links, and removes nothing if the tag file is missing.
    """
    if not is_marked(root):
        return
    entries = []
    for above, _, names in os.walk(root):
        for path in (Path(above) / name for name in names if name != TAG):
            with contextlib.suppress(OSError):  # another process has removed it
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    entries.append((status.st_atime, status.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            files.remove_file(path)
        total -= size
