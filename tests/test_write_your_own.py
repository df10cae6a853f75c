"""The page on writing an optimizer, done as it says: the three edits, then the laws."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("jaxopt_mini", "minigpt_flax", "tests", "pyproject.toml")


def edited(path, *pairs):
    text = path.read_text(encoding="utf-8")
    for old, new in pairs:
        assert text.count(old) == 1, f"{path.name} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_the_optimizer_of_the_page_obeys_the_laws(tmp_path):
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    page = (ROOT / "docs" / "guides" / "write-your-own.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)^tx = ", page, re.DOTALL | re.MULTILINE)[1]
    folder = tmp_path / "jaxopt_mini" / "optimizers"
    (folder / "_halfway.py").write_text(code, encoding="utf-8")
    line = "from jaxopt_mini.optimizers._halfway import halfway as halfway\n"
    before = "from jaxopt_mini.optimizers._lamb import"
    edited(
        folder / "__init__.py", (before, line + before), ("        galore,\n", "        galore,\n        halfway,\n")
    )
    rows = "    *cases_classic.ROWS,\n"
    edited(
        tmp_path / "tests" / "cases.py",
        ("    nadamw,\n    rmsprop,\n", "    halfway,\n    nadamw,\n    rmsprop,\n"),
        (rows, "    Case(halfway),\n" + rows),
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/jaxopt_mini", "-k", "halfway"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 20
