"""Writes figures as SVG: text as text, a twin for dark pages, and labels in Chinese."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from matplotlib import rc_context
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

from docs.drawing.chinese import CHINESE, NAMES
from minigpt_flax.runs.style import DARK

SANS = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'PingFang SC', 'Microsoft YaHei', "
SANS += "'Noto Sans CJK SC', 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def save(figure: Figure, path: Path, chinese: Path | None = None) -> None:
    """Writes ``NAME.svg`` and ``NAME-dark.svg``.

    Args:
      figure: what is drawn, made within ``rc_context(style.RC)``.
      path: of ``NAME.svg``.
      chinese: folder for the same pictures with Chinese labels, if they are wanted.
    """
    write_twins(render(figure), path)
    if chinese is not None:
        translate(figure)
        write_twins(render(figure), chinese / path.name)


def write_twins(svg: str, path: Path) -> None:
    """Writes a picture and its dark twin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg, encoding="utf-8")
    twin = re.sub(r"#[0-9a-f]{6}", lambda color: DARK.get(color[0], color[0]), svg)
    path.with_stem(f"{path.stem}-dark").write_text(twin, encoding="utf-8")


def render(figure: Figure) -> str:
    """The figure as SVG with a transparent background, the same bytes every time."""
    file = StringIO()
    rc: Any = {"svg.fonttype": "none", "svg.hashsalt": "jaxopt-mini", "path.simplify_threshold": 0.3}
    with rc_context(rc), full_width():
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return shortened(file.getvalue())


def shortened(svg: str) -> str:
    """An SVG with coordinates of a tenth of a point, and with the fonts of the reader's system."""
    attribute = re.compile(r' (?:d|points|x|y|transform)="[^"]*"')
    rounded = lambda found: f"{float(found[0]):.1f}".removesuffix(".0")
    svg = attribute.sub(lambda found: re.sub(r"-?\d+\.\d+", rounded, found[0]), svg)
    svg = re.sub(r" *\n *(?=[LMQCz\"])", " ", svg)  # the commands of a path on one line
    svg = re.sub(r' d="[MLz\d. -]+"', lambda path: path[0].replace(" L ", " "), svg)  # after M, L is the default
    svg = svg.replace(' transform="rotate(-0 ', ' transform="rotate(0 ')
    svg = re.sub(r"font-family: 'DejaVu Sans Mono'[^;\"]*", f"font-family: {MONO}", svg)
    svg = re.sub(r" font-family: 'DejaVu Sans',[^;\"]*;", "", svg)
    svg = svg.replace('<style type="text/css">*', f'<style type="text/css">text{{font-family: {SANS}}} *')
    unneeded = r"<!--.*?-->\n?|<metadata>.*?</metadata>\n?| transform=\"rotate\(0 [^\"]*\""
    svg = re.sub(r"\n +<", "\n<", re.sub(unneeded, "", svg, flags=re.DOTALL))
    invisible = r'<g id="[^"]*"/>\n|<path [^>]*style="fill: none"/>\n| id="[A-Za-z.]+\d*_\d+"|; stroke-linejoin: miter'
    svg = re.sub(invisible, "", svg)
    return re.sub(r'<g((?: clip-path="[^"]*")?)>\n((?:<use [^>]*/>\n)+)</g>', common_style, svg)


def common_style(group: re.Match[str]) -> str:
    """A group of markers, with their style, if it is the same, written once."""
    styles = set(re.findall(r' style="[^"]*"', group[2]))
    if len(styles) != 1:
        return group[0]
    (style,) = styles
    return f"<g{group[1]}{style}>\n{group[2].replace(style, '')}</g>"


@contextmanager
def full_width() -> Iterator[None]:
    """Lays Chinese text out as wide as it is, without a Chinese font: a character is one em, as is a dash."""
    measure: Callable = RendererSVG.get_text_width_height_descent
    dashes = lambda text: re.sub(r"[\u3000-\uffef]", "\u2014", text)
    as_wide = lambda self, s, prop, ismath: measure(self, dashes(s), prop, ismath)
    with patch.object(RendererSVG, "get_text_width_height_descent", as_wide):
        yield


def labels(figure: Figure) -> list[Text]:
    """The texts of a figure that a translation changes: words, not numbers, names or code."""
    return [text for text in figure.findobj(Text) if isinstance(text, Text) and is_words(text)]


def is_words(text: Text) -> bool:
    """Whether a text has words of English."""
    shown = text.get_text()
    code = text.get_fontfamily() == ["monospace"] or shown in NAMES
    return not code and bool(re.search(r"[a-z]{3}", shown))


def translate(figure: Figure) -> None:
    """Replaces the labels of a figure by Chinese ones; a measured number after ± stays.

    Raises:
      KeyError: a label has no translation.
    """
    for text in labels(figure):
        words, sign, number = text.get_text().partition("±")
        text.set_text(CHINESE[words + sign] + number)
