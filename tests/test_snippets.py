"""Every Python block of the pages runs, one page in one namespace, and prints what the comment beside it says.

``print(x)  # 1.0...`` promises a line, and so does a block ``text`` that follows a Python block; ``...`` stands for
anything. Lines are promised in order, over a whole page.
"""

import ast
import contextlib
import doctest
import io
import re
import sys
from pathlib import Path

import jax
import pytest

from minigpt_flax.installed import MODULES

ROOT = Path(__file__).parents[1]
EVERY = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EVERY = [page for page in EVERY if "zh" not in page.relative_to(ROOT).parts]  # translations have the same code
PAGES = [page for page in EVERY if "```python" in page.read_text("utf-8")]
BASE = {"jax", "jaxopt_mini", "numpy", "optax"}  # dependencies without an extra
INSTALL = re.compile(r"pip install ([^`\n#]+)")
PROMISE = re.compile(r"print\(.*\)  # (.+)$", re.MULTILINE)


def blocks(text):
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def promises(text):
    """What the blocks of a page promise to print."""
    pairs = re.findall(r"^```python\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", text, flags=re.DOTALL | re.MULTILINE)
    return " ".join(line for block, output in pairs for line in (*PROMISE.findall(block), output.strip()))


def imports(page):
    """Packages that the Python blocks of a page import, other than Python's own."""
    trees = [ast.parse(block) for block in blocks(page.read_text("utf-8"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


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
    promised = " ".join(promises(page.read_text("utf-8")).split())
    got = " ".join(ran(page).split())
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(promised + "\n", got + "\n", flags), f"{promised}\n{got}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_says_what_to_install(page):
    """The base packages need no line, and the index of a folder says it for all its pages."""
    texts = [path.read_text("utf-8") for path in (page, page.parent / "index.md") if path.exists()]
    named = {word.strip("'\"") for text in texts for line in INSTALL.findall(text) for word in line.split()}
    extra = {"minigpt_flax", *MODULES["gpt"]} if ".[gpt]" in named else set()
    assert imports(page) <= BASE | named | extra or page.parent.name == "project"  # for developers
