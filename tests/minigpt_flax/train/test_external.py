"""Optimizers from outside of the project, by ``--opt FILE.py:factory``: trained, refused, trusted."""

import json
import subprocess
import sys

import jax
import pytest

from minigpt_flax.__main__ import main as minigpt
from minigpt_flax.train.restore import restore
from tests.minigpt_flax.training import ALONE, ROOT, TINY, call, flags, records, resume, start

CODE = """
import optax
print("imported")
def mine(learning_rate, b1=0.9):
    return optax.adam(learning_rate, b1=b1)
def masked(learning_rate, mask=None):
    assert mask is not None
    return optax.adamw(learning_rate, weight_decay=0.1, mask=mask)
def raises(learning_rate):
    raise RuntimeError("two\\nlines")
def wrong(learning_rate):
    return 3
def no_rate():
    return optax.sgd(0.1)
number = 3
class Space:
    made = staticmethod(mine)
"""


@pytest.fixture(autouse=True)
def as_users_have_it():
    """JAX's defaults: Optax's own optimizers don't work under the strict promotion of the other tests."""
    names = ("jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")  # for all threads
    before = {name: jax.config.values[name] for name in names}
    for name, value in zip(names, ("standard", "allow"), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "optimizers.py"
    path.write_text(CODE)
    return path


def test_a_factory_of_a_file_trains(file, tmp_path):
    assert start(tmp_path / "run", f"--opt={file}:mine(b1=0.8)") == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["opt"] == f"{file}:mine(b1=0.8)"
    assert records(tmp_path / "run")[-1]["val_loss"] < 5


@pytest.mark.parametrize("name", ["masked", "Space.made"])
def test_what_a_factory_may_be(file, tmp_path, name):
    assert start(tmp_path / "run", f"--opt={file}:{name}", "--stop-after=2") == 0


def test_a_factory_of_a_module_and_of_a_group(tmp_path):
    assert start(tmp_path / "run", "--opt=optax:sgd", "--group=embedding=optax:adam(lr=0.01)", "--stop-after=2") == 0


def test_a_relative_file_is_stored_absolute(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert start(tmp_path / "run", "--opt=optimizers.py:mine", "--stop-after=2") == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["opt"] == f"{file}:mine"


@pytest.mark.parametrize(
    ("opt", "said"),
    [
        ("{file}:raises", "the factory raised RuntimeError: two lines"),
        ("{file}:wrong", "the factory returned int, not an optax.GradientTransformation"),
        ("{file}:no_rate", "takes other arguments than the learning rate"),
        ("{file}:number", "is not a function but of type int"),
        ("{file}:miné", "has no 'miné'"),
        ("{file}:mime", "has no 'mime' (did you mean 'mine'?)"),
        ("{file}:mine(b7=1)", "has no keyword 'b7'; it has: b1"),
        ("{file}:", "is not a spec"),
        ("absent.py:mine", "there is no such file"),
        ("absent_module:mine", "there is no module 'absent_module'"),
        ("{broken}:mine", "can't be imported: SyntaxError"),
    ],
)
def test_mistakes_in_one_line(file, tmp_path, capfd, opt, said):
    broken = tmp_path / "broken.py"
    broken.write_text("def mine(:")
    assert start(tmp_path / "run", "--opt", opt.format(file=file, broken=broken)) == 2
    err = capfd.readouterr().err
    assert said in err and err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_folder_is_not_trusted_unless_the_user_says_so(file, tmp_path, capfd):
    run = tmp_path / "run"
    assert start(run, f"--opt={file}:mine", "--stop-after=8") == 0
    capfd.readouterr()
    assert resume(run) == 2
    said = capfd.readouterr()
    assert "add --trust if you trust it" in said.err and "imported" not in said.out
    assert resume(run, "--trust") == 0
    assert "imported" in capfd.readouterr().out
    assert restore(run).step == 24  # the model alone needs no optimizer
    assert minigpt(["sample", str(run), "--max-tokens=3"]) == 0
    assert minigpt(["eval", str(run)]) == 0
    assert "imported" not in capfd.readouterr().out
    assert minigpt(["diagnose", str(run), "--only=noise"]) == 2
    assert "--trust" in capfd.readouterr().err
    assert minigpt(["diagnose", str(run), "--only=noise", "--trust"]) == 0


@pytest.mark.slow
def test_a_comparison_with_a_factory_resumes_with_trust_only(file, tmp_path, capfd):
    tiny = {name: value for name, value in TINY.items() if name not in ("mesh", "schedule")}
    words = [f"--{name}={value}" for name, value in tiny.items()]
    line = ["compare", f"--opt={file}:mine", "--opt=sgd", "--seeds=3", f"--out={tmp_path}", "--name=c", *words]
    assert minigpt(line) == 0
    assert "optimizers.py:mine" in capfd.readouterr().out
    assert minigpt(["compare", "--resume", str(tmp_path / "c")]) == 2
    assert "--trust" in capfd.readouterr().err
    assert minigpt(["compare", "--resume", str(tmp_path / "c"), "--trust"]) == 0
    assert minigpt(["compare", str(tmp_path / "c")]) == 0  # to summarize executes nothing


def test_another_process_knows_the_factory_by_its_file(file, tmp_path):
    program = [sys.executable, "-c", "import sys; sys.argv[0] = 'train.py'; from train import main; sys.exit(main())"]
    how = {"cwd": ROOT, "env": {**__import__("os").environ, **ALONE}, "capture_output": True, "text": True}
    words = [*flags(out=tmp_path, name="run"), f"--opt={file}:mine", "--stop-after=4"]
    assert subprocess.run([*program, *words], **how).returncode == 0
    assert call("--resume", tmp_path / "run", "--trust") == 0
