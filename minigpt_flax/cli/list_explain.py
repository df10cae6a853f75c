"""``--list`` and ``--explain``: documentation of the names that flags accept, from their docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap

import jax

from minigpt_flax.cli.parser import COLUMNS, Request
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.spec import parse, signature
from minigpt_flax.train.config.presets import PRESET_NOTES, PRESETS, default_preset
from minigpt_flax.train.config.run_config import KIND_OF, flag_of, resolve
from minigpt_flax.train.registry import REGISTRIES, Registry, RunInfo


def show(request: Request) -> int:
    """Prints the list of names, or the documentation of one.

    Raises:
      UserError: the name to explain is unknown.
    """
    print(listing() if request.list else explain(request))
    return 0


def listing() -> str:
    """Lists all names by kind, with the first line of their docstrings."""
    parts = [_section(f"{kind} ({entry.flag})", _summaries(entry)) for kind, entry in REGISTRIES.items()]
    return "\n\n".join([*parts, _section("preset (--preset)", PRESET_NOTES)])


def _summaries(kind: Registry) -> dict[str, str]:
    return {name: _plain(inspect.getdoc(row) or "").split("\n")[0] for name, row in kind.table.items()}


def _section(title: str, lines: dict[str, str]) -> str:
    width = 4 + max(map(len, lines))
    rows = (
        textwrap.fill(text, COLUMNS, initial_indent=f"  {name}".ljust(width), subsequent_indent=" " * width)
        for name, text in lines.items()
    )
    return "\n".join([title, *rows])


def explain(request: Request) -> str:
    """Documents a name, from every table that has it; of an optimizer also the arguments that a run would pass.

    Raises:
      UserError: no table has it; suggests the nearest.
    """
    spec = parse(request.explain or "", "name to explain")
    texts = [_explain_row(kind, entry, spec.name) for kind, entry in REGISTRIES.items() if spec.name in entry.table]
    if spec.name in REGISTRIES["optimizer"].table:
        texts.append(_would_use(request, str(spec)))
    if spec.name in PRESETS:
        texts.append(_explain_preset(spec.name))
    if not texts:
        names = [*(name for entry in REGISTRIES.values() for name in entry.table), *PRESETS]
        raise UserError(f"nothing is called {spec.name!r}{nearest(spec.name, names)}; --list shows all names")
    return "\n\n".join(texts)


def _explain_row(kind: str, entry: Registry, name: str) -> str:
    row = entry.table[name]
    usage = signature(row, skip=entry.leading, without=RunInfo._fields)
    shown = textwrap.fill(usage, COLUMNS - 2, initial_indent="  ", subsequent_indent="    ")
    return f"{kind}, for {entry.flag}:\n\n{shown}\n\n{reflow(inspect.getdoc(row) or '')}"


def _would_use(request: Request, spec: str) -> str:
    preset = request.preset or default_preset(jax.default_backend())
    config = resolve({**request.given, "opt": spec}, preset)
    return f"With preset {preset} a run would use:\n\n  {typed('opt', config.opt)} {typed('lr', config.lr)}"


def _explain_preset(name: str) -> str:
    config = resolve({}, name)
    values = {key: getattr(config, key) for key in PRESETS[name]}
    flags = [typed(k, each) for k, value in values.items() for each in (value if isinstance(value, tuple) else [value])]
    return f"preset, {PRESET_NOTES[name]}:\n\n" + "\n".join(f"  {flag}" for flag in flags)


def typed(name: str, value: object) -> str:
    """Formats a field and its value as a flag.

    >>> typed("opt", "adamw(b2=0.99)"), typed("bias", False)
    ('--opt "adamw(b2=0.99)"', '--no-bias')
    """
    if isinstance(value, bool):
        return flag_of(name if value else f"no_{name}")
    return f'{flag_of(name)} "{value}"' if name in KIND_OF or "(" in str(value) else f"{flag_of(name)} {value}"


def _plain(text: str) -> str:
    """Removes Sphinx roles and double backticks."""
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?([^`]+)`", r"\1", text).replace("``", "`")


def reflow(text: str, width: int = COLUMNS) -> str:
    """Wraps prose at ``width``; formulas, tables and examples keep their lines."""
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
    """Joins the lines of a paragraph; those of a section such as ``Args:``, or of a list, entry by entry."""
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
