"""How every command ends: errors as one line, signals, readers that leave, encodings, closed streams."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from minigpt_flax.__main__ import COMMANDS
from minigpt_flax.cli import entry
from minigpt_flax.errors import Failed, Interrupted, UserError
from minigpt_flax.explain import explain
from tests.minigpt_flax.training import ALONE, ROOT, TINY, compiled, flags

JaxRuntimeError = type("JaxRuntimeError", (RuntimeError,), {})
NAMED = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES)
ENDINGS = [
    (UserError("no\nsuch"), 2, "no such"),
    (Failed("the disk is full"), 1, "full"),
    (MemoryError(), 1, "out of memory: lower --batch-size"),
    (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes"), 1, "allocating 17 bytes): lower"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), 1, "out of memory"),
    (OSError(errno.ENOSPC, "No space left on device", "/x"), 1, "/x: No space left on device: free some space"),
    (OSError(errno.EIO, "Input/output error"), 1, "Input/output error"),
    *((OSError(number, os.strerror(number), "/x"), 2, f"can't use /x: {os.strerror(number)}") for number in NAMED),
    (RecursionError(), 2, "nested too deeply"),
    (ValueError("embedded null byte"), 2, "null byte"),
    (RuntimeError("Unable to initialize backend 'cuda': no"), 2, "JAX_PLATFORMS"),
    (UserError("a\x1b[31m\u202e"), 2, r"a\x1b[31m\u202e"),
]


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize("error, status, said", ENDINGS, ids=lambda value: type(value).__name__)
def test_an_error_is_one_line(error, status, said, capfd):
    assert entry.guarded("x", raising(error)) == status
    line = capfd.readouterr().err
    assert line.startswith("x: ") and said in line and line.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("?"), KeyError("?"), JaxRuntimeError("INTERNAL: ?"), AssertionError()])
def test_an_error_that_nobody_foresaw_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        entry.guarded("x", raising(error))


@pytest.mark.parametrize("command", COMMANDS)
def test_advice_against_a_lack_of_memory_fits_the_command(command):
    flags = {"sample": "--num", "diagnose": "--batches", "train": "--batch-size", "compare": "--batch-size"}
    _, line = explain(MemoryError(), command)
    assert flags.get(command, "") in line
    assert ("checkpoints" in line) is (command in ("train", "compare"))


def test_an_interrupted_command_has_the_signals_status():
    assert entry.guarded("x", raising(Interrupted(signal.SIGTERM))) == 143
    assert entry.guarded("x", raising(KeyboardInterrupt())) == 130


PLAIN = "signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL)"


def run(code, first="pass", redirected="", **how):
    """Python code as a command of its own.

    Args:
      code: of the command.
      first: code that runs before.
      redirected: redirections of a shell, such as ``>&-``.
      how: settings of the process.
    """
    program = (
        f"import signal, sys, time\n{first}\nfrom minigpt_flax.cli import entry\ndef main():\n {code}\n return 0\n"
    )
    program += "entry.start(lambda: entry.guarded('x', main))"
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT, **how}
    command = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-W", "error", "-c", program]
    return subprocess.Popen(command, **settings)


BUSY = {
    "python": "print('on', flush=True); time.sleep(60)",
    "c": "print('on', flush=True); import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
}


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
@pytest.mark.parametrize("busy", BUSY)
def test_every_signal_ends_a_command_quietly(busy, number):
    process = run(BUSY[busy], first=PLAIN)
    assert process.stdout.readline() == b"on\n"
    process.send_signal(getattr(signal, number))
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 128 + getattr(signal, number)


def test_a_signal_removes_a_folder_that_is_being_made(tmp_path):
    make = f"from minigpt_flax.runs import files\n from pathlib import Path\n out = Path({str(tmp_path / 'out')!r})\n "
    process = run(f"{make}with files.staged(out):\n  print('on', flush=True); time.sleep(60)")
    assert process.stdout.readline() == b"on\n"
    process.terminate()
    assert process.communicate(timeout=30)[1] == b"" and process.returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_a_signal_is_not_lost_where_python_ignores_exceptions(tmp_path):
    """In a destructor, while a file is being written."""
    lost = f"""from minigpt_flax.runs import files
 from pathlib import Path
 class Slow:
  def __del__(self): print('on', flush=True); time.sleep(1)
 with files.replacing(Path({str(tmp_path / "f")!r})):
  one = Slow(); del one
  time.sleep(60)"""
    process = run(lost)
    assert process.stdout.readline() == b"on\n"
    process.terminate()
    begun = time.monotonic()
    assert process.communicate(timeout=30)[1] == b"" and process.returncode == 143
    assert time.monotonic() - begun < 20 and list(tmp_path.iterdir()) == []


def test_a_signal_ignored_from_the_start_stays_ignored():
    process = run(
        "print('on', flush=True); sys.stdin.read(); print('end')",
        first="signal.signal(signal.SIGHUP, signal.SIG_IGN)",
        stdin=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"on\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.communicate(b"", timeout=30) == (b"end\n", b"") and process.returncode == 0


def test_a_reader_that_leaves_ends_a_command_with_141():
    with run("while True: print('x' * 1000, flush=True)") as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(30) == 141


def test_a_full_disk_under_standard_output_is_one_line():
    with open("/dev/full", "wb") as full:
        process = run("print('x')", stdout=full)
        assert process.communicate(timeout=30)[1] == b"x: standard output can't be written: No space left on device\n"
        assert process.returncode == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk", "latin-1", "utf-8"])
def test_no_encoding_ends_a_command(encoding):
    text = "梯度 ∇ é \\ud83d"
    process = run(f"print('{text}')", env=os.environ | {"PYTHONIOENCODING": encoding})
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"") and b"\\ud83d" in out


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_nothing(closed, tmp_path):
    """The file that is opened next doesn't get the closed stream's number."""
    target = tmp_path / "f"
    code = f"file = open({str(target)!r}, 'w'); print('x'); file.write('intact'); file.close()"
    process = run(code, redirected=closed)
    process.communicate(timeout=30)
    assert process.returncode == 0 and target.read_text() == "intact"


LEAVING = {
    "reader": (141, "the reader of standard output has closed the pipe"),
    "disk": (0, "standard output can't be written (No space left on device): training continues without it"),
}


@pytest.mark.parametrize("how", LEAVING)
def test_training_outlives_its_output(how, tmp_path):
    """A reader that leaves is a request to stop, which saves; a full disk under the log is no reason to end."""
    status, said = LEAVING[how]
    command = [sys.executable, str(ROOT / "train.py"), *flags(out=tmp_path, name="a", steps=60), "--json"]
    environment = os.environ | ALONE | {"JAX_COMPILATION_CACHE_DIR": compiled()}
    with open("/dev/full", "wb") as full:
        output = full if how == "disk" else subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.PIPE) as process:
            if how == "reader":
                process.stdout.readline()
                process.stdout.close()
            assert said in process.stderr.read().decode()
            assert process.wait(60) == status
    assert list((tmp_path / "a" / "checkpoints").glob("*/"))


@pytest.mark.slow
def test_children_end_with_a_parent_that_is_killed_and_the_comparison_continues(tmp_path):
    words = [f"--{name}={value}" for name, value in TINY.items() if name not in ("mesh", "steps", "eval-every")]
    words += ["--steps=20000", "--eval-every=10000", "--opt=adamw", "--opt=lion", "--seeds=3", "--jobs=2"]
    environment = os.environ | ALONE | {"JAX_COMPILATION_CACHE_DIR": compiled()}
    command = [sys.executable, "-m", "minigpt_flax", "compare", *words, f"--out={tmp_path}", "--name=c"]
    parent = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("c/*/*/metrics.jsonl")):
        time.sleep(0.2)
        assert parent.poll() is None
    children = [line for line in _processes() if str(tmp_path) in line and "--share" in line]
    assert len(children) == 2, _processes()
    parent.kill()
    parent.wait()
    time.sleep(5)
    assert not [line for line in _processes() if str(tmp_path) in line]


def _processes():
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()
