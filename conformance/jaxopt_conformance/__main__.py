"""The command: ``python -m jaxopt_conformance LIBRARY [RECORDING ...]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError

from jaxopt_conformance import libraries, recordings
from jaxopt_conformance.checking import TOLERANCE
from jaxopt_conformance.formatting import FORMATS
from jaxopt_conformance.running import about, run


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser("jaxopt_conformance", description="Compare a library with its optimizers' authors.")
    made.add_argument("library", nargs="?", help=f"one of {', '.join(libraries.names())}")
    made.add_argument("recording", nargs="*", help="recordings to replay [all that the library has a call for]")
    made.add_argument("--format", choices=("table", "markdown", "json"), default="table", help="[%(default)s]")
    made.add_argument("--tolerance", type=float, default=TOLERANCE, help="of the distance moved [%(default)s]")
    made.add_argument("--strict", action="store_true", help="exit with status 1 if a recording isn't reproduced")
    made.add_argument("--list", action="store_true", help="list the recordings and exit")
    return made


def main(words: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
      The exit status: 1 with ``--strict`` and a departure, 2 for a mistake of the user.
    """
    flags = parser().parse_args(words)
    if flags.list or not flags.library:
        print("\n".join(f"{name:<32}{recordings.load(name).optimizer}" for name in recordings.names()))
        return 0
    try:
        library = libraries.load(flags.library)
        versions = about(library)
        results = list(run(library, flags.recording, flags.tolerance))
    except PackageNotFoundError as error:
        print(
            f"jaxopt_conformance: {error.name} isn't installed; install with: pip install {error.name}", file=sys.stderr
        )
        return 2
    except KeyError as error:
        print(f"jaxopt_conformance: {error.args[0]}", file=sys.stderr)
        return 2
    print(FORMATS[flags.format](versions, results), end="")
    return int(flags.strict and any(result.verdict != "agrees" for result in results))


def console() -> None:
    """The installed command."""
    sys.exit(main())


if __name__ == "__main__":
    console()
