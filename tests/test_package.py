"""What is installed: the wheel's files, what the library imports, the command and what it needs."""

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from minigpt_flax import installed
from minigpt_flax.__main__ import COMMANDS, main
from minigpt_flax.errors import UserError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGES = ("jaxopt_mini", "minigpt_flax")
MODULE_OF = {"orbax-checkpoint": "orbax"}  # where it isn't the package's own name
HEAVY = {"flax", "orbax", "matplotlib", "rich", "jaxtyping", "minigpt_flax"}


@pytest.mark.parametrize("extra", installed.MODULES)
def test_every_package_of_the_extra_is_looked_for(extra):
    names = lambda requirements: {re.split(r"[<>=\[]", requirement)[0] for requirement in requirements}
    needed = names(PROJECT["optional-dependencies"][extra]) - names(PROJECT["dependencies"])
    assert sorted(installed.MODULES[extra]) == sorted(MODULE_OF.get(name, name) for name in needed)


@pytest.mark.parametrize("page", ["docs/start/install.md", "docs/zh/start/install.md"])
def test_the_page_lists_every_extra(page):
    named = re.findall(r"^\| (`.*?) \|", (ROOT / page).read_text("utf-8"), flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(named))) >= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize(
    ("is_source", "metadata", "named"),
    [
        (True, [], "source"),
        (True, ["source"], "source"),  # metadata that a build left beside the source: pip does not know of it
        (True, ["source", "site"], "package"),  # editable
        (False, ["source"], "package"),  # a wheel: its metadata is beside the package
    ],
)
def test_what_is_missing_is_named_with_what_installs_it(is_source, metadata, named, monkeypatch, tmp_path):
    root = (tmp_path / "source").resolve()
    for folder in {"source", *metadata}:
        (tmp_path / folder).mkdir()
    for folder in metadata:
        about = tmp_path / folder / "jaxopt_mini-0.1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Name: jaxopt-mini\nVersion: 0.1.0\n")
    if is_source:
        (root / "pyproject.toml").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / folder) for folder in metadata])
    monkeypatch.setattr(installed, "ROOT", root)
    monkeypatch.setitem(installed.MODULES, "gpt", ("no_such_module",))
    expected = f"{root}[gpt]" if named == "source" else "jaxopt-mini[gpt]"
    expected = f"not installed: no_such_module; install with: pip install '{expected}'"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        installed.require()


@pytest.mark.parametrize("name", ["train", "fit"])  # a package that can be called, and a name in a module
def test_the_python_interface_names_what_installs_a_missing_package(name):
    code = (
        "import sys; sys.modules['jaxtyping'] = None; import importlib.util as util; find = util.find_spec;"
        "util.find_spec = lambda name: None if name == 'jaxtyping' else find(name);"
        f"import minigpt_flax; minigpt_flax.{name}(steps=1)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False).stderr
    line = r"ModuleNotFoundError: not installed: jaxtyping; install with: pip install '\S+\[gpt\]'"
    assert re.fullmatch(line, said.splitlines()[-1])


def test_a_mistyped_flag_of_a_command_is_told_with_the_nearest(capfd):
    assert main(["train", "--stps", "5"]) == 2
    assert capfd.readouterr().err == "minigpt_flax: unknown argument '--stps' (did you mean '--steps'?); see --help\n"


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_a_terminal(command, capfd):
    with pytest.raises(SystemExit, match="0"):
        main([] if command is None else [command, "--help"])
    said = capfd.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert command is not None or all(name in said for name in COMMANDS)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("minigpt co", {"compare", "completion", "coordinates"}),
        ("minigpt train --opt mu", {"muon", "muown"}),
        ("minigpt compare --weight", set()),
        ("minigpt train --resu", {"--resume"}),
    ],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(typed, offered, script):
    *words, last = typed.split(" ")
    ask = f'{script}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words)}; _shtab_minigpt; echo "${{COMPREPLY[@]}}"'
    said = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, timeout=60)
    assert set(said.stdout.split()) == offered


@pytest.fixture(scope="module")
def script():
    """What completes commands in bash."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["completion", "bash"]) == 0
    return said.getvalue()


def modules_after(code, path, cwd):
    """Top-level modules that a fresh process has after running ``code``."""
    said = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"],
        env={"PYTHONPATH": str(path), "PATH": "", "JAX_PLATFORMS": "cpu"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(said.stdout.split())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the sources as git has them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    assert len(list(out.glob("*.tar.gz"))) == 1
    (path,) = out.glob("*.whl")  # made from the sdist, which so is whole
    return path


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    assert names == set(tracked.stdout.split())
    assert {"jaxopt_mini/py.typed", "minigpt_flax/py.typed"} <= names


@pytest.mark.slow
def test_the_library_alone_pulls_no_more_than_jax_and_optax(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    found = modules_after("import jaxopt_mini; jaxopt_mini.adamw(1e-3)", tmp_path / "site", tmp_path)
    assert {"jax", "optax"} <= found and found.isdisjoint(HEAVY)
