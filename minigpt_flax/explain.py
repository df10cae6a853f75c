"""What an error means to a user: an exit status and one line. Imports no JAX."""

from __future__ import annotations

import errno
import os

from minigpt_flax.errors import Failed, UserError

MISTAKES = (  # errors of a wrongly named path; others, such as a full disk, are no mistake of the user
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EEXIST, errno.EROFS, errno.EINVAL, errno.ENXIO, errno.EMLINK,
)  # fmt: skip
LOWER = {  # by command: what takes memory
    **dict.fromkeys(
        ("train", "compare"), "--batch-size (and raise --accum by as much), --context, --width or --layers"
    ),
    "sample": "--num or --max-tokens",
    "diagnose": "--batches, or choose studies with --only",
    "report": "the number of runs",
}
OTHERS = "the memory that other programs take"
EXHAUSTED = ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "out of memory", "Out of memory", "bad_alloc")


def explain(error: BaseException, name: str = "train") -> tuple[int, str] | None:
    """Exit status and line of an error; None for one that is a fault of the program.

    Args:
      error: what a command raised.
      name: of the command.
    """
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, Failed):
        return 1, str(error)
    if _is_memory(error):
        saved = "; checkpoints saved before are intact" if name in ("train", "compare") else ""
        return 1, f"out of memory{_because(error)}: lower {LOWER.get(name, OTHERS)}{saved}"
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, RecursionError):
        return 2, "the input is nested too deeply: simplify it"
    if isinstance(error, ValueError) and any(word in str(error) for word in ("null byte", "surrogates not allowed")):
        return 2, f"a name has a character that it can't have here ({_first(error)}): rename it"
    if _is_platform(error):
        wanted = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r}"
        return 2, f"JAX can't use {wanted} on this machine: unset it, or set it to cpu{_because(error)}"
    return None


def _is_platform(error: BaseException) -> bool:
    """Whether JAX found no device of the platform that the environment names."""
    if isinstance(error, AssertionError) and "JAX_PLATFORMS" in os.environ:
        import traceback

        frames = traceback.extract_tb(error.__traceback__)
        return bool(frames) and frames[-1].filename.endswith("xla_bridge.py")
    return isinstance(error, RuntimeError) and "nitialize backend" in str(error)


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    jax_error = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return (jax_error or isinstance(error, RuntimeError)) and any(word in str(error) for word in EXHAUSTED)


def _because(error: BaseException) -> str:
    text = _first(error).removeprefix("RESOURCE_EXHAUSTED: ")
    return f" ({text})" if text else ""


def _first(error: BaseException) -> str:
    """The first line of an error, without what only developers read."""
    return (str(error).strip().splitlines() or [""])[0][:200].rstrip(" .:")


def _of_system(error: OSError) -> tuple[int, str]:
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    said = f"{where}: {error.strerror or error}" if where else str(error.strerror or error)
    if where and error.errno in MISTAKES:
        return 2, f"can't use {said}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        said += ": make room; what was saved before is intact"
    return 1, said
