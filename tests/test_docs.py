import importlib
import inspect
import json
import re
from pathlib import Path

import jax
import pytest
from matplotlib.figure import Figure

from docs.command_line import commands
from docs.drawing.__main__ import COURSE, FOLDER, PICTURES, draw
from docs.drawing.svg import translate
from docs.generate import DEVIATIONS, HERE, PAGES, public, surfaces
from docs.typeset import Formula, Unreadable
from jaxopt_mini import OPTIMIZERS
from tests.cases import CASES
from tests.cases_wrappers import WRAPPED

READMES = [HERE.parent / name for name in ("README.md", "README.zh-CN.md")]
WRITTEN = [*READMES, *sorted(HERE.rglob("*.md"))]
LIBRARY = [f"jaxopt_mini.{name}" for name in ("optimizers", "schedules", "transforms", "wrappers", "states", "layout")]
TAKES_LONG = {"course-run", "moments", "landscape", "demo", "paths", "edge", "exploding"}


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_what_the_code_says(name):
    assert (HERE / name).read_text(encoding="utf-8") == PAGES[name](), "run: make docs"


def public_docstrings():
    """(name, docstring) of all functions, classes and methods on the reference pages."""
    for module in map(importlib.import_module, [*surfaces("jaxopt_mini"), *LIBRARY, *surfaces("minigpt_flax")]):
        for name in public(module):
            value = getattr(module, name)
            methods = [method for method in vars(value).values() if callable(method)] if inspect.isclass(value) else []
            for function in (value, *methods):
                yield f"{module.__name__}.{name}", inspect.getdoc(function) or ""


def test_no_returns_section_is_split_at_a_colon():
    """Sphinx would take what is before a colon outside of code for the type."""
    found = [
        (name, first[1])
        for name, text in public_docstrings()
        if (first := re.search(r"^(?:Returns|Yields):\n +(.*)", text, flags=re.MULTILINE))
        and re.search(r"(?<!:):(?!:)", re.sub(r"``.*?``|:\w+:`[^`]*`", "", first[1]))
    ]
    assert not found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_update_rule_is_typeset(name):
    page = PAGES[f"optimizers/catalog/{name}.md"]()
    assert "$$" in page and "```text" not in page


@pytest.mark.parametrize("text", ["v <- Adam's", "x <- unknown y", "p <- p - ", "a = (b", "one = sum of w"])
def test_what_is_no_formula_is_not_typeset(text):
    with pytest.raises(Unreadable):
        Formula(text, ()).relation()


def test_every_flag_is_on_the_page_of_commands():
    page = PAGES["reference/command-line.md"]()
    flags = {flag for parser in commands().values() for action in parser._actions for flag in action.option_strings}
    assert {"--opt", "--schedule", "--resume"} < flags
    assert not [flag for flag in flags - {"-h", "--help"} if not re.search(rf"\{{option\}} .*{flag}\b", page)]


def test_every_trajectory_has_its_measured_deviation():
    """Those in ``deviations.json``; that they are within their bounds here too, the goldens' own tests say."""
    goldens = [golden for case in (CASES | WRAPPED).values() for golden in case.goldens]
    measured = json.loads(DEVIATIONS.read_text())
    assert set(measured) == {golden.file for golden in goldens}, "run: make docs"
    assert all(measured[golden.file][1] <= golden.tolerance for golden in goldens)


LARGEST = {".svg": 60_000, ".png": 130_000}  # bytes of a picture


def shown() -> set[Path]:
    """The pictures that pages show."""
    pattern = re.compile(r'!\[[^\]]*\]\(([^)]+)\)|<(?:img|source) [^>]*?src(?:set)?="([^"]+)"')
    links = {page: pattern.findall(page.read_text(encoding="utf-8")) for page in WRITTEN}
    return {(page.parent / (plain or tagged)).resolve() for page, found in links.items() for plain, tagged in found}


def test_every_picture_of_a_page_is_there_and_small():
    missing = [path for path in shown() if not path.is_file()]
    assert not missing, "run: python -m docs.drawing"
    assert not [path for path in shown() if path.stat().st_size >= LARGEST[path.suffix]]


def test_every_picture_has_a_twin_that_differs_in_colors_alone():
    uncolored = lambda path: re.sub(r"#[0-9a-f]{6}", "#", path.read_text(encoding="utf-8"))
    pictures = {path for path in shown() if path.suffix == ".svg" and not path.stem.endswith("-dark")}
    assert len(pictures) > 20
    for path in pictures:
        twin = path.with_stem(f"{path.stem}-dark")
        assert uncolored(path) == uncolored(twin) and path.read_text() != twin.read_text(), path.name


def test_a_readme_shows_the_twin_on_dark_pages():
    dark, light = r'media="\(prefers-color-scheme: dark\)" srcset="(.+?)-dark.svg"', r'alt="[^"]{20,}" src="(.+?).svg"'
    pair = re.compile(f"<picture><source {dark}><img {light}></picture>")
    for readme in READMES:
        text = readme.read_text(encoding="utf-8")
        found = pair.findall(text)
        assert all(dark == light for dark, light in found)
        assert len(found) == text.count("<picture>") == len(re.findall(r'src="docs/pictures/[\w-]+\.svg', text)) > 0


def test_every_drawn_picture_is_shown():
    assert {FOLDER / "pictures" / f"{name}.svg" for name in PICTURES} <= shown()


def test_every_picture_that_is_there_is_shown():
    pages = shown()
    files = [path for folder in ("pictures", "answers") for path in (FOLDER / folder).iterdir() if path.suffix != ".md"]
    assert not [path.name for path in files if path.with_stem(path.stem.removesuffix("-dark")) not in pages]


def test_every_picture_of_the_course_has_its_chinese_one():
    names = {path.name for path in (FOLDER / "zh" / "pictures").iterdir()}
    assert names == {f"{name}{dark}.svg" for name in COURSE for dark in ("", "-dark")}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in TAKES_LONG else []) for name in PICTURES]
)
def test_picture_is_drawn_from_the_library(name, tmp_path):
    """In Chinese too, which fails for a label without a translation."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        path = draw(name, tmp_path, quick=True)
    texts = re.findall(r">([^<>\n]+)</text>", path.read_text(encoding="utf-8"))
    assert path.stat().st_size > 3_000 and len(texts) > 5
    if name in set(COURSE) - {"schedules"}:
        assert re.search(r"[\u4e00-\u9fff]", (tmp_path / "zh" / "pictures" / path.name).read_text(encoding="utf-8"))


def test_a_label_without_a_translation_is_an_error():
    figure = Figure()
    figure.suptitle("a new label")
    with pytest.raises(KeyError):
        translate(figure)


def test_a_picture_is_the_same_every_time(tmp_path):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        first, second = (draw("decay", tmp_path / folder, quick=True).read_bytes() for folder in "ab")
    assert first == second and b"DejaVu Sans'" in first and b"dc:date" not in first
