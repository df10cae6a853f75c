"""Prints how far every optimizer strays from each recorded trajectory: ``python -m tests.deviations``."""

from tests.cases import CASES
from tests.cases_wrappers import WRAPPED
from tests.goldens import deviation, index


def main() -> None:
    """Prints a line for each trajectory."""
    entries = index()
    print(f"{'trajectory':<32}{'optimizer':<14}{'deviation':>10}{'allowed':>10}  reference")
    for name, case in (CASES | WRAPPED).items():
        for golden in case.goldens:
            reference = entries[golden.file]["reference"]["symbol"].split(" (")[0]
            print(
                f"{golden.file:<32}{name:<14}{deviation(golden):>10.1e}{golden.tolerance:>10.0e}  "
                f"{reference} {golden.reason}".rstrip()
            )


if __name__ == "__main__":
    main()
