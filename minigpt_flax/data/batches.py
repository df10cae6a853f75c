"""From tokens to batches: the validation split, training batches and evaluation windows.

Everything is a pure function of its arguments: batch t depends only on (seed, t), so a resumed run, or a run on other
devices, sees the same data. The tokens may be memory-mapped and larger than memory: a batch reads only its own windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer

from minigpt_flax.data.token_files import Tokens
from minigpt_flax.errors import UserError
from minigpt_flax.phases import Phase

if TYPE_CHECKING:
    from minigpt_flax.data.mixture import Mixture

Rows = slice | Integer[np.ndarray, "_"]
Window = tuple[Int32[np.ndarray, "B T"], Int32[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]


def split(tokens: Tokens, fraction: float = 0.1) -> tuple[Tokens, Tokens]:
    """Split tokens into training and validation, as nanoGPT does: the last tenth is the validation split.

    >>> training, validation = split(np.arange(25))
    >>> training.size, validation.tolist()
    (22, [22, 23, 24])

    Args:
      tokens: all tokens of the corpus.
      fraction: share of the validation split, in (0, 1).

    Returns:
      Two views of `tokens`, the first ``int((1 - fraction) * n)`` tokens and the others.

    Raises:
      UserError: the fraction is outside (0, 1), or leaves one of the two parts empty.
    """
    start = split_index(len(tokens), fraction)
    return tokens[:start], tokens[start:]


def split_index(count: int, fraction: float = 0.1) -> int:
    """Return the number of tokens before the validation split, see `split`.

    Raises:
      UserError: as in `split`.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the validation fraction must be between 0 and 1, not {fraction}")
    start = int((1 - fraction) * count)
    if not 0 < start < count:
        raise UserError(f"{count} tokens are too few to take {fraction:g} of them for validation")
    return start


class Batches:
    """Training batches: ``batches(step)`` depends only on (seed, step), and steps can be requested in any order.

    An epoch divides the tokens into windows of `context` predictions that share no targets, and visits each once in
    random order. The first window starts at a random offset, so the next epoch has other windows. A batch may span two
    epochs.

    The random numbers are the sorted raw output of Philox with key (seed, epoch), which is the same for every version
    of NumPy and on every machine.

    >>> batches = Batches(np.arange(100), batch_size=2, context=4, seed=0)
    >>> batches(0).tolist()
    [[83, 84, 85, 86, 87], [7, 8, 9, 10, 11]]
    >>> batches.windows_per_epoch
    24
    """

    def __init__(self, tokens: Tokens, batch_size: int, context: int, seed: int):
        """Create batches of one shape.

        Args:
          tokens: training split; may be memory-mapped.
          batch_size: windows per batch (B), at least 1.
          context: predictions per window (T), at least 1.
          seed: in [0, 2**64).

        Raises:
          UserError: a number is out of range, or the split is shorter than one window.
        """
        _check(batch_size, context)
        if not 0 <= seed < 1 << 64:
            raise UserError(f"seed must be from 0 to 2**64 - 1, not {seed}")
        if len(tokens) <= context:
            raise UserError(
                f"context {context} is too long: a window has {context + 1} tokens and the "
                f"training split only {len(tokens)}, {context + 1 - len(tokens)} too few; "
                "give a shorter context or more data"
            )
        self.batch_size, self.context = batch_size, context
        # One fewer than fits, so that every offset leaves room for the same number of windows.
        self.windows_per_epoch = max(1, len(tokens) // context - 1)
        self._tokens, self._seed = tokens, seed
        self._epoch: tuple[int, Int64[np.ndarray, " windows"]] | None = None  # the last one used

    def __call__(self, step: int, rows: Rows | None = None) -> Int32[np.ndarray, "_ {self.context}+1"]:
        """Return the batch of a step, [B, T + 1]: inputs ``[:, :-1]``, targets ``[:, 1:]``.

        Args:
          step: any step from 0.
          rows: rows of the batch to return, for a process that feeds only some of the devices; None means all.
        """
        return self.windows(window_indices(step, self.batch_size, rows))

    def windows(self, indices: Int64[np.ndarray, " rows"]) -> Int32[np.ndarray, "rows {self.context}+1"]:
        """Return windows by index; row ``r`` of a step's batch has the index ``B * step + r``."""
        epochs, places = np.divmod(indices, self.windows_per_epoch)
        starts = np.empty_like(indices)
        for epoch in np.unique(epochs):
            starts[epochs == epoch] = self._starts(int(epoch))[places[epochs == epoch]]
        positions = starts[:, None] + np.arange(self.context + 1)
        return self._tokens[positions].astype(np.int32)

    def _starts(self, epoch: int) -> Int64[np.ndarray, " windows"]:
        """Return where the windows of an epoch start, in the order in which they are visited."""
        cached = self._epoch
        if cached is None or cached[0] != epoch:
            cached = self._epoch = (epoch, self._draw(epoch))
        return cached[1]

    def _draw(self, epoch: int) -> Int64[np.ndarray, " windows"]:
        """Draw a random offset, then a random order."""
        key = np.array([self._seed, epoch], np.uint64)
        raw = np.random.Philox(key=key).random_raw(1 + self.windows_per_epoch)
        slack = len(self._tokens) - 1 - self.windows_per_epoch * self.context
        offset = int(raw[0]) % (slack + 1)
        return offset + self.context * np.argsort(raw[1:], kind="stable")


class PhaseBatches:
    """The batches of one phase of a run; see :mod:`minigpt_flax.phases`.

    A sequence that is shorter than a window is a part of it: successive steps read the parts of the same windows.

    >>> whole = Batches(np.arange(100), batch_size=2, context=4, seed=0)
    >>> halves = PhaseBatches(whole, Phase(first=0, accum=1, batch_size=2, seq_len=2))
    >>> halves(0).tolist(), halves(1).tolist()
    ([[83, 84, 85], [7, 8, 9]], [[85, 86, 87], [9, 10, 11]])
    """

    def __init__(self, batches: Batches | Mixture, phase: Phase):
        """Read the batches of a phase from windows of the longest sequence length."""
        self.context, self._batches, self._phase = phase.seq_len, batches, phase

    def __call__(self, step: int, rows: Rows | None = None) -> Int32[np.ndarray, "_ {self.context}+1"]:
        """Return the batch of a step of the run, or some of its rows; see `Batches`."""
        done, part = divmod(step - self._phase.first, self._batches.context // self.context)
        indices = self._phase.windows + window_indices(done, self._phase.step_sequences, rows)
        start = part * self.context
        return self._batches.windows(indices)[:, start : start + self.context + 1]


def window_indices(step: int, batch_size: int, rows: Rows | None) -> Int64[np.ndarray, " rows"]:
    """Return the indices of the rows of a step's batch, or of some of them, among all rows of the run."""
    return step * batch_size + np.arange(batch_size)[slice(None) if rows is None else rows]


def evaluation_windows(tokens: Tokens, context: int, batch_size: int) -> Iterator[Window]:
    """Divide a split into windows that predict every token but the first exactly once.

    Windows follow one another without overlap. All batches have the same shape, so that a function compiles once: the
    last batch is filled by repeating the last prediction, masked.

    Args:
      tokens: the split, at least 2 tokens; may be memory-mapped.
      context: predictions per window (T), at least 1; may exceed the split.
      batch_size: windows per batch (B), at least 1.

    Returns:
      An iterator over (inputs, targets, mask), each [B, T]; the mask is True for the targets that count.

    Raises:
      UserError: a number is out of range, or the split has nothing to predict.
    """
    _check(batch_size, context)
    if len(tokens) < 2:
        raise UserError(f"the split has {len(tokens)} tokens; an evaluation needs at least 2")
    return _evaluation_windows(tokens, context, batch_size)


def _evaluation_windows(tokens: Tokens, context: int, batch_size: int) -> Iterator[Window]:
    """The generator behind `evaluation_windows`, which checks its arguments before the first item is requested."""
    predictions = len(tokens) - 1
    block = np.arange(batch_size * context).reshape(batch_size, context)
    for first in range(0, predictions, block.size):
        positions = first + block
        mask = positions < predictions
        positions = np.minimum(positions, predictions - 1)
        yield tokens[positions].astype(np.int32), tokens[positions + 1].astype(np.int32), mask


def _check(batch_size: int, context: int) -> None:
    """Refuse shapes below 1."""
    for name, value in (("batch_size", batch_size), ("context", context)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, not {value}")
