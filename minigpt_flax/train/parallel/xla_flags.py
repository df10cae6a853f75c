"""What XLA must be told before JAX is imported. Imports no JAX."""

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
TUNABLES = "GLIBC_TUNABLES"  # what glibc reads when a process starts
HUGE_PAGES = "glibc.malloc.hugetlb"
HUGE_PAGES_SINCE = (2, 35)  # of glibc
ON_REQUEST = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # has [madvise] where a process must ask for them


def mend_scatter(jaxlib: str, cuda: bool, environment: MutableMapping[str, str] = os.environ) -> None:
    """Goes around a fault of some versions: on NVIDIA, sums into repeated places take hundreds of times too long.

    They add float32 numbers by comparing and swapping, and the gradient of an embedding waits for that
    (https://github.com/jax-ml/jax/issues/38806). What ``XLA_FLAGS`` already says stays.

    >>> environment = {}
    >>> mend_scatter("0.11.0", True, environment)
    >>> environment
    {'XLA_FLAGS': '--xla_backend_extra_options=-nvptx-allow-ftz-atomics'}
    >>> mend_scatter("0.11.2", True, environment := {"XLA_FLAGS": "--xla_dump_to=x"})
    >>> environment
    {'XLA_FLAGS': '--xla_dump_to=x'}

    Args:
      jaxlib: its version.
      cuda: whether JAX runs on NVIDIA's devices here.
      environment: is changed.
    """
    flags = environment.get("XLA_FLAGS", "")
    first, last = SLOW_SCATTER
    if cuda and first <= _numbers(jaxlib) <= last and "xla_backend_extra_options" not in flags:
        environment["XLA_FLAGS"] = f"{flags} {FAST_SCATTER}".strip()


def device_per_core(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets JAX see each core of this machine as a device, which the batch is then divided among like among others.

    One program that divides every product among the cores leaves them waiting for each other after each, much of the
    time where products are small: with a part of the batch each they meet once a step. A step of the preset ``nano``
    takes 65 ms on two cores, and 50 ms as two devices (``benchmarks.step``). What the environment already says stays.

    >>> device_per_core(environment := {"JAX_NUM_CPU_DEVICES": "1"})
    >>> environment
    {'JAX_NUM_CPU_DEVICES': '1'}

    Args:
      environment: is changed.
    """
    if "xla_force_host_platform_device_count" not in environment.get("XLA_FLAGS", ""):
        environment.setdefault("JAX_NUM_CPU_DEVICES", str(cores()))


def huge_pages() -> None:
    """Starts this process anew, if need be, so that its memory comes in pages of 2 MiB instead of 4 KiB.

    XLA:CPU takes the memory of a step from malloc and gives it back after it. Each time the kernel hands it out anew,
    page by page, each by a fault of its own and cleared: half a million faults in a step of the preset ``char`` with 16
    sequences, a fifth of its time (3.5 against 2.8 s on two cores; seen by ``getrusage``). malloc asks for huge pages
    if glibc is told so, which it reads only at the start of a process. What the environment already says stays.
    Nothing is done where the words of this process aren't those that Python was started with (a notebook's ``%run``),
    or under a debugger, profiler or coverage tool, which would lose the process.
    """
    if sys.platform != "linux" or is_traced() or not own_words(sys.argv, sys.orig_argv):
        return
    if asks_in_vain(os.environ, libc(), ON_REQUEST):
        told = [os.environ[TUNABLES]] if TUNABLES in os.environ else []
        os.environ[TUNABLES] = ":".join([*told, f"{HUGE_PAGES}=1"])
        with contextlib.suppress(OSError):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def asks_in_vain(environment: MutableMapping[str, str], libc: str, on_request: Path) -> bool:
    """Whether malloc could ask for huge pages, would get them, and isn't told to.

    Args:
      environment: of the process.
      libc: its name and version.
      on_request: the kernel's file that says who gets them.

    >>> asks_in_vain({}, "musl 1.2", Path("enabled")), asks_in_vain({}, "glibc 2.31", Path("enabled"))
    (False, False)
    """
    name, _, version = libc.partition(" ")
    if name != "glibc" or _numbers(version) < HUGE_PAGES_SINCE or HUGE_PAGES in environment.get(TUNABLES, ""):
        return False
    try:
        return "[madvise]" in on_request.read_text()
    except OSError:  # a kernel without them
        return False


def libc() -> str:
    """Name and version of the C library, ``"glibc 2.36"``; empty if it has none."""
    name = "CS_GNU_LIBC_VERSION"
    return (os.confstr(name) or "") if name in os.confstr_names else ""


def is_traced() -> bool:
    """Whether a debugger, a profiler or a coverage tool watches this process."""
    tools = getattr(sys, "monitoring", None)  # since Python 3.12
    watched = tools is not None and any(tools.get_tool(number) is not None for number in range(6))
    return watched or sys.gettrace() is not None or sys.getprofile() is not None


def own_words(argv: Sequence[str], orig_argv: Sequence[str]) -> bool:
    """Whether a process does nothing but what it was started for: then the same words start it again.

    >>> own_words(["train.py", "--list"], ["python", "train.py", "--list"])
    True
    >>> own_words(["/x/minigpt_flax/__main__.py", "eval"], ["python", "-m", "minigpt_flax", "eval"])
    True
    >>> own_words(["/x/benchmarks/step.py"], ["python", "-X", "dev", "-m", "benchmarks.step"])
    True
    >>> own_words(["train.py"], ["python", "-m", "ipykernel_launcher", "-f", "kernel.json"])
    False
    >>> own_words(["train.py"], ["python", "-m", "pdb", "train.py"])
    False
    """
    words = len(orig_argv) - len(argv[1:])
    before = _without_options(list(orig_argv[1:words]))
    if list(orig_argv[words:]) != list(argv[1:]) or len(before) != 1 + (before[:1] == ["-m"]):
        return False
    module = before[1].split(".") if before[0] == "-m" else None
    parts = [part for part in Path(argv[0]).with_suffix("").parts if part != "__main__"]
    return before[-1] == argv[0] if module is None else parts[-len(module) :] == module


def _without_options(words: list[str]) -> list[str]:
    """What is left of Python's own words: a script, or ``-m`` and a module."""
    while words and words[0].startswith("-") and words[0] != "-m":
        words = words[2 if words[0] in ("-X", "-W") else 1 :]
    return words


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())


def require_jit(environment: Mapping[str, str] = os.environ) -> None:
    """Refuses to train where JAX is told not to compile.

    Raises:
      UserError: ``JAX_DISABLE_JIT`` is set.
    """
    if environment.get("JAX_DISABLE_JIT", "").lower() in ("y", "yes", "t", "true", "on", "1"):
        raise UserError("JAX_DISABLE_JIT is set, but training needs compiled functions: unset it")


def mend() -> None:
    """Goes around what is known of the versions that are installed."""
    installed = {
        name.lower().replace("_", "-")
        for package in importlib.metadata.distributions()
        if (name := package.metadata["Name"])
    }
    cuda = any(name.startswith("jax-cuda") and name.endswith("plugin") for name in installed)
    mend_scatter(importlib.metadata.version("jaxlib"), cuda)
