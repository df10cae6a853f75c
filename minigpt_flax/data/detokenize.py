"""Incremental decoding: incomplete characters and possible starts of a stop string are held back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from minigpt_flax.data.token_files import Tokens
from minigpt_flax.data.tokenizers import Ids, Tokenizer

INCOMPLETE = "\ufffd"  # decoded from bytes that end inside a character
MAX_IDS = 64  # tokens that are decoded again with every addition
_CHUNK = 1 << 16  # tokens decoded at a time to measure a text, about 90 bytes each


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


class TextSize(NamedTuple):
    """Size of a text."""

    characters: int
    bytes: int  # in UTF-8


def text_size(tokenizer: Tokenizer, tokens: Tokens) -> TextSize | None:
    """Measure the text of tokens, without their end-of-text tokens, in memory that does not depend on its length.

    Args:
      tokenizer: tokenizer of the tokens.
      tokens: token ids, in memory or in files.

    Returns:
      The size, or None for tokens without a tokenizer, whose text is unknown.

    >>> from minigpt_flax.data.tokenizers import TOKENIZERS
    >>> text_size(TOKENIZERS["byte"](""), np.array([*"né".encode()]))
    TextSize(characters=2, bytes=3)
    """
    if isinstance(tokenizer, Ids):
        return None
    sizes = [(len(text), len(text.encode("utf-8", "surrogatepass"))) for text in _texts(tokenizer, tokens)]
    return TextSize(*map(sum, zip(*sizes, strict=True)))


def _texts(tokenizer: Tokenizer, tokens: Tokens) -> Iterator[str]:
    """Yield the text of the documents, in pieces."""
    end = -1 if tokenizer.eot is None else tokenizer.eot
    stream = TextStream(tokenizer)
    for start in range(0, len(tokens), _CHUNK):
        ids = np.asarray(tokens[start : start + _CHUNK])
        first, *others = np.split(ids, np.flatnonzero(ids == end))
        yield stream.add(first.tolist())
        for document in others:  # begins with an end-of-text token
            yield stream.end()
            stream = TextStream(tokenizer)
            yield stream.add(document[1:].tolist())
    yield stream.end()


class StopStream:
    """Pass text through up to the stop string that ends first, which is removed; of several, the longest.

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
        places = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        self.stopped = bool(places)
        end = min(places)[1] if places else len(text) - self._partial_stop(text)
        self._held = "" if places else text[end:]
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
