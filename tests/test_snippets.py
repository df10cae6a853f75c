"""Every Python block of the pages runs, one page in one namespace, and prints what the comment beside it says.

``print(x)  # 1.0...`` promises a line; ``...`` stands for anything. Lines are promised in order, over a whole page.
"""

import contextlib
import doctest
import io
import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
EVERY = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EVERY = [page for page in EVERY if "zh" not in page.relative_to(ROOT).parts]  # translations have the same code
PAGES = [page for page in EVERY if "```python" in page.read_text("utf-8")]
PROMISE = re.compile(r"print\(.*\)  # (.+)$", re.MULTILINE)


def blocks(text):
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def ran(page):
    """What the blocks of a page print, one after the other."""
    printed, namespace = io.StringIO(), {"__name__": "__snippet__"}
    # Readers have JAX's defaults, not the strict promotion of the other tests.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), contextlib.redirect_stdout(printed):
        for i, block in enumerate(blocks(page.read_text("utf-8")), start=1):
            exec(compile(block, f"{page.name}, block {i}", "exec"), namespace)
    return printed.getvalue()


def case(page):
    """A case; every page but the READMEs is slow."""
    name = str(page.relative_to(ROOT))
    return pytest.param(page, id=name, marks=[] if name.startswith("README") else pytest.mark.slow)


@pytest.mark.parametrize("page", [case(page) for page in PAGES])
def test_snippets_do_what_they_say(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some leave runs behind
    promised = " ".join(PROMISE.findall("\n".join(blocks(page.read_text("utf-8")))))
    got = " ".join(ran(page).split())
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(promised + "\n", got + "\n", flags), f"{promised}\n{got}"
