"""A page: its text is a template beside this file, with a ``$name`` for each number, table and file of a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from matplotlib.figure import Figure

from docs.drawing.svg import save

TEMPLATES = Path(__file__).parent


def write(folder: Path, name: str, pictures: Mapping[str, Figure], facts: Mapping[str, str]) -> Path:
    """Writes the page and its pictures.

    Args:
      folder: of the pages.
      name: of the page and of its template.
      pictures: by name; in the template, the name stands for the picture's file.
      facts: text by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for label, figure in pictures.items():
        files[label] = f"{name}-{label}.svg"
        save(figure, folder / files[label])
    template = Template((TEMPLATES / f"{name}.md").read_text(encoding="utf-8"))
    page = folder / f"{name}.md"
    page.write_text(template.substitute({**files, **facts}), encoding="utf-8")
    return page


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
