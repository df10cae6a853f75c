"""``--list`` and ``--explain``: what every name is, out of its own docstring."""

from __future__ import annotations

import inspect
import re
import textwrap

import jax

from minigpt_flax.cli.parser import COLUMNS, Request
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.spec import parse, signature
from minigpt_flax.train.config.run_config import (
    PRESET_NOTES,
    PRESETS,
    WORDS,
    default_preset,
    flag_of,
    resolve,
)
from minigpt_flax.train.registry import KINDS, Kind, Offer


def show(request: Request) -> int:
    """Prints what ``--list`` or ``--explain`` asks for.

    Raises:
      UserError: the name to explain is unknown.
    """
    print(listing() if request.list else explain(request))
    return 0


def listing() -> str:
    """Every name by kind, with the first line of its docstring."""
    parts = [_section(f"{kind} ({entry.flag})", _summaries(entry)) for kind, entry in KINDS.items()]
    return "\n\n".join([*parts, _section("preset (--preset)", PRESET_NOTES)])


def _summaries(kind: Kind) -> dict[str, str]:
    return {name: _plain(inspect.getdoc(row) or "").split("\n")[0] for name, row in kind.table.items()}


def _section(title: str, lines: dict[str, str]) -> str:
    width = 4 + max(map(len, lines))
    rows = (
        textwrap.fill(text, COLUMNS, initial_indent=f"  {name}".ljust(width), subsequent_indent=" " * width)
        for name, text in lines.items()
    )
    return "\n".join([title, *rows])


def explain(request: Request) -> str:
    """What a name is, in every table that has it; of an optimizer also what the rest of the line would make of it.

    Raises:
      UserError: no table has it; with the nearest.
    """
    word = parse(request.explain or "", "name to explain")
    texts = [_explain_row(kind, entry, word.name) for kind, entry in KINDS.items() if word.name in entry.table]
    if word.name in KINDS["optimizer"].table:
        texts.append(_would_use(request, str(word)))
    if word.name in PRESETS:
        texts.append(_explain_preset(word.name))
    if not texts:
        known = [*(name for entry in KINDS.values() for name in entry.table), *PRESETS]
        raise UserError(f"nothing is called {word.name!r}{nearest(word.name, known)}; --list shows every name")
    return "\n\n".join(texts)


def _explain_row(kind: str, entry: Kind, name: str) -> str:
    row = entry.table[name]
    usage = signature(row, skip=entry.given, without=Offer._fields)
    shown = textwrap.fill(usage, COLUMNS - 2, initial_indent="  ", subsequent_indent="    ")
    return f"{kind}, typed after {entry.flag}:\n\n{shown}\n\n{reflow(inspect.getdoc(row) or '')}"


def _would_use(request: Request, word: str) -> str:
    preset = request.preset or default_preset(jax.default_backend())
    config = resolve({**request.given, "opt": word}, preset)
    return f"With preset {preset} a run would use:\n\n  {typed('opt', config.opt)} {typed('lr', config.lr)}"


def _explain_preset(name: str) -> str:
    config = resolve({}, name)
    values = {key: getattr(config, key) for key in PRESETS[name]}
    flags = [typed(k, each) for k, value in values.items() for each in (value if isinstance(value, tuple) else [value])]
    return f"preset, {PRESET_NOTES[name]}:\n\n" + "\n".join(f"  {flag}" for flag in flags)


def typed(name: str, value: object) -> str:
    """A field and its value as they are typed.

    >>> typed("opt", "adamw(b2=0.99)"), typed("bias", False)
    ('--opt "adamw(b2=0.99)"', '--no-bias')
    """
    if isinstance(value, bool):
        return flag_of(name if value else f"no_{name}")
    return f'{flag_of(name)} "{value}"' if name in WORDS or "(" in str(value) else f"{flag_of(name)} {value}"


def _plain(text: str) -> str:
    """Takes off the marks that are for a documentation tool."""
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?([^`]+)`", r"\1", text).replace("``", "`")


def reflow(text: str, width: int = COLUMNS) -> str:
    """Breaks prose anew at ``width``; leaves formulas, tables and examples alone."""
    paragraphs, literal = [], False
    for paragraph in text.split("\n\n"):
        indented = paragraph.startswith(" ")
        if (literal and indented) or ">>>" in paragraph or "====" in paragraph:
            paragraphs.append(paragraph)
            continue
        literal = paragraph.endswith("::")
        paragraphs.append("\n".join(_fill(item, width) for item in _items(_plain(paragraph))))
    return "\n\n".join(paragraphs)


def _items(paragraph: str) -> list[str]:
    """The lines of a paragraph joined; of a section such as ``Args:``, or of a list, entry by entry."""
    items: list[str] = []
    section = re.match(r"\w+:\n", paragraph) is not None
    for line in paragraph.split("\n"):
        entry = section and (len(items) < 2 or _indent(line) <= _indent(items[-1]))
        if not items or entry or re.match(r"\s*[-*] ", line):
            items.append(line)
        else:
            items[-1] += f" {line.strip()}"
    return items


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _fill(item: str, width: int) -> str:
    margin = " " * _indent(item)
    hang = margin + ("    " if margin else "")
    return textwrap.fill(item.strip(), width, initial_indent=margin, subsequent_indent=hang, break_long_words=False)
