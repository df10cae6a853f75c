import json

import pytest

from docs.generate import DEVIATIONS, HERE, PAGES
from tests.cases import CASES
from tests.cases_wrappers import WRAPPED


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_what_the_code_says(name):
    assert (HERE / name).read_text(encoding="utf-8") == PAGES[name](), "run: make docs"


def test_every_trajectory_has_its_measured_deviation():
    """Those in ``deviations.json``; that they are within their bounds here too, the goldens' own tests say."""
    goldens = [golden for case in (CASES | WRAPPED).values() for golden in case.goldens]
    measured = json.loads(DEVIATIONS.read_text())
    assert set(measured) == {golden.file for golden in goldens}, "run: make docs"
    assert all(measured[golden.file][1] <= golden.tolerance for golden in goldens)
