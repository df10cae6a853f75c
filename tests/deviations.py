"""Prints how far every optimizer strays from each recorded trajectory: ``python -m tests.deviations``."""

from collections.abc import Iterator
from typing import NamedTuple

from tests.cases import CASES
from tests.cases_wrappers import WRAPPED
from tests.goldens import deviation, index

SOURCES = {"seed document": "the course", "PyTorch": "PyTorch"}  # other projects by their repositories


class Deviation(NamedTuple):
    """One trajectory."""

    file: str
    row: str
    source: str  # who recorded it
    symbol: str  # with what
    deviation: float  # largest at any step, in units of max(1, mean movement of the leaf)
    allowed: float
    reason: str  # why more than 1e-5 is allowed


def measured() -> Iterator[Deviation]:
    """Replays every trajectory."""
    entries = index()
    for name, case in (CASES | WRAPPED).items():
        for golden in case.goldens:
            reference = entries[golden.file]["reference"]
            source = SOURCES.get(reference["project"], reference["project"])
            symbol = reference["symbol"].split(" (")[0]
            yield Deviation(golden.file, name, source, symbol, deviation(golden), golden.tolerance, golden.reason)


def main() -> None:
    """Prints a line for each trajectory."""
    print(f"{'trajectory':<32}{'optimizer':<20}{'deviation':>10}{'allowed':>9}  reference")
    for file, row, source, symbol, size, allowed, reason in measured():
        print(f"{file:<32}{row:<20}{size:>10.1e}{allowed:>9.0e}  {source}: {symbol} {reason}".rstrip())


if __name__ == "__main__":
    main()
