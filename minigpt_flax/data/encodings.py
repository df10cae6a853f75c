"""Advice on a text file that is not UTF-8: the line that converts it."""

from __future__ import annotations

import codecs
from pathlib import Path

from minigpt_flax.invocation import quote, show

EXAMINED = 1 << 20  # bytes searched for lines with other than ASCII, from the first wrong byte on
SAMPLE = 1 << 15  # bytes of such lines
MARKED = 8  # bytes without a mark that are too few to tell
BOMS = {  # the longer ones first: UTF-32's starts like UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LEGACY = {  # Python's name -> language; equal texts are ascribed to the first
    "gb18030": "Chinese",
    "big5": "Chinese",
    "cp932": "Japanese",
    "euc_jp": "Japanese",
    "cp949": "Korean",
    "cp1252": "Western European",
    "cp1250": "Central European",
    "cp1251": "Cyrillic",
    "koi8_r": "Cyrillic",
    "cp1253": "Greek",
    "cp1254": "Turkish",
    "cp1255": "Hebrew",
    "cp1256": "Arabic",
}


def utf16_of(head: bytes) -> str | None:
    """Return the name of UTF-16 or UTF-32 if the start of a file shows it: by its mark, or by its NUL bytes."""
    for mark, name in BOMS.items():
        if head.startswith(mark):
            return name
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(head) >= MARKED and max(even, odd) * 5 > len(head) and not min(even, odd):
        return "UTF-16LE" if odd else "UTF-16BE"
    return None


def advice(path: Path, block: bytes, start: int) -> str:
    """Return what to do about bytes that are not UTF-8.

    Args:
      path: the file.
      block: bytes of it.
      start: index of the first wrong byte.
    """
    sample = _foreign_lines(block, start)
    valid = sample.decode("utf-8", "replace")
    wrong = valid.count("\ufffd")
    if wrong * 10 < sum(character > "\x7f" for character in valid):
        return f"most of it is: remove the wrong bytes with {_line(path, 'utf-8', '-c ')}"
    encoding = detect(sample)
    if encoding is None:
        return "convert it first with iconv -f ENCODING -t utf-8, ENCODING being what it was saved in"
    name = encoding.replace("_", "-").upper()
    return f"it looks like {name} ({LEGACY[encoding]}): convert it with {_line(path, name)} and check the result"


def converting_line(path: Path, encoding: str) -> str:
    """Return the command that converts a file of a known encoding."""
    return f"convert it with {_line(path, encoding)}"


def _line(path: Path, encoding: str, option: str = "") -> str:
    target = path.with_name(f"{path.stem}-utf8{path.suffix}")
    return f"iconv {option}-f {encoding} -t utf-8 {quote(show(path))} > {quote(show(target))}"


def _foreign_lines(block: bytes, start: int) -> bytes:
    """Return the lines with other than ASCII from the line of a byte on; plain lines would outweigh them."""
    lines = block[block.rfind(b"\n", 0, start) + 1 :][:EXAMINED].split(b"\n")
    whole = lines[:-1] if len(lines) > 1 else lines  # the last may be cut inside a character
    return b"\n".join(line for line in whole if not line.isascii())[:SAMPLE] or lines[-1]


def detect(sample: bytes) -> str | None:
    """Return the encoding in `LEGACY` that gives the most plausible text; None without a clear one.

    The package `charset-normalizer` decides; without it there is no guess.
    """
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return None
    best = from_bytes(sample, cp_isolation=list(LEGACY)).best()
    if best is None or best.encoding not in LEGACY:
        return None
    text = sample.decode(best.encoding)
    return next(name for name in LEGACY if sample.decode(name, "replace") == text)
