"""Imports point one way: a part uses itself and the parts on the lines above its own, never those beside it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("jaxopt_mini/**/*.py"), *ROOT.glob("minigpt_flax/**/*.py")])
SIBLINGS = ("jaxopt_mini.optimizers", "jaxopt_mini.wrappers")
SHARED = ("jaxopt_mini.wrappers._conditional", "jaxopt_mini.wrappers._inner_updates")
RECORDS = ("minigpt_flax.lab.records", "minigpt_flax.lab.plots")
VERDICT = ("minigpt_flax.lab.verdict",)
SHOWN = ("minigpt_flax.lab.verdict_text", "minigpt_flax.lab.figures")
PAGE = ("minigpt_flax.lab.page",)
READERS = (*RECORDS, *VERDICT, *SHOWN, *PAGE)
LEVELS = (
    ("jaxopt_mini.tree", "jaxopt_mini.check", "jaxopt_mini.linalg", "jaxopt_mini.explicit"),
    ("jaxopt_mini.base",),
    ("jaxopt_mini.layout", "jaxopt_mini.combine", "jaxopt_mini.states", "jaxopt_mini.schedules"),
    ("jaxopt_mini.matrices", "jaxopt_mini.quantize"),
    ("jaxopt_mini.orthogonal",),
    ("jaxopt_mini.transforms",),
    ("jaxopt_mini.wrappers",),
    ("jaxopt_mini.optimizers",),
    ("jaxopt_mini",),
    ("minigpt_flax.errors", "minigpt_flax.text"),
    ("minigpt_flax.invoked", "minigpt_flax.streams", "minigpt_flax.explain"),
    ("minigpt_flax.installed", "minigpt_flax.runs", "minigpt_flax.bounds"),
    ("minigpt_flax.model", "minigpt_flax.data", *RECORDS),
    VERDICT,
    SHOWN,
    PAGE,
    ("minigpt_flax.train",),
    ("minigpt_flax.lab",),
    ("minigpt_flax",),
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
WITHOUT_JAXOPT_MINI = ("minigpt_flax.model", "minigpt_flax.data", *READERS)
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def part_of(module):
    """The longest name in the table that the module lies under, None for other people's packages."""
    inside = [part for part in LEVEL if f"{module}.".startswith(f"{part}.")]
    return max(inside, key=len, default=None)


def imports(path):
    """(module, name) of every import, also of those inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "an import relative to the file hides where it points"
            yield from ((node.module, alias.name) for alias in node.names)


def parts_imported(path):
    """Own parts that a file imports; ``from package import submodule`` counts as the submodule."""
    found = {part_of(f"{module}.{name}") for module, name in imports(path)}
    return found - {None, part_of(module_of(path))}


@each_file
def test_no_import_points_back(path):
    own = part_of(module_of(path))
    wrong = {part for part in parts_imported(path) if LEVEL[part] >= LEVEL[own]}
    if own in WITHOUT_JAXOPT_MINI:
        wrong |= {part for part in parts_imported(path) if part.startswith("jaxopt_mini")}
    assert not wrong, f"{module_of(path)} imports {', '.join(sorted(wrong))}"


@each_file
def test_only_the_builder_knows_both_the_optimizers_and_the_model(path):
    parts = parts_imported(path) | {part_of(module_of(path))}
    both = "minigpt_flax.model" in parts and any(part.startswith("jaxopt_mini") for part in parts)
    assert not both or module_of(path) == "minigpt_flax.train.build"


@each_file
def test_optimizers_and_wrappers_take_only_links_from_each_other(path):
    module = module_of(path)
    if part_of(module) in SIBLINGS and module not in SIBLINGS:
        own = {(source, name) for source, name in imports(path) if part_of(source) == part_of(module)}
        taken = {name for source, name in own if source not in SHARED}
        assert all(name.startswith("scale_by_") for name in taken), taken


@each_file
def test_what_reads_run_folders_does_without_jax(path):
    if module_of(path) in READERS:
        packages = {module.split(".")[0] for module, _ in imports(path)}
        assert packages.isdisjoint({"jax", "jaxlib", "flax", "optax", "orbax", "jaxopt_mini"})
