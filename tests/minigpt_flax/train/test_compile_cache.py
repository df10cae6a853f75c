"""The cache of compiled programs: by version and machine, and never in the way of a run."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

from minigpt_flax.__main__ import main
from minigpt_flax.cli import compiled
from minigpt_flax.errors import UserError
from minigpt_flax.train import compile_cache
from tests.minigpt_flax.training import ROOT, flags

NAMES = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def cache_of_commands():
    """Commands change JAX's configuration here, until the end of a test."""
    before = [getattr(jax.config, name) for name in NAMES]
    yield
    for name, value in zip(NAMES, before, strict=True):
        jax.config.update(name, value)


def train(folder, *more, **env):
    """A run in its own process, which has compiled nothing yet."""
    keep = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-W", "error", "train.py", *flags(out=folder, steps=3), "--schedule=constant", *more]
    done = subprocess.run(command, cwd=ROOT, env=keep | {"JAX_PLATFORMS": "cpu", **env}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_the_folder_says_version_and_machine():
    name = compile_cache.machine("NVIDIA H100 80GB HBM3")
    assert name.startswith(f"jax-{jax.__version__}-jaxlib-{jax.lib.__version__}-nvidia-h100-80gb-hbm3-")
    assert compile_cache.machine("cpu") != name and "/" not in name


def test_the_users_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert compile_cache.users_cache() == Path("/somewhere/minigpt_flax")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert compile_cache.users_cache() == Path.home() / ".cache" / "minigpt_flax"


def test_a_cache_that_jax_has_already_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert compile_cache.use(None, "cpu") is None
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


@pytest.mark.parametrize("chosen_in_jax", [True, False])
def test_a_program_that_can_not_be_kept_needs_no_warning(tmp_path, chosen_in_jax):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path) if chosen_in_jax else None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compile_cache.use(None if chosen_in_jax else str(tmp_path), "cpu") is None
        warnings.warn("Error writing persistent compilation cache entry for 'f': OSError", stacklevel=1)


def test_none_keeps_nothing():
    assert compile_cache.use("none", "cpu") is None
    assert not jax.config.jax_enable_compilation_cache


def test_a_folder_that_can_not_be_written_is_reported_and_not_used(tmp_path):
    (tmp_path / "file").write_text("")
    before = jax.config.jax_compilation_cache_dir
    problem = compile_cache.use(str(tmp_path / "file"), "cpu")
    assert problem is not None and "can't write" in problem and "file is a file" in problem
    assert jax.config.jax_compilation_cache_dir == before


def test_the_programs_longest_out_of_use_go_first(tmp_path):
    compile_cache.mark(tmp_path)
    for age, name in enumerate(("newest", "middle", "oldest")):
        path = tmp_path / "version" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 100)
        os.utime(path, (1e9 - age, 1e9 - age))
    compile_cache.prune(tmp_path, 250)
    assert sorted(path.name for path in (tmp_path / "version").iterdir()) == ["middle", "newest"]


def test_files_of_others_are_never_removed(tmp_path):
    book = tmp_path / "thesis" / "chapter.tex"
    book.parent.mkdir()
    book.write_text("x" * 1000)
    compile_cache.prune(tmp_path, 0)  # no mark
    compile_cache.mark(tmp_path / "cache")
    (tmp_path / "cache" / "link").symlink_to(tmp_path / "thesis")
    (tmp_path / "cache" / "chapter").symlink_to(book)
    (tmp_path / "cache" / "program").write_text("x" * 1000)
    compile_cache.prune(tmp_path / "cache", 0)
    assert book.exists() and not (tmp_path / "cache" / "program").exists()


@pytest.mark.parametrize("kind", ["holds files", "file", "link", "other mark"])
def test_a_folder_of_others_is_not_taken(tmp_path, kind):
    root = tmp_path / "minigpt-compiled"
    if kind == "file":
        root.write_text("")
    elif kind == "link":
        root.symlink_to(tmp_path)
    else:
        root.mkdir()
        (root / ("CACHEDIR.TAG" if kind == "other mark" else "a.tex")).write_text("precious")
    problem = compile_cache.use(str(tmp_path), "cpu")
    assert problem is not None and problem.startswith("compiled programs are not cached")
    assert "precious" in [path.read_text() for path in root.iterdir()] if root.is_dir() and kind != "link" else True


@pytest.mark.slow
def test_a_second_run_finds_the_programs_of_the_first_and_nothing_leaks(tmp_path):
    keep = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    train(tmp_path / "runs", **keep)
    kept = {path for path in (tmp_path / "cache").rglob("*-cache")}
    assert kept
    output = train(tmp_path / "runs", **keep)
    assert {path for path in (tmp_path / "cache").rglob("*-cache")} == kept
    assert "from the cache" in output
    for path in kept:  # a damaged program is compiled again
        path.write_bytes(b"no program")
    train(tmp_path / "runs", **keep)


@pytest.mark.parametrize("command", ["sample", "eval", "diagnose"])
@pytest.mark.parametrize("choice", [None, "none", "somewhere"])
def test_the_commands_that_run_a_model_use_the_cache(trained, command, choice, monkeypatch, capsys):
    used = []

    def use(choice, device_kind):
        used.append((choice, device_kind))
        raise UserError("nothing is compiled before")

    monkeypatch.setattr(compile_cache, "use", use)
    given = [] if choice is None else ["--compile-cache", choice]
    assert main([command, str(trained), *given]) == 2
    assert used == [(choice, jax.devices()[0].device_kind)]
    assert "nothing is compiled before" in capsys.readouterr().err


def test_a_cache_that_can_not_be_used_is_a_line_on_stderr(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    compiled.use(str(tmp_path / "file"))
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("compiled programs are not cached") and said.err.count("\n") == 1


@pytest.mark.slow
def test_a_sample_of_another_length_compiles_nothing_new(trained, tmp_path):
    variables = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
    found = []
    for prompt, tokens in (("The", 20), ("of a", 47), ("A", 30)):
        command = [sys.executable, "-m", "minigpt_flax", "sample", str(trained), "--prompt", prompt]
        subprocess.run(
            [*command, "--max-tokens", str(tokens)], cwd=ROOT, env=variables, check=True, capture_output=True
        )
        found.append({path.name for path in tmp_path.rglob("*-cache")})
    assert found[0] and found[0] == found[1] == found[2]
