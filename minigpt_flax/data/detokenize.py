"""Text out of tokens as they come: a character that is not whole yet waits, and so does what may begin a stop."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt_flax.data.tokenizers import Tokenizer

INCOMPLETE = "\ufffd"  # what a tokenizer makes of bytes that end within a character
MEMORY = 64  # tokens that are decoded again with every addition


class TextStream:
    """Decodes a growing row of tokens; what it returns, joined, is the text of the whole row.

    >>> from minigpt_flax.data.tokenizers import TOKENIZERS
    >>> stream = TextStream(TOKENIZERS["byte"](""))
    >>> [stream.add([byte]) for byte in "né".encode()]
    ['n', '', 'é']
    """

    def __init__(self, tokenizer: Tokenizer):
        """Begins an empty row."""
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # the end of the row
        self._given = 0  # characters of its text that were returned

    def add(self, ids: Sequence[int]) -> str:
        """Appends tokens and returns the text that is now certain."""
        self._ids += [int(i) for i in ids]
        text = self._tokenizer.decode(self._ids)
        certain = text.removesuffix(INCOMPLETE)
        new = certain[self._given :]
        self._given = max(self._given, len(certain))
        if len(self._ids) > MEMORY and certain == text:
            # One token stays: a tokenizer may put something, a space say, between two.
            self._ids = self._ids[-1:]
            self._given = len(self._tokenizer.decode(self._ids))
        return new

    def end(self) -> str:
        """Returns what was held back."""
        return self._tokenizer.decode(self._ids)[self._given :]


class StopStream:
    """Passes text on up to the first of some strings, which it leaves out.

    >>> stream = StopStream(["###"])
    >>> stream.add("one #"), stream.add("1 ##"), stream.add("# two"), stream.stopped
    ('one ', '#1 ', '', True)
    """

    def __init__(self, stops: Sequence[str]):
        """Takes the strings, none of them empty."""
        self._stops = tuple(stops)
        self._held = ""  # the beginning of a stop, perhaps
        self.stopped = False

    def add(self, text: str) -> str:
        """Returns what is certain to come before every stop."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        self.stopped = bool(found)
        border = min(found) if found else len(text) - self._beginning(text)
        self._held = "" if found else text[border:]
        return text[:border]

    def end(self) -> str:
        """Returns what was held back: no stop came of it."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """Length of the longest end of the text that a stop begins with."""
        longest = max(map(len, self._stops), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stops)), 0)
