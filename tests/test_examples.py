"""The examples run, at sizes small enough for a test, and what they teach holds."""

import contextlib
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.minigpt_flax.training import ALONE, TINY, compiled, flags

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples"
SIZES = {name.replace("-", "_"): TINY[name] for name in ("layers", "heads", "width", "context", "batch-size")}


@pytest.fixture(autouse=True)
def defaults():
    """Readers have JAX's defaults, not the strict promotion of the other tests."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def example(name):
    """What an example does when it is run."""
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"]


def test_each_is_short_and_has_its_line_in_the_docs():
    page = (ROOT / "docs" / "examples" / "index.md").read_text("utf-8")
    for path in FOLDER.iterdir():
        assert path.suffix != ".py" or len(path.read_text("utf-8").splitlines()) <= 80
        assert f"examples/{path.name}" in page


@pytest.mark.slow
def test_quadratic():
    left = example("quadratic")(steps=300)
    along, across = zip(*left.values(), strict=True)
    assert left["sgd"][0] == pytest.approx(left["sgd"][1], rel=1)  # blind to how the valley lies
    assert left["momentum"][0] < left["sgd"][0] / 100
    assert left["adam"][1] > 100 * left["adam"][0] and left["soap"][1] < left["adam"][1]
    assert np.isfinite([*along, *across]).all()


@pytest.mark.slow
def test_lr_sweep():
    best, ends = example("lr_sweep")(steps=200, rates=5)
    assert 2e-3 < best < 9 and min(ends) < ends[0] / 2  # the best rate is none of those at the ends


@pytest.mark.slow
def test_digits_nnx():
    pytest.importorskip("sklearn")
    assert example("digits_nnx")(steps=60) > 0.9


@pytest.mark.slow
def test_own_text(capfd):
    loss = example("own_text")(str(ROOT / "LICENSE"), steps=30, mesh="data=1", **SIZES)
    said = capfd.readouterr().out
    assert 1 < loss < 4 and "step    0  loss" in said and f"validation loss {loss:.4f}" in said


@pytest.mark.slow
def test_two_processes(tmp_path):
    line = [sys.executable, str(FOLDER / "two_processes.py"), *flags(out=tmp_path, name="two", mesh="data=2")]
    environment = os.environ | ALONE | {"JAX_COMPILATION_CACHE_DIR": compiled()}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("validation    loss") + len(re.findall("^validation +loss", done.stdout, re.M)) == 1
    assert (tmp_path / "two" / "metrics.jsonl").is_file()


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(FOLDER / "tour.ipynb", as_version=4)
    assert notebook.cells[1].source.startswith("%pip install")
    with contextlib.chdir(tmp_path):
        nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    assert json.loads(json.dumps(notebook))
