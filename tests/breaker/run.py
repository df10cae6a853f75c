"""Runs cases: each in a process forked from this one, which has imported everything and started no JAX backend."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import importlib
import os
import pkgutil
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.breaker import world
from tests.breaker.cases import Case

SECONDS = 20  # of processor time
PATIENCE = 90  # seconds by the clock, on a machine that does other things
STILL = 6  # seconds without any processor time: the process waits for something that doesn't come
ADDRESSES = 12 << 30  # bytes of address space; JAX alone takes 4 GiB
RESIDENT = 3 << 30  # bytes
POLL = 0.02
THEN = 64  # is added to the status of a second line
TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
SECBIT_NOROOT, PR_SET_SECUREBITS, CAPABILITY_VERSION = 1, 28, 0x20080522


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
      status: exit status, or minus the signal that ended the process.
      out: standard output.
      err: standard error.
      before: what was in the case's folder.
      after: what is there now.
      stopped: why the process was ended from outside, if it was.
      orphans: whether processes were left.
      seconds: by the clock.
    """

    status: int
    out: bytes
    err: bytes
    before: dict[str, world.Entry]
    after: dict[str, world.Entry]
    stopped: str = ""
    orphans: bool = False
    seconds: float = 0.0


@dataclass
class Process:
    """A case that runs."""

    case: Case
    root: Path
    pid: int
    streams: tuple[int, int]
    before: dict[str, world.Entry]
    said: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    started: float = field(default_factory=time.monotonic)
    ticks: int = -1
    moved: float = field(default_factory=time.monotonic)


def load() -> None:
    """Imports all of the project, as one that is forked then needn't; starts no thread."""
    import minigpt_flax

    for module in pkgutil.walk_packages(minigpt_flax.__path__, "minigpt_flax."):
        importlib.import_module(module.name)
    for name in ("matplotlib.pyplot", "orbax.checkpoint", "plotext", "rich.progress", "tensorboardX", "safetensors"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def run_all(cases: Iterable[Case], bases: Path, folder: Path, jobs: int) -> Iterator[tuple[Case, Outcome]]:
    """Runs ``jobs`` cases at a time; yields each with its outcome as it ends."""
    waiting, running = iter(cases), []
    while True:
        while len(running) < jobs and (case := next(waiting, None)) is not None:
            running.append(start(case, bases, folder))
        if not running:
            return
        for process in list(running):
            outcome = look(process)
            if outcome is not None:
                running.remove(process)
                world.remove(process.root)
                yield process.case, outcome
        time.sleep(POLL)


def start(case: Case, bases: Path, folder: Path) -> Process:
    """Makes the case's folder and forks."""
    root = folder / case.id
    work = world.populate(root)
    world.add_bases(work, bases, case.bases)
    if case.make is not None:
        case.make(work)
    return _fork(case, root, work)


def _fork(case: Case, root: Path, work: Path) -> Process:
    before = world.snapshot(root)
    sys.stdout.flush()
    sys.stderr.flush()
    pipes = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        _child(case, root, work, pipes[0][1], pipes[1][1])
    for reader, writer in pipes:
        os.close(writer)
        os.set_blocking(reader, False)
    return Process(case, root, pid, (pipes[0][0], pipes[1][0]), before)


def look(process: Process) -> Outcome | None:
    """Outcome of a process that has ended, or that has to be ended now; None while it may run."""
    pid, status, _ = os.wait4(process.pid, os.WNOHANG)
    _hear(process)
    stopped = "" if pid else _too_much(process)
    if not pid and not stopped:
        return None
    if stopped:
        os.killpg(process.pid, signal.SIGKILL)
        _, status, _ = os.wait4(process.pid, 0)
    return _outcome(process, os.waitstatus_to_exitcode(status), stopped)


def _outcome(process: Process, status: int, stopped: str) -> Outcome:
    orphans = not _gone(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in process.streams:
        os.close(stream)
    out, err = map(bytes, process.said)
    taken = time.monotonic() - process.started
    return Outcome(status, out, err, process.before, world.snapshot(process.root), stopped, orphans, taken)


def _hear(process: Process) -> None:
    """Takes what a process has written. Pipes, as a full disk is no reason for them to fail."""
    for stream, said in zip(process.streams, process.said, strict=True):
        with contextlib.suppress(BlockingIOError):
            while more := os.read(stream, 1 << 16):
                said += more


def _gone(group: int) -> bool:
    """Whether a process has left no others, within a second."""
    end = time.monotonic() + 1
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(POLL)
    return False


def _too_much(process: Process) -> str:
    """Why a process can't be let run on, if it can't."""
    now = time.monotonic()
    try:
        state = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        memory = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return ""
    ticks = sum(map(int, state[11:15]))
    if now - process.moved > STILL:  # perhaps it waits for processes that it has started
        ticks += _ticks_of_others(process.pid)
    if ticks != process.ticks:
        process.ticks, process.moved = ticks, now
    if ticks > SECONDS * TICKS or now - process.started > PATIENCE:
        return f"endless: {ticks / TICKS:.0f} s of processor time"
    if memory > RESIDENT:
        return f"memory: {memory >> 20} MiB"
    return f"hangs: {STILL} s without any processor time" if now - process.moved > STILL else ""


def _ticks_of_others(session: int) -> int:
    """Processor time of the other processes of a session."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            state = path.read_text().rsplit(")", 1)[1].split()
            found += sum(map(int, state[11:15])) if int(state[3]) == session and path.parent.name != str(session) else 0
    return found


def _child(case: Case, root: Path, work: Path, out: int, err: int) -> None:
    """Becomes the process of a case; never returns."""
    status = 1
    try:
        os.setsid()
        os.chdir(work)
        _redirect(out, err)
        _limit(case)
        os.environ["HOME"] = str(root / world.HOME)
        status = _cold(case.argv) if case.cold else _warm(case.argv, case.then)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(status & 0xFF)


def _redirect(out: int, err: int) -> None:
    """Lets the standard streams be pipes, and an empty input."""
    for stream, number in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
        os.dup2(stream, number)
    os.closerange(3, 256)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115


def _limit(case: Case) -> None:
    """Bounds memory and files; takes root's right to open everything, as a user has none."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if case.disk is not None:
        import jax

        jax.config.update("jax_enable_compilation_cache", False)
        resource.setrlimit(resource.RLIMIT_FSIZE, (case.disk, case.disk))
    if os.geteuid() == 0 and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_SECUREBITS, SECBIT_NOROOT, 0, 0, 0)
        libc.capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)())


def _warm(argv: tuple[str, ...], then: tuple[str, ...]) -> int:
    """Runs a command in this process, as ``minigpt`` would, and another after it."""
    from minigpt_flax.__main__ import main

    sys.argv = ["minigpt", *argv]
    status = _status(lambda: main(list(argv)))
    if then and status == 0:
        status = _status(lambda: main(list(then)))
        status += THEN if status else 0
    with contextlib.suppress(AttributeError):
        threading._shutdown()  # what Python does when it ends
    atexit._run_exitfuncs()
    return status


def _status(call: Callable[[], int]) -> int:
    """Exit status that Python would give the process."""
    try:
        return call()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def _cold(argv: tuple[str, ...]) -> int:
    """Becomes a new process, as a user starts it."""
    import minigpt_flax

    script = Path(minigpt_flax.__file__).parents[1] / "train.py"
    start = [str(script), *argv[1:]] if argv[0] == "train" else ["-m", "minigpt_flax", *argv]
    os.execv(sys.executable, [sys.executable, *start])


def kept_bases(kept: Path, folder: Path) -> Path:
    """The folders that cases damage, made once for these sources by the commands of the project.

    Args:
      kept: where they are kept.
      folder: for temporary files.
    """
    with open(f"{kept}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            _make_bases(folder / "bases", folder)
            shutil.move(folder / "bases", kept)
    return kept


def _make_bases(bases: Path, folder: Path) -> None:
    for name, lines in world.BASES.items():
        root = folder / f"made-{name.replace('/', '-')}"
        work = world.populate(root)
        for argv in lines:
            _succeed(argv, root, work)
        shutil.copytree(work / name, bases / name, symlinks=True)


def _succeed(argv: list[str], root: Path, work: Path) -> None:
    """Runs a line that must work."""
    process = _fork(Case("base", tuple(argv)), root, work)
    while (outcome := look(process)) is None:
        time.sleep(POLL)
    if outcome.status:
        raise SystemExit(f"the line {' '.join(argv)} ended with {outcome.status}:\n{outcome.err.decode()}")
