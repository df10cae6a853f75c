"""Incremental decoding: incomplete characters and possible starts of a stop string are held back."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt_flax.data.tokenizers import Tokenizer

INCOMPLETE = "\ufffd"  # decoded from bytes that end inside a character
MAX_IDS = 64  # tokens that are decoded again with every addition


class TextStream:
    """Decode a growing sequence of tokens; the concatenated results are the text of the whole sequence.

    >>> from minigpt_flax.data.tokenizers import TOKENIZERS
    >>> stream = TextStream(TOKENIZERS["byte"](""))
    >>> [stream.add([byte]) for byte in "né".encode()]
    ['n', '', 'é']
    """

    def __init__(self, tokenizer: Tokenizer):
        """Start an empty sequence."""
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # the end of the sequence
        self._returned = 0  # characters of its text that were returned

    def add(self, ids: Sequence[int]) -> str:
        """Append tokens, and return the text that is now complete."""
        self._ids += [int(i) for i in ids]
        text = self._tokenizer.decode(self._ids)
        certain = text.removesuffix(INCOMPLETE)
        new = certain[self._returned :]
        self._returned = max(self._returned, len(certain))
        if len(self._ids) > MAX_IDS and certain == text:
            # Keep one token: a tokenizer may insert text between two tokens, such as a space.
            self._ids = self._ids[-1:]
            self._returned = len(self._tokenizer.decode(self._ids))
        return new

    def end(self) -> str:
        """Return the text that was held back."""
        return self._tokenizer.decode(self._ids)[self._returned :]


class StopStream:
    """Pass text through up to the first stop string, which is removed.

    >>> stream = StopStream(["###"])
    >>> stream.add("one #"), stream.add("1 ##"), stream.add("# two"), stream.stopped
    ('one ', '#1 ', '', True)
    """

    def __init__(self, stops: Sequence[str]):
        """Set the stop strings, none of them empty."""
        self._stops = tuple(stops)
        self._held = ""  # possibly the start of a stop string
        self.stopped = False

    def add(self, text: str) -> str:
        """Return the text that certainly precedes every stop string."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        self.stopped = bool(found)
        end = min(found) if found else len(text) - self._partial_stop(text)
        self._held = "" if found else text[end:]
        return text[:end]

    def end(self) -> str:
        """Return the text that was held back, which is not a stop string."""
        held, self._held = self._held, ""
        return held

    def _partial_stop(self, text: str) -> int:
        """Return the length of the longest suffix of the text that is a prefix of a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stops)), 0)
