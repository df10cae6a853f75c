"""Several processes on this machine are one run: the same numbers, one output, one end."""

import json
import signal
import socket
import time

import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.train.parallel.multihost import broadcast_from_first, find_place, read_multihost
from tests.minigpt_flax.training import call, flags, records, resume, spawn, start


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("host:1", "has no key 'host:1'"),
        ("cordinator=a:1,processes=2,process=0", r"no key 'cordinator' \(did you mean 'coordinator'\?\)"),
        ("processes=2,process=0", "lacks a key: write --multihost auto, or"),
        ("coordinator=a:1,processes=2,process=2", "process 2 of 2: number them from 0"),
        ("coordinator=a:1,processes=two,process=0", "processes must be a whole number, got 'two'"),
        ("coordinator=a,processes=2,process=0", "must be HOST:PORT, got 'a'"),
        ("coordinator=a:70000,processes=2,process=0", "must be HOST:PORT, got 'a:70000'"),
        ("coordinator=a:1,processes=0,process=0", "processes must be at least 1, got 0"),
        ("coordinator=a:1,processes=2,process=0,silence=1", "silence must be at least 5, got 1"),
        ("coordinator=a:1,processes=2,process=0,timeout=0", "timeout must be at least 1, got 0"),
        ("auto,silense=60", r"no key 'silense' \(did you mean 'silence'\?\)"),
    ],
)
def test_a_multihost_value_that_can_not_be_read(text, message):
    with pytest.raises(UserError, match=message):
        read_multihost(text)


def test_the_environment_may_say_it():
    variables = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    assert read_multihost("auto", variables) == {"coordinator": "h:1", "processes": 2, "process": 1}
    assert read_multihost("auto", {}) == {}
    assert read_multihost("auto,timeout=7,silence=9", variables | {"JAX_PROCESS_ID": "0"}) == {
        "timeout": 7,
        "silence": 9,
        "coordinator": "h:1",
        "processes": 2,
        "process": 0,
    }


def test_slurm_may_say_it(monkeypatch):
    variables = {"JOB_ID": "7", "STEP_NODELIST": "node[3-6]", "NTASKS": "4", "PROCID": "2", "LOCALID": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    place = find_place("auto,silence=30")
    assert (place.host, place.process, place.processes, place.silence) == ("node3", 2, 4, 30)


def test_one_process_alone_is_the_first():
    assert broadcast_from_first(lambda: {1: "one"}) == {1: "one"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ended(*processes):
    """Status, output and errors of each; none outlives this."""
    try:
        streams = [process.communicate(timeout=300) for process in processes]
        return [(process.returncode, *pair) for process, pair in zip(processes, streams, strict=True)]
    finally:
        for process in processes:
            process.kill()


def several(count, *arguments, **variables):
    """Starts the processes of one run."""
    where = f"coordinator=127.0.0.1:{free_port()},processes={count},process="
    variables = {"JAX_NUM_CPU_DEVICES": "1", **variables}  # a run inside the test's process sets it to the cores
    return [spawn(*arguments, f"--multihost={where}{i}", **variables) for i in range(count)]


@pytest.mark.parametrize("process", [0, 1])
def test_the_other_process_is_missing(process, tmp_path):
    where = f"coordinator=127.0.0.1:{free_port()},processes=2,process={process},timeout=2"
    ((status, out, err),) = ended(spawn(*flags(out=tmp_path), f"--multihost={where}"))
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert "127.0.0.1" in err and "within 2 s" in err and "start every process" in err
    assert list(tmp_path.iterdir()) == []


def different(*pairs, **changes):
    """Starts two processes of one run whose arguments differ; both must end with status 2 and one line.

    Returns:
      The lines.
    """
    where = f"coordinator=127.0.0.1:{free_port()},processes=2,process="
    processes = [spawn(*flags(**changes), *pair, f"--multihost={where}{i}") for i, pair in enumerate(pairs)]
    ends = ended(*processes)
    assert [(status, out, err.count("\n")) for status, out, err in ends] == [(2, "", 1)] * 2, ends
    return [err for _, _, err in ends]


def test_processes_with_different_flags_do_not_train(tmp_path):
    lines = different(["--lr=0.01", "--seed=0"], ["--lr=0.001", "--seed=1"], out=tmp_path, mesh="data=2")
    output = "process 1 has --lr 0.001 --seed 1, process 0 has --lr 0.01 --seed 0: start all processes with the same"
    assert all(output in line for line in lines), lines
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_flag_of_one_process_is_reported_by_the_other(tmp_path):
    lines = different([], ["--lrr=3"], out=tmp_path)
    assert "train.py: process 1: unknown argument '--lrr=3'" in lines[0], lines
    assert "train.py: unknown argument '--lrr=3'" in lines[1], lines


@pytest.mark.parametrize(
    ("pair", "output"),
    [
        (["--name=a", "--name=b"], "process 1 has --name b, process 0 has --name a"),
        (["--stop-after=3", "--quiet"], "process 1 has no --stop-after, process 0 has --stop-after 3"),
    ],
)
def test_requests_that_differ_are_detected_before_jax_is_imported(tmp_path, pair, output):
    assert all(output in line for line in different(pair[:1], pair[1:], out=tmp_path))


@pytest.mark.slow
def test_processes_with_different_data_do_not_train(tmp_path):
    for i in (0, 1):
        (tmp_path / f"{i}.txt").write_text("The quick brown fox. " * (50 + i))
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "book.txt").symlink_to(tmp_path / f"{i}.txt")
    where = f"coordinator=127.0.0.1:{free_port()},processes=2,process="
    arguments = flags(out=tmp_path / "out", mesh="data=2", data="book.txt")
    ends = ended(*(spawn(*arguments, f"--multihost={where}{i}", cwd=tmp_path / str(i)) for i in (0, 1)))
    assert [(status, err.count("\n")) for status, _, err in ends] == [(2, 1)] * 2, ends
    assert all("process 1 has --data with the SHA-256" in err for _, _, err in ends)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_the_death_of_one_process_ends_the_other_with_a_line(tmp_path, killed):
    path = tmp_path / "run"
    processes = several(2, *flags(out=tmp_path, name="run", mesh="fsdp=2", steps=3000, eval_every=20))
    while sum(1 for _ in path.glob("metrics.jsonl")) == 0 or len(records(path)) < 50:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    processes[killed].kill()
    begun = time.monotonic()
    status, _, err = ended(*processes)[1 - killed]
    assert time.monotonic() - begun < 10
    assert (status, err.count("\n")) == (1, 1), err
    assert f"train.py: process {killed} is gone; the last checkpoint is intact; continue with: " in err
    saved = max(int(entry.name) for entry in (path / "checkpoints").iterdir() if entry.name.isdecimal())
    assert resume(path, "--mesh=data=1", f"--stop-after={saved + 5}") == 0
    assert records(path)[-1]["step"] == saved + 5


@pytest.mark.slow
def test_records_are_the_only_output(tmp_path):
    ends = ended(*several(2, *flags(out=tmp_path, name="run", mesh="data=2"), "--json"))
    assert [(status, err) for status, _, err in ends] == [(0, "")] * 2
    assert [json.loads(line) for line in ends[0][1].splitlines()]
    assert ends[1][1] == ""


def test_no_cluster(capfd, tmp_path):
    assert call(*flags(out=tmp_path), "--multihost=auto") == 2
    assert "finds no other processes" in capfd.readouterr().err


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process records."""
    path = tmp_path_factory.mktemp("alone") / "one"
    assert start(path) == 0
    return records(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"mesh": "data=2"}, {"mesh": "fsdp=2"}, {"mesh": "data=2", "parallel": "pmap"}], ids=str
)
def test_two_processes_are_one(tmp_path, one, changes):
    ends = ended(*several(2, *flags(out=tmp_path, name="two", **changes)))
    assert [(status, err) for status, _, err in ends] == [(0, ""), (0, "")]
    assert "validation loss" in ends[0][1] and ends[1][1] == ""
    two = records(tmp_path / "two")
    assert [line["step"] for line in two] == [line["step"] for line in one]
    for ours, theirs in zip(two, one, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-5)


@pytest.mark.slow
def test_a_signal_to_one_ends_all_and_one_process_continues(tmp_path):
    path = tmp_path / "run"
    processes = several(2, *flags(out=tmp_path, name="run", mesh="zero=2", steps=3000, eval_every=500))
    while sum(1 for _ in path.glob("metrics.jsonl")) == 0 or len(records(path)) < 100:
        assert processes[0].poll() is None
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    ends = ended(*processes)
    assert [status for status, _, _ in ends] == [143, 143], ends
    assert "continue with: python train.py --resume" in ends[0][1]
    done = records(path)[-1]["step"]
    assert (path / "checkpoints" / str(done)).is_dir()
    assert resume(path, "--mesh=data=1", f"--stop-after={done + 5}") == 0
    assert records(path)[-1]["step"] == done + 5


@pytest.mark.slow
def test_a_mistake_of_the_first_is_reported_by_all(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    ends = ended(*several(2, *flags(out=tmp_path, name="run", mesh="data=2")))
    assert [(status, err.count("\n")) for status, _, err in ends] == [(2, 1), (2, 1)], ends
    assert "exists already and is not a run" in ends[0][2]


@pytest.mark.slow
def test_devices_that_do_not_match(tmp_path):
    ends = ended(*several(2, *flags(out=tmp_path, name="run", mesh="data=1")))
    assert all(status == 2 and "2 processes must use them all" in err for status, _, err in ends), ends
    assert not (tmp_path / "run").exists()
