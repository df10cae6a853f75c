"""The examples run, at sizes small enough for a test, and what they teach holds."""

import ast
import contextlib
import importlib
import inspect
import os
import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

import minigpt_flax as mg
from docs.examples.pages import OUTPUT, SECONDS, docstring, run
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


def masked(text):
    """The lines of an output, up to the generated text, without numbers and bars."""
    lines = re.split(r"\n\nThe ", text)[0].splitlines()
    return [re.sub(r"[-+]*\d[\d.e+-]*|#+| +", " ", line).split() for line in lines]


def test_every_script_is_short_and_on_the_site():
    index = (ROOT / "docs" / "examples" / "index.md").read_text("utf-8")
    assert {path.stem for path in FOLDER.glob("*.py")} == set(SECONDS)
    for name, seconds in SECONDS.items():
        lines = (FOLDER / f"{name}.py").read_text("utf-8").splitlines()
        assert len(lines) <= 80 and len(lines) - docstring(name)[2] <= 70
        assert re.search(rf"\(`?examples/{name}.py`|{name}.md\).*\| {seconds} s \|", index) and f"\n{name}\n" in index


@pytest.mark.parametrize("name", SECONDS)
def test_the_docstring_quotes_the_recorded_output(name):
    output = (OUTPUT / f"{name}.txt").read_text("utf-8")
    quoted = re.findall(r"^    (.+)$", docstring(name)[1], re.MULTILINE)
    assert any(line.startswith(f"python examples/{name}.py") for line in quoted)
    assert all(line.startswith("python ") or line in output for line in quoted)
    assert str(ROOT) not in output and "/tmp" not in output and "arning:" not in output


@pytest.mark.slow
@pytest.mark.parametrize("name", SECONDS)
def test_the_script_prints_what_was_recorded(name):
    """Up to numbers, which depend on the processor, and generated text."""
    if name == "digits_nnx":
        pytest.importorskip("sklearn")
    assert masked(run(name)) == masked((OUTPUT / f"{name}.txt").read_text("utf-8"))


def test_quadratic():
    left = example("quadratic")(steps=300)
    along, across = zip(*left.values(), strict=True)
    assert left["sgd"][0] == pytest.approx(left["sgd"][1], rel=1)  # blind to how the valley lies
    assert left["momentum"][0] < left["sgd"][0] / 100
    assert left["adam"][1] > 100 * left["adam"][0] and left["soap"][1] < left["adam"][1]
    assert np.isfinite([*along, *across]).all()


def test_lr_sweep():
    best, ends = example("lr_sweep")(steps=200, rates=5, seeds=2)
    assert 2e-3 < best < 9 and min(ends) < ends[0] / 2  # the best rate is none of those at the ends


def test_digits_nnx():
    pytest.importorskip("sklearn")
    assert example("digits_nnx")(steps=60) > 0.9


@pytest.mark.slow
def test_own_text(capsys, tmp_path):
    fields = {**SIZES, "steps": 50, "mesh": "data=1", "out": tmp_path}
    loss = example("own_text")(str(ROOT / "LICENSE"), prompt="The ", **fields)
    printed = capsys.readouterr().out
    assert 1 < loss < 4 and "step    1  loss" in printed and "step   50  loss" in printed
    assert f"validation loss {loss:.4f}" in printed and "\n\nThe " in printed


@pytest.mark.slow
def test_own_optimizer(capsys, tmp_path):
    fields = {**SIZES, "steps": 20, "eval_every": 20, "mesh": "data=1", "out": tmp_path}
    table = example("own_optimizer")(lr=(1e-3,), seeds=3, **fields)
    bytes_of = {row["name"].split(":")[-1]: row["state_bytes"] for row in table.rows}
    assert bytes_of.keys() == {"adamw", "factory"} and bytes_of["factory"] < 0.6 * bytes_of["adamw"]
    assert "paired t-test" in capsys.readouterr().out


@pytest.mark.slow
def test_own_optimizer_named_on_the_command_line():
    fields = {**SIZES, "steps": 20, "lr": 1e-3, "mesh": "data=1", "out": None, "quiet": True}
    result = mg.train(opt=f"{FOLDER / 'own_optimizer.py'}:factory", preset="nano", **fields)
    assert result.history[-1]["step"] == 20 and result.val_loss < result.history[0]["loss"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_the_names_that_an_example_imports_exist(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("jaxopt_mini", "minigpt_flax")):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.slow
def test_finetune_gpt2(tmp_path, capsys):
    space = runpy.run_path(str(FOLDER / "finetune_gpt2.py"))
    folder = space["small_gpt2"](str(tmp_path), steps=20)
    before, after = space["main"](folder, inspect.__file__, lr=3e-3, steps=20)
    assert after < before - 0.1 and f"{before:.4f} before" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(os, "environ", os.environ | ALONE | {"JAX_COMPILATION_CACHE_DIR": compiled()})
    own = [flag for flag in flags(out=tmp_path) if not flag.startswith("--mesh")]  # the script sets it
    two, one = example("two_processes")(*own)
    assert list(two) == list(one) and two[1] == pytest.approx(one[1], rel=1e-5)
    assert len(list(tmp_path.glob("*/metrics.jsonl"))) == 2 and capfd.readouterr().err == ""


def notebook():
    return pytest.importorskip("nbformat").read(FOLDER / "tour.ipynb", as_version=4)


def test_the_notebook_has_its_outputs():
    source = (FOLDER / "tour.ipynb").read_text("utf-8")
    assert len(source) < 400_000 and str(ROOT) not in source and "/tmp/" not in source and "/home/" not in source
    cells = [cell for cell in notebook().cells if cell.cell_type == "code"]
    assert "%pip install" in cells[0].source
    for cell in cells[1:]:
        assert cell.outputs and cell.execution_count
        assert all(output.get("name") != "stderr" and output.output_type != "error" for output in cell.outputs)
        pictures = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
        assert all(len(picture) < 80_000 for picture in pictures) and bool(pictures) == ("plt.show()" in cell.source)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    nbclient, saved, executed = pytest.importorskip("nbclient"), notebook(), notebook()
    with contextlib.chdir(tmp_path):
        nbclient.NotebookClient(executed, timeout=900, kernel_name="python3").execute()
    for before, after in zip(saved.cells, executed.cells, strict=True):
        printed = ["".join(o.get("text", "") for o in cell.get("outputs", [])) for cell in (before, after)]
        if "generate(" not in before.source:
            assert masked(printed[0]) == masked(printed[1])
