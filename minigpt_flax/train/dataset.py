"""The data of a run: its sources under one tokenizer, each cut into training and validation, and their shares."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from minigpt_flax.data import (
    READY_MADE,
    Batches,
    Corpus,
    Ids,
    Mixture,
    TokenFiles,
    Tokenizer,
    Tokens,
    by_size,
    encode,
    ids,
    load_corpus,
    mix,
    read_weights,
    split,
    whole,
)
from minigpt_flax.errors import UserError
from minigpt_flax.spec import bind, parse
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.registry import KINDS

DECODED = 1 << 24  # tokens that are decoded at most to count their characters


@dataclass(frozen=True)
class Part:
    """One source of a run.

    Attributes:
      name: as it was given.
      train: training tokens.
      val: validation tokens.
      characters: that the validation tokens stand for; None if they came without a tokenizer, or are too many to count.
    """

    name: str
    train: Tokens
    val: Tokens
    characters: int | None


@dataclass(frozen=True)
class Dataset:
    """All sources of a run.

    Attributes:
      parts: in the order in which they were given.
      weights: their shares in what is trained on.
      tokenizer: of all.
      sha256: hash of all.
      replaced: lone surrogates of the sources that became U+FFFD.
    """

    parts: tuple[Part, ...]
    weights: tuple[Fraction, ...]
    tokenizer: Tokenizer
    sha256: str
    replaced: int = 0

    @property
    def name(self) -> str:
        """All names."""
        return ", ".join(part.name for part in self.parts)

    def batches(self, batch_size: int, context: int, seed: int) -> Batches | Mixture:
        """``batches(step)``: the training batches, see ``Batches`` and ``Mixture``."""
        return mix([part.train for part in self.parts], self.weights, batch_size, context, seed)


def load_dataset(config: RunConfig, *, tokenizer: Tokenizer | None = None, data_hash: str | None = None) -> Dataset:
    """Loads what ``--data``, ``--mix`` and ``--tokenizer`` say.

    Args:
      config: the words and numbers.
      tokenizer: of the run that goes on; None trains one, or takes that of the data.
      data_hash: of the data that the run began with; None takes any.

    Raises:
      UserError: a source, a share or a word is wrong, or the data is not that of the run.
    """
    weights = None if config.mix is None else read_weights(config.mix, config.data)
    if twice := {source for source in config.data if config.data.count(source) > 1}:
        raise UserError(f"--data {min(twice)} is given twice: give it once, and its share with --mix")
    corpora = [load_corpus(source) for source in config.data]
    sha256 = _joint_hash([corpus.sha256 for corpus in corpora])
    if data_hash not in (None, sha256):
        raise UserError(
            f"the data {', '.join(config.data)!r} has changed since this run began: bring back what had the SHA-256 "
            f"{data_hash}, or start another run"
        )
    tokenizer = tokenizer or choose_tokenizer(corpora, config.tokenizer)
    parts = tuple(_part(corpus, tokenizer) for corpus in corpora)
    weights = weights or by_size([len(part.train) for part in parts])
    return Dataset(parts, weights, tokenizer, sha256, sum(corpus.replaced for corpus in corpora))


def _joint_hash(hashes: Sequence[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def choose_tokenizer(corpora: Sequence[Corpus], word: str) -> Tokenizer:
    """The one tokenizer of all sources: that of prepared data, or the one that ``word`` names, trained on all text.

    Data that came as tokens alone is taken as what a ready-made tokenizer has cut, or else as mere numbers.

    Raises:
      UserError: the sources have no common tokenizer.
    """
    made = {corpus.name: corpus.tokenizer for corpus in corpora if corpus.tokenizer is not None}
    for name, other in made.items():
        first = next(iter(made))
        if not _equal(other, made[first]):
            raise UserError(f"{first!r} and {name!r} were prepared with different tokenizers: prepare one anew")
    if made:
        return next(iter(made.values()))
    numbers = [corpus for corpus in corpora if corpus.tokens is not None]
    parsed = parse(word, "tokenizer")
    if numbers and parsed.name not in READY_MADE:
        if len(numbers) < len(corpora):
            raise UserError(
                f"{numbers[0].name!r} came as tokens, which don't mix with text cut by the tokenizer {parsed.name!r}: "
                f"give the --tokenizer that made them ({', '.join(sorted(READY_MADE))})"
            )
        return _numbers(numbers)
    return bind(parsed, KINDS["tokenizer"].table, "tokenizer", _texts(corpora))


def _texts(corpora: Sequence[Corpus]) -> str | Iterator[str]:
    texts = [corpus.text for corpus in corpora if corpus.text is not None]
    return texts[0] if len(texts) == 1 else iter(texts)


def _numbers(corpora: Sequence[Corpus]) -> Tokenizer:
    """The vocabulary that the files tell of, or else up to the largest token that they have."""
    formats = {corpus.format for corpus in corpora}
    if len(formats) == 1 and (only := next(iter(formats))) is not None:
        return Ids(only.vocab_size, only.eot)
    found = [ids(tokens) for corpus in corpora for tokens in (corpus.tokens, corpus.val_tokens) if tokens is not None]
    return max(found, key=lambda one: one.vocab_size)


def _part(corpus: Corpus, tokenizer: Tokenizer) -> Part:
    train, val = tokens_of(corpus, tokenizer)
    known = not isinstance(tokenizer, Ids) and len(val) <= DECODED
    return Part(corpus.name, train, val, len(tokenizer.decode(np.asarray(val))) if known else None)


def tokens_of(corpus: Corpus, tokenizer: Tokenizer) -> tuple[Tokens, Tokens]:
    """Returns training and validation tokens: those set apart by whoever made the data, or else the last tenth.

    Raises:
      UserError: the tokenizer can't encode the text, or isn't the one that made the tokens.
    """
    if corpus.tokenizer is not None and not _equal(corpus.tokenizer, tokenizer):
        raise UserError(f"{corpus.name!r} was prepared with another tokenizer than the run's: prepare it with that one")
    if corpus.tokens is not None:
        tokens, apart = corpus.tokens.within(tokenizer.vocab_size), corpus.val_tokens
        return split(tokens) if apart is None else (tokens, apart.within(tokenizer.vocab_size))
    tokens, apart = _encode(corpus.documents or (), tokenizer), corpus.val_documents
    return split(tokens) if apart is None else (tokens, _encode(apart, tokenizer))


def _equal(one: Tokenizer, other: Tokenizer) -> bool:
    return (one.name, one.to_json()) == (other.name, other.to_json())


def chained(*parts: Tokens) -> Tokens:
    """Tokens one after another; those in files stay there."""
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts):
        return np.concatenate(arrays)
    return TokenFiles.joined([part for part in parts if isinstance(part, TokenFiles)])


def _encode(documents: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int32), *encode(tokenizer, map(whole, documents))])
