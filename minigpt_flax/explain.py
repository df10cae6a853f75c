"""User-facing explanation of an error: an exit status and one line. Imports no JAX."""

from __future__ import annotations

import errno
import os

from minigpt_flax.errors import Failed, UserError

MISTAKES = (  # errors of a wrong path; others, such as a full disk, are not the user's mistake
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EEXIST, errno.EROFS, errno.EINVAL, errno.ENXIO, errno.EMLINK,
)  # fmt: skip
LOWER = {  # the options that determine memory use, by command
    **dict.fromkeys(
        ("train", "compare"), "--batch-size (and raise --accum by as much), --context, --width or --layers"
    ),
    "sample": "--num or --max-tokens",
    "diagnose": "--batches, or choose studies with --only",
    "coordinates": "--batch-size, or the largest of --widths and --depths",
    "report": "the number of runs",
}
OTHERS = "the memory use of other programs"
EXHAUSTED = ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "out of memory", "Out of memory", "bad_alloc")


def explain(error: BaseException, name: str = "train") -> tuple[int, str] | None:
    """Return the exit status and the line of an error; None for a bug of the program.

    Args:
      error: exception of a command.
      name: name of the command.
    """
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, Failed):
        return 1, str(error)
    if _is_memory(error):
        saved = "; saved checkpoints are intact" if name in ("train", "compare") else ""
        return 1, f"out of memory{_because(error)}: lower {LOWER.get(name, OTHERS)}{saved}"
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, RecursionError):
        return 2, "the input is nested too deeply: simplify it"
    if isinstance(error, ValueError) and any(word in str(error) for word in ("null byte", "surrogates not allowed")):
        return 2, f"a name has an invalid character ({_first(error)}): rename it"
    if _is_platform(error):
        requested = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r}"
        return 2, f"JAX can't use {requested} on this machine: unset it, or set it to cpu{_because(error)}"
    return None


def _is_platform(error: BaseException) -> bool:
    """Whether JAX found no device of the platform in the environment."""
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
    """Return the first line of an error, without the details for developers."""
    return (str(error).strip().splitlines() or [""])[0][:200].rstrip(" .:")


def _of_system(error: OSError) -> tuple[int, str]:
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    said = f"{where}: {error.strerror or error}" if where else str(error.strerror or error)
    if where and error.errno in MISTAKES:
        return 2, f"can't use {said}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        said += ": free some space; files saved before are intact"
    return 1, said
