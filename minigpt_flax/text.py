"""Text for a terminal: escape characters that are invisible, move the cursor or reorder the line."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

# C0 except tab and newline, DEL and C1, soft hyphen, zero width, bidirectional and line controls, surrogates, tags.
# The joiners U+200C and U+200D are part of ordinary Persian and Hindi text and of emoji.
_HIDDEN = re.compile(
    r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    r"\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    r"""Return ``text`` with control and invisible characters escaped as in Python; tabs and newlines stay.

    >>> printable("a\x1b[31m\u202eb\n")
    'a\\x1b[31m\\u202eb\n'
    """
    return _HIDDEN.sub(lambda found: escape(found[0]), text)


def tell(text: str, end: str = "\n", file: Any = None) -> None:
    """Prints text that may hold names of others, with control characters escaped; to standard output by default."""
    print(printable(text), end=end, file=file, flush=True)


def escape(character: str) -> str:
    r"""Return the escape sequence of a character.

    >>> escape("\x1b"), escape("\u202e"), escape("\U000e0001")
    ('\\x1b', '\\u202e', '\\U000e0001')
    """
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def width(text: str) -> int:
    """Return the terminal columns of a text: two for East Asian wide characters, none for combining characters.

    >>> width("abc"), width("实验"), width("é")
    (3, 4, 1)
    """
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    return 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")


def pad(text: str, columns: int) -> str:
    """Pad with spaces on the right."""
    return text + " " * (columns - width(text))


def cut(text: str, columns: int) -> str:
    """Truncate a text to a number of columns; two dots mark the omission.

    >>> cut("abcdef", 6), cut("abcdef", 5), cut("实验一", 5)
    ('abcdef', 'abc..', '实..')
    """
    ends = list(accumulate(map(_columns, text)))  # the columns up to and including each character
    if not ends or ends[-1] <= columns:
        return text
    return f"{text[: bisect_right(ends, columns - 2)]}.."


def counted(count: int, noun: str) -> str:
    """A number of things, in the singular or the plural.

    >>> counted(1, "run"), counted(2000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: its first column at the left, the others at the right.

    >>> aligned([("name", "loss"), ("adamw", "1.5")])
    ['name   loss', 'adamw   1.5']
    """
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([pad(row[0], widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def shortened(text: str, length: int = 40) -> str:
    """Truncate a text that is too long for a message.

    >>> shortened("12345", 3)
    '123...'
    """
    return text if len(text) <= length else f"{text[:length]}..."


def spelled(value: object) -> str:
    """A setting in a message: a text in quotes, several values in a list.

    >>> spelled("data=2"), spelled((1, 2)), spelled(()), spelled(0.1)
    ("'data=2'", '1, 2', 'none', '0.1')
    """
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return repr(value) if isinstance(value, str) else str(value)
