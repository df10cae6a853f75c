"""What a run prints: records, nothing, or text for a person; the error stream has only what went wrong."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.minigpt_flax.training import ALONE, ROOT, call, compiled, flags, records, spawn, start
from train import main

COLOR = re.compile(r"\x1b\[[0-9;]*m")


def lines(capfd):
    """The records on the output; anything else there fails."""
    said = capfd.readouterr()
    assert said.err == ""
    return [json.loads(line) for line in said.out.splitlines()]


def test_json_prints_only_records(tmp_path, capfd):
    path = tmp_path / "run"
    assert main([*flags(out=tmp_path, name="run"), "--json", "--explosion=1e-9", "--stop-after=20"]) == 0
    assert main(["--resume", str(path), "--json"]) == 0
    said = lines(capfd)
    logged = [{name: value for name, value in line.items() if name not in ("event", "seconds")} for line in said]
    first, last = said[0], said[-1]
    assert (first["event"], first["step"], first["config"]["width"]) == ("begin", 0, 16) and first["parameters"] > 1000
    assert [line["step"] for line in said if line["event"] == "step" and "loss" in line] == list(range(1, 25))
    assert [line["step"] for line in said if line["event"] == "validation"] == [8, 16, 24]
    assert all(line in logged for line in records(path) if "loss" in line or "val_loss" in line)
    assert [line["text"] for line in said if line["event"] == "warning"][0].startswith("gradient norm ")
    (note,) = (line for line in said if line["event"] == "note")
    assert note["step"] == 20 and "continue with: " in note["text"]
    assert (last["event"], last["last"]["step"], last["sample"]) == ("end", 24, None)
    assert (path / "curves.png").is_file()


def test_quiet_prints_only_warnings(tmp_path, capfd):
    assert start(tmp_path / "well", "--quiet") == 0
    assert capfd.readouterr() == ("", "")
    assert start(tmp_path / "ill", "--quiet", "--explosion=1e-9") == 0
    said = capfd.readouterr()
    assert said.out == "" and said.err.startswith("gradient norm ") and said.err.count("\n") == 1


def test_quiet_and_json_together_are_refused(tmp_path, capfd):
    assert call(*flags(out=tmp_path), "--quiet", "--json") == 2
    assert "omit one" in capfd.readouterr().err


def test_a_normal_run_leaks_no_warning_and_no_escape(tmp_path):
    """As a shell starts it, without a terminal: nothing of JAX, Orbax or absl, no color, no moving bar, 80 columns."""
    out, err = (process := spawn(*flags(out=tmp_path, name="run", sample_tokens=8))).communicate(timeout=600)
    assert (process.returncode, err) == (0, "")
    assert "\x1b" not in out and "\r" not in out and "validation" in out and "curves" in out
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}], ids=["color", "NO_COLOR"])
def test_a_terminal(tmp_path, variables):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "train.py", *flags(out=tmp_path, name="run", steps=200)]
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environment = clean | ALONE | {"TERM": "xterm-256color", "COLUMNS": "80"} | variables
    environment["JAX_COMPILATION_CACHE_DIR"] = compiled()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b"".join(iter(lambda: _read(ours), b"")).decode()
    assert process.returncode == 0, said
    codes = {int(code) for found in COLOR.findall(said) for code in re.findall(r"\d+", found)}
    colored = any(30 <= code <= 49 or 90 <= code <= 107 for code in codes)
    assert colored is not bool(variables) and "left" in said


def _read(terminal):
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other end is closed
        return b""
