import pytest

from docs.generate import HERE, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_what_the_code_says(name):
    assert (HERE / name).read_text(encoding="utf-8") == PAGES[name](), "run: make docs"
