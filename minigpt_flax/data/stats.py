"""Statistics of tokens without a model: counts, unigram entropy, bits per character."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int64

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


def bits_per_character(loss: float, tokens: int, characters: int) -> float:
    """Convert a mean loss in nats per token to bits per character, or per byte, of the text.

    Unlike losses, bits per character are comparable between tokenizers.

    Args:
      loss: mean cross-entropy, nats per token.
      tokens: number of tokens in the text.
      characters: number of characters in the text, or of bytes.

    >>> round(bits_per_character(2.0, tokens=100, characters=400), 4)
    0.7213
    """
    return loss / math.log(2) * tokens / characters
