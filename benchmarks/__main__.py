"""``python -m benchmarks [--peers DIR] [--data TEXT] [--only NAME ...]``: every figure of speed, one after the other.

Each is a command of its own as well, ``python -m benchmarks.NAME``, where its options are; they take turns with their
peers there, and write into the same file of results. Those whose peers or text aren't given do without or are left out,
and say so.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser
from minigpt_flax.errors import UserError

PEERS, DATA = "--peers", "--data"
COMMANDS = {  # name -> module, what it is given, what it can't do without
    "start-up": ("startup", (), ()),
    "step": ("step", ("--preset=nanogpt", PEERS), ()),
    "step of char": ("step", ("--preset=char", PEERS), ()),
    "parts": ("parts", (), ()),
    "time to loss": ("to_loss", (PEERS, DATA), (PEERS, DATA)),
    "loop": ("loop", (), ()),
    "generation": ("generation", (PEERS,), ()),
    "compiling": ("compiling", (), ()),
    "update": ("update", (PEERS,), ()),
}


def run(arguments: list[str]) -> int:
    """Runs each in a process of its own: how JAX sees the cores is settled once a process."""
    parser = Parser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(PEERS, metavar="DIR", help="folder of the peers: nanoGPT/, muon.py, soap.py")
    parser.add_argument(DATA, metavar="TEXT", help="tiny Shakespeare, for the time to loss")
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=COMMANDS, default=tuple(COMMANDS))
    given = parser.parse(arguments)
    paths = {flag: given[flag.strip("-")] for flag in (PEERS, DATA)}
    for path in paths.values():
        if path is not None and not Path(path).exists():
            raise UserError(f"{path} does not exist")
    status = 0
    for name in given["only"]:
        module, takes, needs = COMMANDS[name]
        if absent := [flag for flag in needs if paths[flag] is None]:
            print(f"{name}: left out without {' and '.join(absent)}\n", flush=True)
            continue
        words = [word for word in takes if word not in paths]
        words += [f"{flag}={paths[flag]}" for flag in takes if paths.get(flag) is not None]
        status |= subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *words], check=False).returncode
        print(flush=True)
    return status


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
