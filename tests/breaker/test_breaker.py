"""Odd arguments, damaged folders and odd outputs are answered in one line; see ``python -m tests.breaker --help``."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES, WHOLE = 15, 2500  # of each test


def broken(*arguments):
    """What the breaker prints, if anything was answered wrongly."""
    command = [sys.executable, "-m", "tests.breaker", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.slow
def test_some_cases():
    assert broken("--sample", CASES, "--jobs", 1) == ""


@pytest.mark.slow
def test_all_cases():
    assert broken("--sample", WHOLE) == ""
