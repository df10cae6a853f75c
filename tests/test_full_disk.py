"""A disk that fills up: nothing is destroyed, one line says so, and everything works when there is room again."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = "--preset nano --data {text} --layers 1 --heads 2 --width 16 --context 8 --batch-size 4 --log-every 1"
COMMANDS = {  # each continues or replaces what is there, except in a new folder
    "train": f"train {TINY} --steps 40 --eval-every 10 --sample-tokens 8 --out {{disk}} --name new",
    "resume": "train --resume {disk}/half",
    "compare": f"compare {TINY} --steps 8 --eval-every 4 --opt adamw --opt lion --seeds 3 --out {{disk}} --name both",
    "prepare": "prepare {text} --tokenizer byte --out {disk}/tokens",
    "export": "export {run} --out {disk}/gpt2",
    "average": "average {run} --last 2 --out {disk}/average",
    "report": "report {run} --out {disk}/page.html",
    "diagnose": "diagnose {run} --only noise --out {disk}/diagnosis",
    "eval": "eval {run} --picture {disk}/positions.png",
    "cache": f"train {TINY} --steps 2 --eval-every 2 --sample-tokens 0 --out {{run}}/.. --name cached "
    "--compile-cache {disk}/cache",
}
pytestmark = pytest.mark.slow


def call(words, **places):
    typed = [part.format(text=ROOT / "LICENSE", **places) for part in words.split()]
    environment = {**os.environ, "XDG_CACHE_HOME": str(places["run"].parent / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "minigpt_flax", *typed],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run that every command can work on."""
    out = tmp_path_factory.mktemp("runs")
    train = f"train {TINY} --steps 8 --eval-every 4 --bias --mlp gelu_tanh --sample-tokens 8 --out {out} --name run"
    assert call(train, run=out / "run").returncode == 0
    return out / "run"


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk, free):
    """Fills the disk up, but for so many kB."""
    path = disk / "filling"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    os.truncate(path, max(0, path.stat().st_size - 1024 * free))
    return path


def contents(folder, without=()):
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in without]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("free", [0, 24, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(name, free, disk, run):
    half = f"train {TINY} --steps 40 --eval-every 10 --stop-after 12 --sample-tokens 8 --out {disk} --name half"
    if name == "resume":
        assert call(half, run=run).returncode == 0
    elif name in ("report", "diagnose", "eval"):  # what is there already must stay readable
        assert call(COMMANDS[name], disk=disk, run=run).returncode == 0
    (disk / "notes.txt").write_text("precious")
    before = contents(disk)
    filling = fill(disk, free)
    shutil.rmtree(run.parent / "cached", ignore_errors=True)
    found = call(COMMANDS[name], disk=disk, run=run)
    assert found.returncode in (0, 1, 2) and "Traceback" not in found.stderr, found.stderr
    if found.returncode:
        assert len(found.stderr.strip().splitlines()) == 1 and found.stderr.strip(), found.stderr
    after = contents(disk, without=["filling"])
    if name != "resume":
        changed = [path for path, content in before.items() if after.get(path) != content]
        assert not changed or found.returncode == 0, changed
    assert after["notes.txt"] == b"precious"
    filling.unlink()
    shutil.rmtree(run.parent / "cached", ignore_errors=True)
    if name == "train" and (disk / "new" / "config.json").exists():
        again = call(f"train --resume {disk}/new", run=run)
    elif name in ("prepare", "export", "average") and found.returncode == 0:
        return
    else:
        again = call(COMMANDS[name], disk=disk, run=run)
    assert again.returncode == 0, again.stderr
