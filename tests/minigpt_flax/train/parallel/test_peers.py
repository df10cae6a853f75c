"""Processes that do nothing but connect: every end of one ends the others, soon, with one line and the right status."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
BEGIN = """
import os, sys, time
from minigpt_flax.errors import Failed, UserError
from minigpt_flax.cli import entry
from minigpt_flax.train.parallel import peers as module
from minigpt_flax.train.parallel.peers import Peers, Place
from minigpt_flax.train.stop import Stop
port, i, n, silence = map(int, sys.argv[1:])
sys.argv[0] = "train.py"
module.EXPECTED = 0.5
def main():
    with Stop() as stop:
        try:
            with Peers(Place("localhost", port, i, n, timeout=20, silence=silence), stop) as peers:
                peers.connect(20)
"""
END = """
        except KeyboardInterrupt:
            pass
        return stop.status
os._exit(entry.guarded("train.py", main))
"""


def free_port():
    """A port on which no program listens."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def spawn(body, port, process, count, silence=60, run=None):
    """Starts one process, which executes ``body`` when all are connected and it has said so."""
    body = f'peers.run = {run!r}\nprint("in", flush=True)\n{body}'
    lines = "".join(f"                {line}\n" for line in body.splitlines())
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", BEGIN + lines + END, *map(str, (port, process, count, silence))],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def several(*bodies, silence=60, run=None):
    """Starts a process for each body and waits until all are connected."""
    port = free_port()
    processes = [spawn(body, port, i, len(bodies), silence, run) for i, body in enumerate(bodies)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n", process.communicate()
    return processes


def ended(*processes, seconds=15):
    """Status and lines on standard error of each; none outlives this."""
    try:
        return [
            (process.returncode, err.splitlines())
            for process in processes
            for _, err in [communicate(process, seconds)]
        ]
    finally:
        for process in processes:
            process.kill()


def communicate(process, seconds):
    out, err = process.communicate(timeout=seconds)
    return out, "\n".join(line for line in err.splitlines() if line and not line.startswith("waiting "))


WAIT = "time.sleep(60)"


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_the_death_of_one_ends_all(killed):
    processes = several(WAIT, WAIT, WAIT)
    processes[killed].kill()
    begun = time.monotonic()
    ends = ended(*processes)
    assert time.monotonic() - begun < 8
    for i, (status, lines) in enumerate(ends):
        if i != killed:
            assert (status, len(lines)) == (1, 1), ends
            assert lines[0] == f"train.py: process {killed} is gone; start all processes again"


def test_the_line_says_how_to_continue():
    processes = several(WAIT, WAIT, run="runs/k")
    processes[1].kill()
    ((status, (line,)), _) = ended(*processes)
    assert status == 1
    assert "the last checkpoint is intact; continue with: " in line and "--resume runs/k (all processes" in line


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_process_ends_all_and_itself_when_it_continues(stopped):
    processes = several(WAIT, WAIT, silence=2)
    processes[stopped].send_signal(signal.SIGSTOP)
    ((status, lines),) = ended(processes[1 - stopped])
    assert (status, len(lines)) == (1, 1)
    assert f"process {stopped} has been silent for 2 s" in lines[0]
    processes[stopped].send_signal(signal.SIGCONT)
    ((status, lines),) = ended(processes[stopped])
    assert (status, len(lines)) == (1, 1)


def test_the_death_after_a_signal_has_the_status_of_the_signal():
    processes = several(WAIT, "peers.note_progress(True)\n" + WAIT)
    processes[1].send_signal(signal.SIGTERM)
    time.sleep(1)
    processes[1].kill()
    (status, lines), _ = ended(*processes)
    assert (status, lines[-1]) == (143, "train.py: process 1 is gone after SIGTERM; start all processes again")


@pytest.mark.parametrize("signalled", [0, 1])
def test_a_step_that_hangs_after_a_signal(signalled):
    forever = "while True: time.sleep(1)"
    processes = several(forever, forever, silence=2)
    processes[signalled].send_signal(signal.SIGTERM)
    for status, lines in ended(*processes):
        assert status == 143
        assert "no step ended within 2 s after SIGTERM" in lines[-1]
        assert sum("train.py:" in line for line in lines) == 1


def test_progress_after_a_signal_is_no_hang():
    body = "for _ in range(40): time.sleep(0.1); peers.note_progress(False)"
    processes = several(body, body, silence=2)
    processes[0].send_signal(signal.SIGTERM)
    ends = ended(*processes)
    assert [status for status, _ in ends] == [143, 143], ends
    assert not any("train.py:" in line for _, lines in ends for line in lines), ends


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(("error", "status"), [("UserError('no such spec')", 2), ("Failed('no such spec')", 1)])
def test_the_error_of_one_is_reported_by_the_other(failing, error, status):
    bodies = [WAIT, WAIT]
    bodies[failing] = f"raise {error}"
    ends = ended(*several(*bodies))
    assert ends[failing] == (status, ["train.py: no such spec"])
    assert ends[1 - failing] == (status, [f"train.py: process {failing}: no such spec"])


def test_the_same_error_in_all_is_reported_once_by_each():
    body = "peers.decide(0, len)\nraise UserError('no such spec')"
    assert ended(*several(body, body, body)) == [(2, ["train.py: no such spec"])] * 3


@pytest.mark.parametrize("failing", [0, 1])
def test_an_unexpected_error_keeps_its_traceback(failing):
    bodies = [WAIT, WAIT]
    bodies[failing] = "1 / 0"
    ends = ended(*several(*bodies))
    assert ends[failing][0] == 1
    assert ends[failing][1][0].startswith("Traceback") and ends[failing][1][-1] == "ZeroDivisionError: division by zero"
    line = f"train.py: process {failing}: ZeroDivisionError (its traceback is on its standard error)"
    assert ends[1 - failing] == (1, [line])


def test_an_error_that_follows_from_the_death_of_another_is_not_reported():
    wait = """other = peers.decide(0, lambda pids: pids[1])
while os.path.exists(f'/proc/{other}'): time.sleep(0.01)
1 / 0"""
    processes = several(wait, f"peers.decide(os.getpid(), None)\n{WAIT}")
    processes[1].kill()
    processes[1].wait()
    ((status, lines), _) = ended(*processes)
    assert (status, lines) == (1, ["train.py: process 1 is gone; start all processes again"])


@pytest.mark.parametrize("slow", [0, 1])
def test_one_that_ends_early_waits_for_the_other(slow):
    bodies = ["pass", "pass"]
    bodies[slow] = "time.sleep(3)"
    assert ended(*several(*bodies, silence=2)) == [(0, []), (0, [])]


def test_all_values_come_to_process_0_and_its_decision_to_all():
    body = """
for k in range(50):
    assert peers.decide(i + k, lambda values: [values[0], values[1], values[2], sum(values.values())])[3] == 3 + 3 * k
    assert peers.broadcast({"k": k} if i == 0 else None) == {"k": k}"""
    assert ended(*several(body, body, body)) == [(0, [])] * 3


@pytest.mark.slow
def test_two_have_the_same_number():
    port = free_port()
    ends = ended(*(spawn(WAIT, port, i, 3) for i in (0, 1, 1)))
    assert all((status, len(lines)) == (2, 1) for status, lines in ends), ends
    assert all("two processes have process=1: number them from 0" in lines[0] for _, lines in ends), ends


def test_they_disagree_on_how_many_they_are():
    port = free_port()
    ends = ended(spawn(WAIT, port, 0, 2), spawn(WAIT, port, 1, 3))
    assert all((status, len(lines)) == (2, 1) for status, lines in ends), ends
    assert all("process 1 was started with processes=3, process 0 with processes=2" in lines[0] for _, lines in ends)


def test_the_port_is_taken():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        ((status, lines),) = ended(spawn(WAIT, port, 0, 2))
    assert (status, len(lines)) == (2, 1)
    assert f"train.py: port {port} is taken: give all processes another port" in lines[0]


def test_another_program_answers():
    with socket.create_server(("", 0)) as other:
        port, process = other.getsockname()[1], None
        process = spawn(WAIT, port, 1, 2)
        for _ in range(3):
            connection, _ = other.accept()
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            connection.close()
        ((status, lines),) = ended(process)
    assert (status, len(lines)) == (2, 1)
    assert f"localhost:{port} is used by another program" in lines[0]


def test_noise_on_the_port_harms_nothing():
    port = free_port()
    first = spawn("pass", port, 0, 2)
    mimics = (b'{"kind": "fail", "text": "", "status": 0}\n', b'{"kind": "hello"}\n', b'{"kind": []}\n')
    for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"\xff\n", *mimics):
        while True:
            try:
                with socket.create_connection(("localhost", port)) as stranger:
                    stranger.sendall(noise)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
    assert ended(first, spawn("pass", port, 1, 2)) == [(0, []), (0, [])]


@pytest.mark.parametrize("process", [0, 1])
def test_a_signal_while_it_waits_for_the_others(process):
    port = free_port()
    waiting = spawn(WAIT, port, process, 2)
    assert waiting.stderr is not None
    whom = (f"at localhost:{port} for process 1", f"for process 0 at localhost:{port}")[process]
    assert waiting.stderr.readline() == f"waiting {whom}, at most 20 s\n"
    waiting.send_signal(signal.SIGTERM)
    ((status, _),) = ended(waiting, seconds=15)
    assert status == 143
