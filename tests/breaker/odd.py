"""Odd values of flags and keywords, and ways to damage a file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.breaker.world import NOTES, OUTSIDE

NUMBERS = (
    *("", " ", "x", "-1", "0", "-0.0", "1.5", "inf", "-inf", "1e400", "1e-320", "1e300", "-1e-3"),
    *("9" * 30, "-" + "9" * 30, str(2**31), str(2**63 - 1), str(2**63), str(2**64), "9" * 5000, "1_0", "0x10", "1,5"),
    *("１", "∞", "٣", "1e", "--", "None", "True", "\x1b[31m1", "1\n2", "1/0", "()"),
)
NEVER = ("nan", "-nan", "NaN", "one", "1 2", "1e5x", "\udcff")  # what no number can be
TEXTS = (
    *("", " ", "x", "-", "--", ".", "..", "none", "None", "x" * 300, "x/" * 200, "~nosuchuser/x", "~", "$HOME", "日本"),
    *(
        "\x1b[31mred\x1b[0m",
        "a\nb",
        "a\rb",
        "\x07",
        "\x9b31m",
        "\u202egnp",
        "\udcff",
        "a\udcffb.txt",
        "👩‍👩‍👧",
        "a" * 255,
    ),
    *("x(", "x)", "x()", "x(y)", "x(1, 2)", "x(y=1, y=2)", "x(**{})", "x=1", "=", "a=b=c", ",", "1,2", "1:2", "0:0"),
    *(
        "-1",
        "0",
        "nan",
        "inf",
        "1e400",
        "9" * 30,
        "../x",
        "a/../b",
        "folder",
        "fifo",
        "loop",
        "link",
        "linked",
        "locked",
    ),
    *(
        "locked/x",
        "text.txt",
        "text.txt/x",
        "/proc/nothing/x",
        "*",
        "[",
        "[a-",
        "**",
        "?",
        "a\\b",
        "%s",
        "{}",
        "'",
        '"',
    ),
    *("coordinator=x", "coordinator=x:1,processes=0,process=0", "data=0", "data=-1,data=1", "hf:", "hf:/", "inf,nan"),
)
LITERALS = (
    *("None", "True", "False", "0", "1", "-1", "2", "0.5", "-0.5", "1.0", "inf", "-inf", "1e400", "-1e-300", "1e-320"),
    *("10**3", str(10**40), str(-(10**40)), str(2**31), "'x'", "''", "'" + "a" * 300 + "'", "'\\x1b[31m'", "'float8'"),
    *("()", "(1, 2)", "(1, 2, 3, 4)", "(None,)", "((), ())", "[]", "[1]", "{}", "{'a': 1}", "{1}", "1j", "b'x'", "..."),
    *("('a', 'b')", "(inf, -inf)", "'nan'", "(0.5, 0.5, 0.5)", "'infer'", "[[[[[[1]]]]]]", "-0.0", "0.999999999"),
)
BAD_LITERALS = ("nan", "x", "f()", "lambda: 1", "1 +", "(1", "1)", "'", "__import__('os')", "x.y", "[i for i in x]", "")
SHAPES = (  # of a whole spec, with {} for its name
    *(
        "{}(",
        "{})",
        "{}()",
        "({})",
        "{}(,)",
        "{}(1)",
        "{}(1, 2, 3)",
        "{}(a=1)",
        "{}(a=1, a=2)",
        "{}(**{{}})",
        "{}(*())",
    ),
    *("{} {}", "{},{}", "{}.{}", "{}[0]", "{}=1", "-{}", "'{}'", "{}x", "x{}", "{}\x1b[31m", "{}\n", " {} ", "{}()()"),
    *("{}(1, x=2", "{}(x=lambda: 1)", "{}(x=nan)", "{}(x={{1: {{2: 3}}}})", "{}(x=1)(y=2)", "await {}", "{}#", "{};1"),
)
DEEP = (
    "-" * 900 + "1",
    "(" * 150 + ")" * 150,
    "(" * 5000,
    "[" * 90 + "]" * 90,
    "x(" * 90 + ")" * 90,
    "1+" * 3000 + "1",
)

Damage = Callable[[Path], None]


def _bytes(content: bytes) -> Damage:
    return lambda path: _write(path, content)


def _write(path: Path, content: bytes) -> None:
    _clear(path)
    path.write_bytes(content)


def _clear(path: Path) -> None:
    """Takes away what is at a path."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _truncate(path: Path) -> None:
    if path.is_dir():
        return _clear(sorted(path.rglob("*"), reverse=True)[0])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _folder(path: Path) -> None:
    _clear(path)
    path.mkdir()
    (path / NOTES).write_text("mine\n")


def _fifo(path: Path) -> None:
    _clear(path)
    os.mkfifo(path)


def _link(target: str) -> Damage:
    """Replaces a path by a link, relative to the case's folder if not to itself."""

    def damage(path: Path) -> None:
        _clear(path)
        root = next(parent for parent in path.parents if (parent / OUTSIDE).is_dir())
        path.symlink_to(root / target if target else path.name)

    return damage


FILE: dict[str, Damage] = {
    "is missing": _clear,
    "is empty": _bytes(b""),
    "is cut in half": _truncate,
    "is garbage": _bytes(bytes(range(256)) * 4),
    "is not UTF-8": _bytes(b'{"a": "\xff\xfe"}\n'),
    "is NUL bytes": _bytes(bytes(300)),
    "is a folder": _folder,
    "is a FIFO": _fifo,
    "is a link to itself": _link(""),
    "is a link to a user's file": _link(f"{OUTSIDE}/{NOTES}"),
    "is a link to a user's folder": _link(f"{OUTSIDE}/folder"),
    "is a link to a file that isn't there": _link(f"{OUTSIDE}/new"),
    "can't be read": lambda path: path.chmod(0),
}
WHOLE: tuple[bytes, ...] = (  # of a JSON file
    *(b"null", b"[]", b"{}", b"1", b'"x"', b"[[[]]]", b"[null]", b"[1, 2]", b'{"a": 1}', b"nan", b"{" * 3),
    *(b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b'{"a": 1} {"a": 2}', b'\xef\xbb\xbf{"a": 1}', b'"\\ud800"'),
)
VALUES: dict[str, Any] = {  # of a field
    "null": None,
    "true": True,
    "a text": "x",
    "an empty text": "",
    "control characters": "\x1b[31mred\x1b[0m\x07",
    "a lone surrogate": "\ud800",
    "a path outside": f"../{OUTSIDE}/{NOTES}",
    "0": 0,
    "-1": -1,
    "1.5": 1.5,
    "10**9": 10**9,
    "10**40": 10**40,
    "1e300": 1e300,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "[]": [],
    "a list": [1, "x", None],
    "{}": {},
    "nested": {"a": {"b": [{}]}},
    "a long text": "x" * 100_000,
}


def fields(value: Any, depth: int = 2, at: tuple = ()) -> Iterator[tuple]:
    """The paths of the fields of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, inner in list(items)[:100]:
        yield (*at, key)
        if depth > 1:
            yield from fields(inner, depth - 1, (*at, key))


def change(text: str, at: tuple, edit: Callable[[Any, Any], None], line: int | None = None) -> str:
    """The JSON ``text`` (or its ``line``) with the field ``at`` edited: ``edit(holder, key)``."""
    lines = [text] if line is None else text.splitlines()
    number = 0 if line is None else line
    value = holder = json.loads(lines[number])
    for key in at[:-1]:
        holder = holder[key]
    edit(holder, at[-1])
    lines[number] = json.dumps(value)
    return "\n".join(lines) + "\n"


_LINE = b"The quick brown fox jumps over the lazy dog.\n"
CONTENTS: dict[str, bytes] = {  # of a file of text or tokens
    "nothing": b"",
    "a line end": b"\n",
    "a letter": b"x",
    "text": _LINE * 40,
    "one letter, often": b"a" * 5000,
    "a byte order mark": b"\xef\xbb\xbf" + _LINE * 40,
    "UTF-16": (_LINE.decode() * 40).encode("utf-16"),
    "latin-1": "Käse über Öl\n".encode("latin-1") * 100,
    "GBK": "\u4f60\u597d\u4e16\u754c\n".encode("gbk") * 100,
    "NUL bytes": bytes(2000),
    "all bytes": bytes(range(256)) * 20,
    "control characters": b"\x1b[31mred\x1b[0m\x07\x9b\x08 " * 100,
    "surrogates": b"\xed\xa0\x80 text\n" * 100,
    "emoji": "\U0001f469\u200d\U0001f467 \u202egnp\n".encode() * 100,
    "tokens of two bytes": bytes((1, 0, 2, 0)) * 500,
    "an odd number of bytes": bytes((1, 0, 2)) * 333,
    "large tokens": b"\xff\xff" * 1000,
    "llm.c's header alone": (20240520).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes(1016),
    "llm.c's header, too many tokens": (20240520).to_bytes(4, "little") + b"\x01\0\0\0" + b"\xff" * 4 + bytes(1012),
    "llm.c's header, version 9": (20240520).to_bytes(4, "little") + (9).to_bytes(4, "little") + bytes(2000),
    "JSON lines": b'{"text": "The quick brown fox jumps over the lazy dog."}\n' * 40,
    "JSON lines, one cut short": b'{"text": "The quick brown fox"}\n' * 40 + b'{"text": "The',
    "JSON lines of numbers": b'{"text": 1}\n' * 40,
    "JSON lines of null": b'{"text": null}\n' * 40,
    "JSON lines without text": b'{"content": "The quick brown fox"}\n' * 40,
    "JSON lines with a lone surrogate": b'{"text": "The quick \\ud800 brown fox"}\n' * 40,
    "JSON lines that are lists": b"[1, 2]\n" * 40,
    "nested JSON": b'{"text": ' + b"[" * 100_000,
    "gzip": b"\x1f\x8b\x08\0garbage" * 20,
    "zip": b"PK\x03\x04" + bytes(500),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(500),
    "parquet": b"PAR1" + bytes(500) + b"PAR1",
    "a pickle": b"\x80\x04\x95" + bytes(500),
    "safetensors with a huge header": b"\xff" * 8 + b"{}",
}
SUFFIXES = (
    ".txt",
    ".bin",
    ".jsonl",
    ".json",
    ".ndjson",
    ".csv",
    ".md",
    ".gz",
    ".zst",
    ".parquet",
    ".npy",
    ".pt",
    ".html",
    "",
)
NAMES = (  # that a file system takes
    *(
        "a[b]",
        "[",
        "a*b?",
        "a\\b",
        "$x$y",
        "a$b",
        "a b",
        " a",
        "a ",
        "a\nb",
        "a\tb",
        "-x",
        "--help",
        "\u65e5\u672c\u8a9e",
        "\u0430\u0431",
    ),
    *(
        "a\u0301",
        "\u0627\u0644\u0639",
        "a" * 255,
        "\u00e9" * 127,
        "a\udcffb",
        ".hidden",
        "a%sb",
        "{a}",
        "a:b",
        "a'b\"c",
        "<b>x</b>",
    ),
    *(
        "x.partial",
        "con",
        "a.",
        "x\x1b[31m",
        "\u202egnp",
        "\U0001f469",
        "a=b",
        "a,b",
        "#x",
        "a&b;c",
        "`id`",
        "a|b",
        "x.json",
        "best",
    ),
)
PLACES = (  # where an output may be sent to: what populate() has made, and what isn't there
    *(
        "text.txt",
        "notes.txt",
        "folder",
        "fifo",
        "loop",
        "link",
        "linked",
        "linked/new",
        "locked",
        "locked/new",
        "new/a/b",
    ),
    *(
        "text.txt/new",
        "/proc/nothing/new",
        ".",
        "..",
        "",
        "~nosuchuser/new",
        "dangling",
        "a" * 256,
        "a/" * 2100,
        "folder/notes.txt",
    ),
)
