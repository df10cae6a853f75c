import json
import re
from pathlib import Path

import jax
import pytest

from docs.drawing.__main__ import FOLDER, PICTURES, draw
from docs.generate import DEVIATIONS, HERE, PAGES
from tests.cases import CASES
from tests.cases_wrappers import WRAPPED

READMES = [HERE.parent / name for name in ("README.md", "README.zh-CN.md")]
WRITTEN = [*READMES, *sorted(HERE.rglob("*.md"))]
TRAINED = {"course-run", "moments", "landscape"}


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_what_the_code_says(name):
    assert (HERE / name).read_text(encoding="utf-8") == PAGES[name](), "run: make docs"


def test_every_trajectory_has_its_measured_deviation():
    """Those in ``deviations.json``; that they are within their bounds here too, the goldens' own tests say."""
    goldens = [golden for case in (CASES | WRAPPED).values() for golden in case.goldens]
    measured = json.loads(DEVIATIONS.read_text())
    assert set(measured) == {golden.file for golden in goldens}, "run: make docs"
    assert all(measured[golden.file][1] <= golden.tolerance for golden in goldens)


def shown() -> set[Path]:
    """The pictures that pages show."""
    links = {page: re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")) for page in WRITTEN}
    return {(page.parent / link).resolve() for page, found in links.items() for link in found}


def test_every_picture_of_a_page_is_there_and_small():
    missing = [path for path in shown() if not path.is_file()]
    assert not missing, "run: python -m docs.drawing"
    assert all(path.stat().st_size < 130_000 for path in shown())


def test_every_drawn_picture_is_shown():
    assert {FOLDER / f"{name}.png" for name in PICTURES} <= shown()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in TRAINED else []) for name in PICTURES]
)
def test_picture_is_drawn_from_the_library(name, tmp_path):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        path = draw(name, tmp_path, quick=True)
    assert path.stat().st_size > 3_000
