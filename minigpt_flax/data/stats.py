"""Statistics of tokens without a model: counts, unigram entropy, bits per character."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int64

from minigpt_flax.data.detokenize import TextSize
from minigpt_flax.data.token_files import Tokens

_CHUNK = 1 << 22  # tokens; `bincount` converts them to int64, 32 MB at a time
_STRETCHES = 8


def token_counts(tokens: Tokens, vocab_size: int = 0) -> Int64[np.ndarray, " vocab"]:
    """Return how often each token occurs, up to the largest token or `vocab_size - 1`.

    >>> token_counts(np.array([0, 2, 2])).tolist()
    [1, 0, 2]
    """
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(tokens), _CHUNK):
        chunk = np.bincount(tokens[start : start + _CHUNK], minlength=counts.size)
        chunk[: counts.size] += counts
        counts = chunk
    return counts


def unigram_entropy(tokens: Tokens, vocab_size: int) -> float:
    """Return the entropy of the token frequencies, in nats: the loss of a model without context.

    A uniform guess has a loss of ``log(vocab_size)``; training first falls to this value, then below it. Above 2**25
    tokens, only 8 evenly spaced stretches of 2**22 are counted: accurate to three digits, and read in a second.

    >>> round(unigram_entropy(np.array([0, 0, 1, 1]), 3), 4)  # log 2
    0.6931
    """
    stretches = [tokens]
    if len(tokens) > _STRETCHES * _CHUNK:
        starts = np.linspace(0, len(tokens) - _CHUNK, _STRETCHES).astype(np.int64)
        stretches = [tokens[start : start + _CHUNK] for start in starts]
    counts = np.sum([token_counts(stretch, vocab_size) for stretch in stretches], axis=0)
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def bits_per_unit(loss: float, tokens: int, size: TextSize | None) -> dict[str, float]:
    """Convert a mean loss in nats per token to bits per character and per byte of the text.

    Unlike losses, they are comparable between tokenizers. The loss of end-of-text tokens counts; their characters do
    not, as they are no text.

    Args:
      loss: mean cross-entropy, nats per token.
      tokens: number of tokens, with the end-of-text tokens.
      size: see `text_size`; None or an empty text has no result.

    >>> bits_per_unit(math.log(2), tokens=100, size=TextSize(characters=400, bytes=500))
    {'bits_per_character': 0.25, 'bits_per_byte': 0.2}
    """
    if size is None or not size.bytes:
        return {}
    bits = loss / math.log(2) * tokens
    return {"bits_per_character": bits / size.characters, "bits_per_byte": bits / size.bytes}
