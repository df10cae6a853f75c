"""A folder for what XLA has compiled, so that the same run starts faster the next time. Imports no JAX.

Compiled programs hold machine code: one made by another version, or for another processor, may not only be useless but
end the process. So each folder is for one version of JAX and one kind of machine, which its name says.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

LIMIT = 2 * 2**30  # bytes in all folders together; the oldest programs go first
SHORTEST = 0.2  # seconds: what compiles faster isn't kept
NONE = "none"


def use(choice: str | None, device_kind: str) -> str | None:
    """Has JAX keep what it compiles, and take from there what it has compiled before.

    Args:
      choice: the folder, or ``none``; None takes the user's cache, unless JAX was told of a folder already.
      device_kind: JAX's name of the device.

    Returns:
      Why nothing will be kept, where that wasn't asked for; None otherwise.
    """
    import jax

    if choice == NONE:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    if choice is None and jax.config.values["jax_compilation_cache_dir"] is not None:
        return None
    root = users_cache() if choice is None else Path(choice)
    folder = root.resolve() / machine(device_kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"nothing compiled is kept: can't write {folder}: {error.strerror}"
    prune(root, LIMIT)
    # A program that can't be read or written is compiled as ever: no reason to bother anybody.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    return None


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
    """Removes the files that were longest out of use until the others have at most ``limit`` bytes."""
    files = []
    for path in root.rglob("*"):
        try:
            if path.is_file():
                files.append((path.stat().st_atime, path.stat().st_size, path))
        except OSError:  # another process removes it
            continue
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size
