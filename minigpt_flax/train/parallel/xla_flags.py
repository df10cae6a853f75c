"""Environment variables for XLA and malloc, set before JAX is imported. Imports no JAX."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from minigpt_flax.errors import UserError

SLOW_SCATTER = ((0, 10, 2), (0, 11, 0))  # jaxlib, first and last
FAST_SCATTER = "--xla_backend_extra_options=-nvptx-allow-ftz-atomics"
TUNABLES = "GLIBC_TUNABLES"  # read by glibc when a process starts
HUGE_PAGES = "glibc.malloc.hugetlb"
HUGE_PAGES_SINCE = (2, 35)  # version of glibc
ON_REQUEST = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # [madvise]: huge pages are granted on request


def fix_slow_scatter(jaxlib: str, cuda: bool, environment: MutableMapping[str, str] = os.environ) -> None:
    """Works around a bug of some versions: on NVIDIA, scatter-add with repeated indices is hundreds of times too slow.

    They add float32 numbers by compare-and-swap, which slows down the gradient of an embedding
    (https://github.com/jax-ml/jax/issues/38806). Flags in ``XLA_FLAGS`` are kept.

    >>> environment = {}
    >>> fix_slow_scatter("0.11.0", True, environment)
    >>> environment
    {'XLA_FLAGS': '--xla_backend_extra_options=-nvptx-allow-ftz-atomics'}
    >>> fix_slow_scatter("0.11.2", True, environment := {"XLA_FLAGS": "--xla_dump_to=x"})
    >>> environment
    {'XLA_FLAGS': '--xla_dump_to=x'}

    Args:
      jaxlib: its version.
      cuda: whether JAX's CUDA plugin is installed.
      environment: is modified.
    """
    flags = environment.get("XLA_FLAGS", "")
    first, last = SLOW_SCATTER
    if cuda and first <= _numbers(jaxlib) <= last and "xla_backend_extra_options" not in flags:
        environment["XLA_FLAGS"] = f"{flags} {FAST_SCATTER}".strip()


def device_per_core(environment: MutableMapping[str, str] = os.environ) -> None:
    """Makes JAX list each core of this machine as a device, so that the batch is sharded among the cores.

    If one program divides every matrix product among the cores, they wait for each other after each product, which
    takes much of the time for small ones; with a shard of the batch per core, they synchronize once per step. A step of
    the preset ``nano`` takes 65 ms on two cores as one device, and 50 ms as two devices (``benchmarks.step``). Existing
    settings in the environment are kept.

    >>> device_per_core(environment := {"JAX_NUM_CPU_DEVICES": "1"})
    >>> environment
    {'JAX_NUM_CPU_DEVICES': '1'}

    Args:
      environment: is modified.
    """
    if "xla_force_host_platform_device_count" not in environment.get("XLA_FLAGS", ""):
        environment.setdefault("JAX_NUM_CPU_DEVICES", str(cores()))


def huge_pages() -> None:
    """Restarts this process if necessary, so that malloc uses memory pages of 2 MiB instead of 4 KiB.

    XLA:CPU allocates the memory of a step with malloc and frees it afterwards. The kernel then maps and clears each
    page again, with a page fault for each: half a million faults in a step of the preset ``char`` with 16 sequences, a
    fifth of its time (3.5 instead of 2.8 s on two cores; counted with ``getrusage``). malloc requests huge pages by a
    tunable that glibc reads only at the start of a process. Existing settings in the environment are kept.
    The process isn't restarted if its arguments differ from those that Python was started with (a notebook's ``%run``),
    or under a debugger, profiler or coverage tool, which would lose the process.
    """
    if sys.platform != "linux" or is_traced() or not is_restartable(sys.argv, sys.orig_argv):
        return
    if huge_pages_unused(os.environ, libc(), ON_REQUEST):
        others = [os.environ[TUNABLES]] if TUNABLES in os.environ else []
        os.environ[TUNABLES] = ":".join([*others, f"{HUGE_PAGES}=1"])
        with contextlib.suppress(OSError):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def huge_pages_unused(environment: MutableMapping[str, str], libc: str, on_request: Path) -> bool:
    """Whether malloc supports huge pages and the kernel grants them on request, but no tunable is set.

    Args:
      environment: of the process.
      libc: its name and version.
      on_request: the kernel's setting of transparent huge pages.

    >>> huge_pages_unused({}, "musl 1.2", Path("enabled")), huge_pages_unused({}, "glibc 2.31", Path("enabled"))
    (False, False)
    """
    name, _, version = libc.partition(" ")
    if name != "glibc" or _numbers(version) < HUGE_PAGES_SINCE or HUGE_PAGES in environment.get(TUNABLES, ""):
        return False
    try:
        return "[madvise]" in on_request.read_text()
    except OSError:  # a kernel without huge pages
        return False


def libc() -> str:
    """Name and version of the C library, ``"glibc 2.36"``; empty if unknown."""
    name = "CS_GNU_LIBC_VERSION"
    return (os.confstr(name) or "") if name in os.confstr_names else ""


def is_traced() -> bool:
    """Whether this process runs under a debugger, a profiler or a coverage tool."""
    tools = getattr(sys, "monitoring", None)  # since Python 3.12
    watched = tools is not None and any(tools.get_tool(number) is not None for number in range(6))
    return watched or sys.gettrace() is not None or sys.getprofile() is not None


def is_restartable(argv: Sequence[str], orig_argv: Sequence[str]) -> bool:
    """Whether Python was started directly with this script or module, so that the same arguments start it again.

    >>> is_restartable(["train.py", "--list"], ["python", "train.py", "--list"])
    True
    >>> is_restartable(["/x/minigpt_flax/__main__.py", "eval"], ["python", "-m", "minigpt_flax", "eval"])
    True
    >>> is_restartable(["/x/benchmarks/step.py"], ["python", "-X", "dev", "-m", "benchmarks.step"])
    True
    >>> is_restartable(["train.py"], ["python", "-m", "ipykernel_launcher", "-f", "kernel.json"])
    False
    >>> is_restartable(["train.py"], ["python", "-m", "pdb", "train.py"])
    False
    """
    first = len(orig_argv) - len(argv[1:])
    before = _without_options(list(orig_argv[1:first]))
    if list(orig_argv[first:]) != list(argv[1:]) or len(before) != 1 + (before[:1] == ["-m"]):
        return False
    module = before[1].split(".") if before[0] == "-m" else None
    parts = [part for part in Path(argv[0]).with_suffix("").parts if part != "__main__"]
    return before[-1] == argv[0] if module is None else parts[-len(module) :] == module


def _without_options(arguments: list[str]) -> list[str]:
    """Removes Python's options; leaves a script, or ``-m`` and a module."""
    while arguments and arguments[0].startswith("-") and arguments[0] != "-m":
        arguments = arguments[2 if arguments[0] in ("-X", "-W") else 1 :]
    return arguments


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())


def require_jit(environment: Mapping[str, str] = os.environ) -> None:
    """Refuses to train if compilation is disabled in JAX.

    Raises:
      UserError: ``JAX_DISABLE_JIT`` is set.
    """
    if environment.get("JAX_DISABLE_JIT", "").lower() in ("y", "yes", "t", "true", "on", "1"):
        raise UserError("JAX_DISABLE_JIT is set, but training needs compiled functions: unset it")


def apply_workarounds() -> None:
    """Works around known bugs of the installed versions."""
    installed = {
        name.lower().replace("_", "-")
        for package in importlib.metadata.distributions()
        if (name := package.metadata["Name"])
    }
    cuda = any(name.startswith("jax-cuda") and name.endswith("plugin") for name in installed)
    fix_slow_scatter(importlib.metadata.version("jaxlib"), cuda)
