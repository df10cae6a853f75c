"""Odd words, damaged folders and odd outputs are answered in one line; see tests/breaker."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS, CASES = 4, 50  # what the quick tests run


def broken(*arguments):
    """What the breaker prints, if anything was answered wrongly."""
    command = [sys.executable, "-m", "tests.breaker", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("seed", range(1, PARTS + 1))
def test_some_cases(seed):
    assert broken("--sample", CASES, "--seed", seed, "--jobs", 1) == ""


@pytest.mark.slow
def test_all_cases():
    assert broken() == ""
