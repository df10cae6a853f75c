"""Runs Optax's own test suite with this library's functions in the place of Optax's.

    git clone --branch v0.2.8 https://github.com/google-deepmind/optax DIR
    python -m tests.optax_suite DIR

Every function of this library replaces the function of the same name in every module of Optax that has it, before the
test modules are imported. Modules in which nothing is replaced are left out. A failure is expected if ``EXPECTED``
gives its reason; the script prints the tests by reason and exits with 1 if others fail. It needs scipy and scikit-learn
beside the test requirements.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import pkgutil
import re
import sys
import types
from pathlib import Path
from typing import Any

import optax
import pytest

import jaxopt_mini
import jaxopt_mini.schedules
import jaxopt_mini.transforms
import jaxopt_mini.wrappers

TESTED = ("_src", "contrib", "schedules", "transforms")  # folders with functions of which this library has some
OTHERS = "optax.tree"  # modules whose functions do something else under the same name: ``tree.scale``
EXPECTED = {  # pattern of the test's name -> why it fails
    "LookaheadTest": "lookahead wraps an optimizer and has a state of its own, instead of pairs of parameters",
    "SAMTest": "sam takes its second gradient from loss_fn, instead of alternating with its own optimizer",
    "test_centralize": "centralize averages over the inputs of Flax's kernels, not of PyTorch's",
    "PartitionTest::test_labels_mismatch": "trace refuses a decay of 1",
    "ExtraArgsTest::test_extra_args|starts_with_step_count_zero": "integer parameters are refused",
    "test_hyperparam_default_dtype_bf16": "injected numbers keep float32 with bfloat16 parameters",
    "in_inject_hyperparams18": "noisy_sgd annotates its integer key as ArrayLike: give static_args='key'",
    "test_lion_invalid_mode|test_bad_structure|test_selective_bad_structure": "the same error in other words",
    "test_scale_by_polyak_l1_norm": "a missing loss is a ValueError, not a TypeError",
    "ClippingTest::test_clip_by_block_rms": "the last digit: 0.9999999",
    "test_nnls[45]": "fails with Optax's own functions too",
}


def our_functions() -> dict[str, Any]:
    """Public functions by name."""
    modules = (jaxopt_mini.wrappers, jaxopt_mini.transforms, jaxopt_mini.schedules, jaxopt_mini)
    found = {name: value for module in modules for name, value in vars(module).items() if not name.startswith("_")}
    return {name: value for name, value in found.items() if isinstance(value, types.FunctionType)}


def replace() -> dict[str, list[str]]:
    """Replaces Optax's functions; returns the names by module."""
    for module in pkgutil.walk_packages(optax.__path__, "optax."):
        if not module.name.endswith("_test"):
            importlib.import_module(module.name)
    replaced = collections.defaultdict(list)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "optax" and not name.startswith(OTHERS):
            for function, ours in our_functions().items():
                theirs = vars(module).get(function)
                if isinstance(theirs, types.FunctionType) and theirs.__module__.startswith("optax"):
                    setattr(module, function, ours)
                    replaced[name].append(function)
    return replaced


class Record:
    """Pytest plugin: the outcome of every test, and the last line of a failure."""

    def __init__(self) -> None:
        self.outcomes: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("optax/")[2]
        if report.outcome == "failed" or (report.when == "call" or report.skipped) and name not in self.outcomes:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.outcomes[name] = report.outcome, crash.message.partition("\n")[0] if crash else ""


def reason(test: str) -> str | None:
    """Why a test may fail, or None."""
    return next((why for pattern, why in EXPECTED.items() if re.search(pattern, test)), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="a checkout of the installed version of Optax")
    parser.add_argument("-k", default="", help="as pytest's")
    parser.add_argument("--original", action="store_true", help="replace nothing, to see what fails in Optax alone")
    given = parser.parse_args()
    replaced, record = {} if given.original else replace(), Record()
    print(f"{sum(map(len, replaced.values()))} functions replaced, {len(set().union(*replaced.values()))} names")
    files = [str(file) for folder in TESTED for file in sorted((given.dir / "optax" / folder).glob("*_test.py"))]
    options = ["-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "--import-mode=importlib", "-o", "addopts="]
    pytest.main([*options, "--rootdir", str(given.dir), "-c", "/dev/null", "-k", given.k, *files], plugins=[record])

    reasons, unexpected = collections.Counter(), 0
    for test, (outcome, said) in record.outcomes.items():
        why = reason(test) if outcome == "failed" else None
        reasons[why or outcome] += 1
        if outcome == "failed" and why is None:
            unexpected += 1
            print(f"{test}: {said}")
    for why, number in reasons.most_common():
        print(f"{number:6d}  {why}")
    return int(unexpected > 0)


if __name__ == "__main__":
    sys.exit(main())
