"""The data of a run: its sources under one tokenizer, each split into training and validation, and their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from minigpt_flax.data import (
    READY_MADE,
    Batches,
    Corpus,
    Ids,
    Mixture,
    TextSize,
    TokenFiles,
    Tokenizer,
    Tokens,
    by_size,
    encode,
    ids,
    load_corpus,
    mix,
    read_weights,
    single_piece,
    split,
    text_size,
)
from minigpt_flax.data.tokenizers.gpt2 import TOKENS as GPT2_TOKENS, Unavailable
from minigpt_flax.errors import UserError
from minigpt_flax.spec import Spec
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.registry import REGISTRIES

IN_MEMORY = "(tokens in memory)"  # name of a source that was passed as an array
DECODED = 1 << 24  # tokens that are decoded at most to measure their text


@dataclass(frozen=True)
class Part:
    """One source of a run.

    Attributes:
      name: as it was given.
      train: training tokens.
      val: validation tokens.
      val_size: of the validation text; None if its tokens came without a tokenizer, or are too many to decode.
    """

    name: str
    train: Tokens
    val: Tokens
    val_size: TextSize | None


@dataclass(frozen=True)
class Dataset:
    """All sources of a run.

    Attributes:
      parts: in the order in which they were given.
      weights: their shares in the training batches.
      tokenizer: of all.
      sha256: hash of all.
      replaced: lone surrogates of the sources that became U+FFFD.
      notes: what a user should know about the data, one line each.
    """

    parts: tuple[Part, ...]
    weights: tuple[Fraction, ...]
    tokenizer: Tokenizer
    sha256: str
    replaced: int = 0
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """All names."""
        return ", ".join(part.name for part in self.parts)

    def batches(self, batch_size: int, context: int, seed: int) -> Batches | Mixture:
        """``batches(step)``: the training batches, see ``Batches`` and ``Mixture``."""
        return mix([part.train for part in self.parts], self.weights, batch_size, context, seed)


class WrongData(UserError):
    """The data isn't that of the run."""


def load_dataset(config: RunConfig, *, tokenizer: Tokenizer | None = None, data_hash: str | None = None) -> Dataset:
    """Loads the sources of a run.

    Args:
      config: its fields ``data``, ``mix``, ``tokenizer`` and ``val_tokens`` are read.
      tokenizer: of the run that is continued; None trains one, or takes that of the data.
      data_hash: SHA-256 of the data that the run began with; None takes any.

    Raises:
      WrongData: the data has another hash.
      UserError: a source, a share or a spec is wrong.
    """
    weights = None if config.mix is None else read_weights(config.mix, config.data)
    if twice := {source for source in config.data if config.data.count(source) > 1}:
        raise UserError(f"--data {min(twice)} is given twice: give it once, and its share with --mix")
    corpora = [load_corpus(source) for source in config.data]
    sha256 = _joint_hash([corpus.sha256 for corpus in corpora])
    if data_hash not in (None, sha256):
        raise WrongData(
            f"the data {', '.join(config.data)} has changed since this run began: its SHA-256 is {sha256}, not "
            f"{data_hash}"
        )
    notes = [note for corpus in corpora for note in corpus.notes]
    if tokenizer is None:
        tokenizer, more = choose_tokenizer(corpora, config.tokenizer)
        notes += more
    parts = tuple(
        _part(corpus, name, tokenizer, config.val_tokens)
        for corpus, name in zip(corpora, short_names(config.data), strict=True)
    )
    weights = weights or by_size([len(part.train) for part in parts])
    return Dataset(parts, weights, tokenizer, sha256, sum(corpus.replaced for corpus in corpora), tuple(notes))


def short_names(sources: Sequence[str]) -> list[str]:
    """Names of sources: the last components of their paths, as many as tell them apart.

    >>> short_names(["/a/b.txt", "/c/b.txt", "/d/e.txt", "pydocs"])
    ['a/b.txt', 'c/b.txt', 'e.txt', 'pydocs']
    """
    parts = [source.split("/") if source.startswith("/") else [source] for source in sources]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def from_tokens(
    train: Any, validation: Any = None, *, tokenizer: Tokenizer | None = None, vocab_size: int | None = None
) -> Dataset:
    """A dataset of token ids in memory.

    Args:
      train: token ids, int[N].
      validation: token ids to validate on; None takes the last tenth of ``train``.
      tokenizer: that made them; None where there is none, and samples are numbers.
      vocab_size: number of different tokens where there is no tokenizer; None takes the largest id + 1.

    Raises:
      UserError: the ids aren't a vector of non-negative integers, or too few.
    """
    parts = [_vector(tokens) for tokens in (train, validation) if tokens is not None]
    largest = max(int(tokens.max()) for tokens in parts)
    known = tokenizer or Ids(largest + 1 if vocab_size is None else vocab_size)
    if largest >= known.vocab_size:
        raise UserError(f"the token {largest} is outside the vocabulary of {known.vocab_size:,} tokens")
    digest = hashlib.sha256()
    for tokens in parts:
        digest.update(tokens.tobytes())
    training, held_out = parts if len(parts) == 2 else split(parts[0])
    return Dataset((Part(IN_MEMORY, training, held_out, None),), by_size([len(training)]), known, digest.hexdigest())


def _vector(tokens: Any) -> np.ndarray:
    array = np.asarray(tokens)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or not array.size or array.min() < 0:
        raise UserError(f"tokens must be a vector of non-negative integers, got {array.dtype.name}{list(array.shape)}")
    return array.astype(np.int32)


def _joint_hash(hashes: Sequence[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def choose_tokenizer(corpora: Sequence[Corpus], spec: Spec) -> tuple[Tokenizer, list[str]]:
    """The tokenizer of all sources: that of prepared data, or the one that ``spec`` names, trained on all text.

    Token files without a tokenizer are read as the output of a pretrained one, if ``spec`` names it, else as numbers;
    as numbers too if it can't be downloaded.

    Returns:
      The tokenizer, and notes for the user.

    Raises:
      UserError: the sources have no common tokenizer.
    """
    made = {corpus.name: corpus.tokenizer for corpus in corpora if corpus.tokenizer is not None}
    for name, other in made.items():
        first = next(iter(made))
        if not _equal(other, made[first]):
            raise UserError(
                f"{first!r} and {name!r} were prepared with different tokenizers: prepare both with the same tokenizer"
            )
    if made:
        return next(iter(made.values())), []
    numbers = [corpus for corpus in corpora if corpus.tokens is not None]
    if numbers and spec.name not in READY_MADE:
        if len(numbers) < len(corpora):
            raise UserError(
                f"{numbers[0].name!r} consists of tokens, which can't be mixed with text encoded by {spec.name!r}: "
                f"give the --tokenizer that made them ({', '.join(sorted(READY_MADE))})"
            )
        return _numbers(numbers), []
    try:
        return REGISTRIES["tokenizer"].bind(spec, _texts(corpora)), []
    except Unavailable as error:
        if len(numbers) < len(corpora):
            raise
        note = f"token ids only, so samples are numbers: {error}"
        return Ids(GPT2_TOKENS, GPT2_TOKENS - 1), [note]


def _texts(corpora: Sequence[Corpus]) -> str | Iterator[str]:
    texts = [corpus.text for corpus in corpora if corpus.text is not None]
    return texts[0] if len(texts) == 1 else iter(texts)


def _numbers(corpora: Sequence[Corpus]) -> Tokenizer:
    """The vocabulary that the files declare, or else one up to their largest token."""
    formats = {corpus.format for corpus in corpora}
    if len(formats) == 1 and (only := next(iter(formats))) is not None:
        return Ids(only.vocab_size, only.eot)
    found = [ids(tokens) for corpus in corpora for tokens in (corpus.tokens, corpus.val_tokens) if tokens is not None]
    return max(found, key=lambda one: one.vocab_size)


def _part(corpus: Corpus, name: str, tokenizer: Tokenizer, val_tokens: int | None) -> Part:
    train, val = tokens_of(corpus, tokenizer)
    val = val if val_tokens is None else val[: val_tokens + 1]  # the first token has no prediction
    return Part(name, train, val, text_size(tokenizer, val) if len(val) <= DECODED else None)


def tokens_of(corpus: Corpus, tokenizer: Tokenizer) -> tuple[Tokens, Tokens]:
    """Returns training and validation tokens: those that the data has set aside, or else the last tenth.

    Raises:
      UserError: the tokenizer can't encode the text, or isn't the one that made the tokens.
    """
    if corpus.tokenizer is not None and not _equal(corpus.tokenizer, tokenizer):
        raise UserError(f"{corpus.name!r} was prepared with another tokenizer than the run's: prepare it with that one")
    if corpus.tokens is not None:
        tokens, apart = corpus.tokens.with_vocab_size(tokenizer.vocab_size), corpus.val_tokens
        return split(tokens) if apart is None else (tokens, apart.with_vocab_size(tokenizer.vocab_size))
    tokens, apart = _encode(corpus.documents or (), tokenizer), corpus.val_documents
    return split(tokens) if apart is None else (tokens, _encode(apart, tokenizer))


def _equal(one: Tokenizer, other: Tokenizer) -> bool:
    return (one.name, one.to_json()) == (other.name, other.to_json())


def chained(*parts: Tokens) -> Tokens:
    """Tokens one after another; those in files stay there."""
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts):
        return np.concatenate(arrays)
    return TokenFiles.concatenate([part for part in parts if isinstance(part, TokenFiles)])


def _encode(documents: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int32), *encode(tokenizer, map(single_piece, documents))])
