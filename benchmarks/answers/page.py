"""A page: its words lie beside this file, with a ``$name`` wherever a number, a table or a picture goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from matplotlib.figure import Figure

DPI = 72  # keeps a picture below 100 kB
WORDS = Path(__file__).parent


def write(folder: Path, name: str, pictures: Mapping[str, Figure], facts: Mapping[str, str]) -> Path:
    """Writes the page and its pictures.

    Args:
      folder: of the pages.
      name: of the page, and of the file that has its words.
      pictures: by name; each also goes where its name stands.
      facts: text by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    links = {}
    for label, figure in pictures.items():
        file = f"{name}-{label}.png"
        figure.savefig(folder / file, dpi=DPI)
        links[label] = f"![{label}]({file})"
    words = Template((WORDS / f"{name}.md").read_text(encoding="utf-8"))
    page = folder / f"{name}.md"
    page.write_text(words.substitute({**links, **facts}), encoding="utf-8")
    return page


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
