"""``python -m tests.breaker``: runs the cases, prints what was answered wrongly, and ends with 1 if anything was."""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
CAUSES = 40  # that the table shows
COLD = 40  # cases that are run as new processes, too
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def main() -> int:
    """Reads the command line, makes the cases, runs and judges them."""
    options = arguments().parse_args()
    begin(options.against)
    from tests.breaker import cases, run
    from tests.breaker.judge import judge

    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK, "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}
    kept = keep()
    run.load()
    with scratch() as folder:
        bases = run.kept_bases(kept / "bases", folder)
        chosen = choose(cases, options, bases)
        if options.list:
            print(*(describe(case) for case in chosen), sep="\n")
            return 0
        started, wrong = time.monotonic(), []
        for number, (case, outcome) in enumerate(run.run_all(chosen, bases, folder, options.jobs), 1):
            if found := judge(case, outcome):
                wrong.append((case, found))
                print(f"{describe(case)}\n    " + "\n    ".join(map(printable, found)), flush=True)
            if options.case:
                print(printable(f"status {outcome.status}\n{outcome.out.decode()}\n{outcome.err.decode()}"))
            if number % 200 == 0:
                print(f"{number} of {len(chosen)} cases, {len(wrong)} wrong", file=sys.stderr, flush=True)
    table(chosen, wrong, time.monotonic() - started)
    return int(bool(wrong))


def arguments() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.breaker", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the choice among odd values [0]")
    parser.add_argument("--sample", type=int, metavar="N", help="run so many of the cases [all]")
    parser.add_argument("--kind", action="append", help="run this kind; repeatable [all]")
    parser.add_argument("--case", action="append", metavar="ID", help="run this case and print its output; repeatable")
    parser.add_argument("--against", type=Path, default=ROOT, metavar="DIR", help="another checkout to run [this one]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time [cores]")
    parser.add_argument("--list", action="store_true", help="list the cases instead of running them")
    return parser


def begin(against: Path) -> None:
    """Starts this process again with the checkout to test first among Python's paths."""
    path = os.pathsep.join(map(str, dict.fromkeys((against.resolve(), ROOT))))
    if os.environ.get("PYTHONPATH") != path or not sys.flags.safe_path:
        os.environ["PYTHONPATH"] = path
        os.execv(sys.executable, [sys.executable, "-P", "-m", "tests.breaker", *sys.argv[1:]])


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder; unlike Python's own, not removed by forked processes that end."""
    from tests.breaker import world

    folder = Path(tempfile.mkdtemp(prefix="breaker-"))
    try:
        yield folder
    finally:
        world.remove(folder)


def keep() -> Path:
    """A folder for what depends on the sources alone, and is kept; sets what all cases find in their environment."""
    import minigpt_flax

    digest = hashlib.sha256(str(ROOT).encode())
    here = Path(__file__).parent
    for file in (*sorted(Path(minigpt_flax.__file__).parent.rglob("*.py")), here / "world.py", here / "tables.py"):
        digest.update(file.read_bytes())
    kept = Path(tempfile.gettempdir()) / f"breaker-kept-{os.getuid()}-{digest.hexdigest()[:12]}"
    kept.mkdir(exist_ok=True)
    os.environ |= {
        "XDG_CACHE_HOME": str(kept),
        "MPLCONFIGDIR": str(kept / "matplotlib"),
        "JAX_COMPILATION_CACHE_DIR": str(kept / "programs"),  # all of them: most cases compile the same
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return kept


def choose(cases, options: argparse.Namespace, bases: Path) -> list:
    """The cases that were asked for."""
    every = cases.make(options.seed, bases, options.kind or list(cases.KINDS))
    if options.kind is None:
        every += cases.colder(every, options.seed, COLD)
    if options.case:
        return [case for case in every if case.id in options.case]
    # By their digests, so that a new case or a changed one leaves the choice among the others as it is.
    order = lambda case: hashlib.sha256(f"{options.seed} {case.id}".encode()).digest()
    return sorted(every, key=order)[: options.sample]


def printable(text: str) -> str:
    """Text with everything that a terminal would obey escaped."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def describe(case) -> str:
    """A case on a line."""
    typed = printable(shlex.join(word if len(word) < 400 else f"{word[:40]}...[{len(word)}]" for word in case.argv))
    return f"{case.id}  {typed.replace(chr(10), '<newline>')}{f'  # {printable(case.damage)}' if case.damage else ''}"


def table(chosen: list, wrong: list, seconds: float) -> None:
    """Prints how many cases of each kind there were, and how many wrong answers of each kind."""
    from tests.breaker.judge import mechanism

    print(f"\n{'cases':10s} {'number':>7s} {'wrong':>7s}")
    failed = Counter(case.kind for case, _ in wrong)
    for kind, number in Counter(case.kind for case in chosen).items():
        print(f"{kind:10s} {number:7d} {failed[kind]:7d}")
    print(f"{'all':10s} {len(chosen):7d} {len(wrong):7d}\n\n{'wrong':10s} {'number':>7s}")
    for kind, number in Counter(text.partition(":")[0] for _, found in wrong for text in found).most_common():
        print(f"{kind:10s} {number:7d}")
    groups: dict[str, list[str]] = {}
    for case, text in ((case, text) for case, found in wrong for text in found):
        groups.setdefault(mechanism(text), []).append(case.id)
    print("\nof one cause, perhaps")
    for text, ids in sorted(groups.items(), key=lambda group: -len(group[1]))[:CAUSES]:
        print(f"{len(ids):5d}  {printable(text)}  [{ids[0]}]")
    print(f"\n{seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
