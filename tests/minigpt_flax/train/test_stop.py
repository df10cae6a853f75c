"""Signals while the main thread is where no Python code runs, as it is while it compiles."""

import signal
import subprocess
import sys
import time

from minigpt_flax.train.stop import Stop
from tests.minigpt_flax.training import ROOT

BUSY = """
import hashlib
from minigpt_flax.train.stop import Stop
with Stop() as stop:
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})
    print("asked", stop(), flush=True)
raise SystemExit(stop.status)
"""


def busy(rounds):
    """A process whose main thread is inside C."""
    code = BUSY.format(rounds=rounds)
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "busy\n"
    time.sleep(0.2)  # until it is inside
    return process


def test_a_request_is_told_at_once_and_a_second_ctrl_c_obeyed_at_once():
    process = busy(10**9)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert process.stderr.readline() == "stopping after this compilation (Ctrl-C: quit now)\n"
    process.send_signal(signal.SIGTERM)  # changes nothing
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "\nquit without saving; earlier checkpoints are intact\n"
    assert time.monotonic() - begin < 30  # of the hours that it would have taken


def test_a_request_is_seen_as_soon_as_python_runs_again():
    process = busy(2 * 10**6)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "asked True\n")
    assert "stopping after this step (Ctrl-C: quit now)" in err


def test_the_signals_are_given_back():
    before = [signal.getsignal(number) for number in Stop.SIGNALS]
    with Stop() as stop:
        assert signal.getsignal(signal.SIGTERM) == stop._handle
        wakeup = signal.set_wakeup_fd(-1)
        assert wakeup != -1
        signal.set_wakeup_fd(wakeup)
    assert [signal.getsignal(number) for number in Stop.SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
