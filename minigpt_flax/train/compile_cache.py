"""A folder for what XLA has compiled, so that the same run starts faster the next time. Imports no JAX.

Compiled programs hold machine code: one made by another version, or for another processor, may not only be useless but
end the process. So each folder is for one version of JAX and one kind of machine, which its name says.
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

LIMIT = 2 * 2**30  # bytes in all folders together; the oldest programs go first
SHORTEST = 0.2  # seconds: what compiles faster isn't kept
NONE = "none"
OWN = "minigpt-compiled"  # folder of the cache in the one that was named: nothing outside it is touched
TAG = "CACHEDIR.TAG"
MARK = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache of minigpt_flax: it may be removed.\n"


def use(choice: str | None, device_kind: str) -> str | None:
    """Has JAX keep what it compiles, and take from there what it has compiled before.

    Args:
      choice: the folder, or ``none``; None takes the user's cache, unless JAX was told of a folder already.
      device_kind: JAX's name of the device.

    Returns:
      Why nothing will be kept, where that wasn't asked for; None otherwise.

    Raises:
      UserError: the folder has no name.
    """
    import jax

    if choice == "":
        raise UserError("--compile-cache needs a folder, or none")
    if choice == NONE:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
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
        return f"nothing compiled is kept: can't write {folder}: {error.strerror}"
    prune(root, LIMIT)
    # A program that can't be read or written is compiled again: no reason for a warning.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    return None


def mark(root: Path) -> None:
    """Makes the cache's own folder and marks it, as https://bford.info/cachedir describes.

    Raises:
      OSError: it can't be made, is a symbolic link, or is not ours: it holds something and lacks the mark.
    """
    if root.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link")
    files.make_folder(root)
    if not is_marked(root):
        if any(root.iterdir()):
            raise OSError(errno.EEXIST, f"it holds files of others and no {TAG}")
        files.replace(root / TAG, MARK)


def is_marked(root: Path) -> bool:
    """Whether a folder is a cache that :func:`mark` made."""
    tag = root / TAG
    return tag.is_file() and not tag.is_symlink() and tag.stat().st_size == len(MARK) and tag.read_text() == MARK


def users_cache() -> Path:
    """Where programs keep what can be made again, by the XDG's convention."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "minigpt_flax"


def machine(device_kind: str) -> str:
    """Name of the folder: versions, the device, and a digest of what this processor can do."""
    name = f"jax-{version('jax')}-jaxlib-{version('jaxlib')}-{device_kind}-{processor()}"
    return re.sub(r"[^a-z0-9.]+", "-", name.lower())


def processor() -> str:
    """A digest of this processor's model and instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        known = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    except OSError:  # not Linux
        known = [platform.processor(), platform.machine()]
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:12]


def prune(root: Path, limit: int) -> None:
    """Removes the files of a marked cache that were unused for longest, until the others have at most ``limit`` bytes.

    Follows no symbolic link, and removes nothing where the mark is missing.
    """
    if not is_marked(root):
        return
    found = []
    for above, _, names in os.walk(root):
        for path in (Path(above) / name for name in names if name != TAG):
            with contextlib.suppress(OSError):  # another process removes it
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_atime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            files.remove_file(path)
        total -= size
