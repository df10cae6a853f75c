"""Advice on a text file that is not UTF-8: the line that converts it."""

from __future__ import annotations

import codecs
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
LEGACY = {  # name for iconv and Python -> language; equal texts are ascribed to the first
    "GB18030": "Chinese",
    "BIG5": "Chinese",
    "CP932": "Japanese",
    "EUC-JP": "Japanese",
    "CP949": "Korean",
    "CP1252": "Western European",
    "CP1250": "Central European",
    "CP1251": "Cyrillic",
    "KOI8-R": "Cyrillic",
    "CP1253": "Greek",
    "CP1254": "Turkish",
    "CP1255": "Hebrew",
    "CP1256": "Arabic",
}
CLOSE = 0.5  # an encoding whose confidence is this share of the best one's is as possible
PACKAGE = "chardet>=7.7"


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
    likely = detect(sample)
    if not likely:
        return f"convert it first with iconv -f ENCODING -t utf-8, with the encoding that it was saved in{_advice()}"
    names = " or ".join(f"{name} ({LEGACY[name]})" for name in likely)
    line = f"convert it with {_line(path, likely[0])} and check the result"
    if len(likely) > 1:
        return f"it may be {names}: {line}, or name another encoding after -f"
    return f"it looks like {names}: {line}"


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


def _advice() -> str:
    return "" if _find_detector() else f"; to have it detected: pip install '{PACKAGE}'"


def _find_detector() -> Callable[..., Any] | None:
    try:
        from chardet import detect_all
    except ImportError:
        return None
    return detect_all if "include_encodings" in inspect.signature(detect_all).parameters else None


def detect(sample: bytes) -> list[str]:
    """Return the encodings in `LEGACY` that are likely for a text: the best one, and at most two others that are close.

    The package `chardet` decides, by the frequencies of pairs of bytes in each language; without it there is no guess.
    """
    detector = _find_detector()
    if detector is None:
        return []
    names = {_decode(sample, name): name for name in reversed(LEGACY)}
    confidences: dict[str, float] = {}
    for guess in detector(sample, include_encodings=list(LEGACY), ignore_threshold=True):  # from the best one on
        text = _decode(sample, guess["encoding"] or "ascii")
        if text is not None and text in names:
            confidences.setdefault(names[text], guess["confidence"])
    least = CLOSE * max(confidences.values(), default=0)
    return [name for name, confidence in confidences.items() if confidence >= least][:3]


def _decode(sample: bytes, encoding: str) -> str | None:
    """Return the text of bytes, whose last character may be incomplete; None if they are not in this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return None
