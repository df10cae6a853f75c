"""Every Chinese page says what its English twin says: the same code, formulas, numbers, names and links."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHINESE = ROOT / "docs" / "zh"
TWINS = {ROOT / "README.zh-CN.md": ROOT / "README.md"}
TWINS |= {page: ROOT / "docs" / page.relative_to(CHINESE) for page in sorted(CHINESE.rglob("*.md"))}
TRANSLATED = {english: chinese for chinese, english in TWINS.items()}
DIRECTIVE = re.compile(r"^(```|:::)\{toctree\}.*?^\1$", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^    \S.*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)]+)\)(（英文）)?")
NUMBER = re.compile(r"\d[\d.,]*\d(?:e-\d)?|\d")


class Page:
    """The parts of a page that are the same in both languages."""

    def __init__(self, path: Path):
        text = DIRECTIVE.sub("", path.read_text(encoding="utf-8"))
        prose = INDENTED.sub("", FENCED.sub("", text))
        self.code = FENCED.findall(text)
        self.commands = [re.sub(r" +# .*", "", line) for line in INDENTED.findall(FENCED.sub("", text))]
        self.names = set(re.findall(r"`[^`]+`", prose))
        prose = re.sub(r"`[^`]+`", "", prose)
        self.formulas = set(re.findall(r"\$\$.+?\$\$|\$[^$]+\$", prose, re.DOTALL))
        self.links = [(target, bool(mark)) for target, mark in LINK.findall(prose)]
        self.links += [(target, False) for target in re.findall(r'(?:src|srcset)="([^"]+)"', prose)]
        self.numbers = set(NUMBER.findall(re.sub(r"\]\([^)]+\)", "", re.sub(r"\$[^$]+\$", "", prose))))


def resolved(page: Path, target: str) -> Path | str:
    """The file that a link leads to, or the address."""
    return target if target.startswith(("http", "#")) else (page.parent / target.partition("#")[0]).resolve()


def expected(target: Path | str) -> Path | str:
    """Where the Chinese page links to, for a link of the English page."""
    if isinstance(target, str):
        return target
    drawn = CHINESE / "pictures" / target.name
    return drawn if drawn.is_file() else TRANSLATED.get(target, target)


def test_there_are_translations():
    assert len(TWINS) > 8
    missing = [str(english) for english in TWINS.values() if not english.is_file()]
    assert not missing


@pytest.mark.parametrize("chinese", TWINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_chinese_page_loses_nothing(chinese):
    """A note for Chinese readers may add names, numbers and formulas, but the code is the same."""
    ours, theirs = Page(chinese), Page(TWINS[chinese])
    assert ours.code == theirs.code
    assert ours.commands == theirs.commands
    assert not theirs.names - ours.names
    assert ours.formulas == theirs.formulas
    assert not theirs.numbers - ours.numbers


@pytest.mark.parametrize("chinese", TWINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_chinese_page_links_where_its_twin_does(chinese):
    english = TWINS[chinese]
    theirs = Counter(expected(resolved(english, target)) for target, _ in Page(english).links)
    ours = Counter(resolved(chinese, target) for target, _ in Page(chinese).links)
    theirs[english] += theirs.pop(chinese, 0)  # a link to the other language
    assert ours == +theirs


@pytest.mark.parametrize("chinese", sorted(CHINESE.rglob("*.md")), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_english_pages_say_so(chinese):
    """The README, which isn't among these, says once which pages are Chinese."""
    for target, marked in Page(chinese).links:
        page = resolved(chinese, target)
        if isinstance(page, Path) and page.suffix == ".md":
            assert marked == (page not in TWINS), f"{target}: （英文） belongs to links to English pages only"


@pytest.mark.parametrize("chinese", TWINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_formulas_follow_a_space(chinese):
    """GitHub doesn't render a formula right after Chinese text or punctuation."""
    prose = re.sub(r"`[^`]+`", "", FENCED.sub("", chinese.read_text(encoding="utf-8")))
    *before, _ = re.sub(r"\$\$.*?\$\$", "", prose, flags=re.DOTALL).split("$")[::2]
    assert not [text[-20:] for text in before if not text[-1].isspace()]
