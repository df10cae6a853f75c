"""Settings that must be made before JAX is imported, or before the process starts."""

import os
import subprocess
import sys

import pytest

from minigpt_flax.train.parallel import xla_flags
from tests.minigpt_flax.training import ROOT


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Collects the arguments of a process that would be restarted; the kernel grants huge pages on request."""
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    arguments = []
    monkeypatch.setattr(xla_flags, "ON_REQUEST", tmp_path / "enabled")
    monkeypatch.setattr(xla_flags, "libc", lambda: "glibc 2.36")
    monkeypatch.setattr(os, "execv", lambda path, argv: arguments.extend(argv))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "argv", ["train.py", "--list"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "train.py", "--list"])
    monkeypatch.setenv(xla_flags.TUNABLES, "glibc.malloc.check=1")
    return arguments


def test_a_process_restarts_once(started):
    xla_flags.huge_pages()
    assert started == [sys.executable, "-u", "train.py", "--list"]
    assert os.environ[xla_flags.TUNABLES] == "glibc.malloc.check=1:glibc.malloc.hugetlb=1"
    xla_flags.huge_pages()
    assert len(started) == 4


@pytest.mark.parametrize("pages", ["[always] madvise never\n", "always madvise [never]\n"])
def test_no_restart_where_a_request_changes_nothing(started, tmp_path, pages):
    (tmp_path / "enabled").write_text(pages)
    xla_flags.huge_pages()
    assert not started


def test_no_restart_of_another_program(started, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "ipykernel_launcher", "-f", "kernel.json"])
    xla_flags.huge_pages()
    assert not started


def test_a_restart_that_fails_is_ignored(started, monkeypatch):
    def refuse(path, argv):
        raise PermissionError(path)

    monkeypatch.setattr(os, "execv", refuse)
    xla_flags.huge_pages()


@pytest.mark.skipif(
    sys.platform != "linux" or not xla_flags.huge_pages_unused({}, xla_flags.libc(), xla_flags.ON_REQUEST),
    reason="none here",
)
@pytest.mark.parametrize("arguments", [["train.py"], ["-m", "minigpt_flax", "train"]])
def test_the_commands_ask_for_huge_pages(arguments):
    command = [sys.executable, "-X", "importtime", *arguments, "--help"]
    there = os.environ | {xla_flags.TUNABLES: ""}
    output = subprocess.run(command, cwd=ROOT, env=there, capture_output=True, text=True, check=True)
    assert output.stderr.count(" site\n") == 2  # Python started twice
