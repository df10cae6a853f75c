"""Imports point one way: a package uses itself and the packages of the lines above its own."""

import ast
from pathlib import Path

import pytest

from jaxopt_mini import OPTIMIZERS, WRAPPERS

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("jaxopt_mini/**/*.py"), *ROOT.glob("minigpt_flax/**/*.py")])
LEVELS = (
    "jaxopt_mini",
    "minigpt_flax/*.py",  # errors, text, the spec grammar: what everything may use
    "minigpt_flax/runs",
    "minigpt_flax/model minigpt_flax/data",
    "minigpt_flax/train",
    "minigpt_flax/compare minigpt_flax/diagnose minigpt_flax/console",
    "minigpt_flax/report minigpt_flax/tune",
    "minigpt_flax/cli",
)
LIBRARY = (  # inside jaxopt_mini
    "jaxopt_mini/*.py",
    "jaxopt_mini/schedules",
    "jaxopt_mini/transforms",
    "jaxopt_mini/wrappers",
    "jaxopt_mini/optimizers",
)
WITHOUT_JAX = ("minigpt_flax/*.py", "minigpt_flax/runs", "minigpt_flax/report")
WITHOUT_OPTIMIZERS = ("minigpt_flax/model", "minigpt_flax/data", "minigpt_flax/runs", "minigpt_flax/report")
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PACKAGE_OF = {module_of(path): str(path.parent.relative_to(ROOT)) for path in FILES}


def is_face(path):
    """Whether a file is the outside of a whole package, which may show everything: ``__init__``, ``__main__``."""
    return path.parent.parent == ROOT and path.stem.startswith("_")


def place(module, levels):
    """(level, package) of a module, and None for a package that isn't in the table."""
    folder = PACKAGE_OF[module]
    for level, line in enumerate(levels):
        for package in line.split():
            if folder == package.removesuffix("/*.py") if package.endswith(".py") else is_below(folder, package):
                return level, package
    return None


def is_below(folder, package):
    return folder == package or folder.startswith(f"{package}/")


def imports(path):
    """(module, name) of every import, also of those inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "an import relative to the file hides where it points"
            yield from ((node.module, alias.name) for alias in node.names)


def modules_imported(path):
    """Own modules that a file imports; ``from package import submodule`` counts as the submodule."""
    for module, name in imports(path):
        inner = f"{module}.{name}"
        found = inner if inner in PACKAGE_OF else module
        if found in PACKAGE_OF:
            yield found


@pytest.mark.parametrize("levels", [LEVELS, LIBRARY], ids=["packages", "library"])
@each_file
def test_imports_point_down(path, levels):
    own = place(module_of(path), levels)
    if own is None or is_face(path):
        return
    others = {module: place(module, levels) for module in modules_imported(path)}
    wrong = [module for module, found in others.items() if found and found[1] != own[1] and found[0] >= own[0]]
    assert not wrong, f"{module_of(path)} imports {', '.join(sorted(wrong))}"


@each_file
def test_packages_do_without(path):
    package = place(module_of(path), LEVELS)[1]
    if is_face(path):
        return
    found = {module.split(".")[0] for module, _ in imports(path)}
    if package in WITHOUT_JAX:
        assert found.isdisjoint({"jax", "jaxlib", "flax", "optax", "orbax", "jaxopt_mini"})
    if package in WITHOUT_OPTIMIZERS:
        assert "jaxopt_mini" not in found


def test_one_module_joins_the_optimizers_and_the_model():
    packages = {path: {PACKAGE_OF[module].partition("/")[0] for module in modules_imported(path)} for path in FILES}
    models = [path for path in FILES if any(PACKAGE_OF[m] == "minigpt_flax/model" for m in modules_imported(path))]
    both = [path for path in models if "jaxopt_mini" in packages[path]]
    assert len(both) == 1, both


@each_file
def test_optimizers_and_wrappers_take_only_links_from_each_other(path):
    folder = PACKAGE_OF[module_of(path)]
    if folder in ("jaxopt_mini/optimizers", "jaxopt_mini/wrappers") and path.stem != "__init__":
        taken = {name for source, name in imports(path) if PACKAGE_OF.get(source) == folder}
        assert taken.isdisjoint({*OPTIMIZERS, *WRAPPERS}), taken
