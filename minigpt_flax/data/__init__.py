"""Data: corpora, tokenizers, batches. NumPy only; knows neither models nor optimizers."""

from minigpt_flax.data.batches import Batches as Batches, evaluation_windows as evaluation_windows, split as split
from minigpt_flax.data.corpora import (
    CORPORA as CORPORA,
    TEXT_SUFFIXES as TEXT_SUFFIXES,
    Corpus as Corpus,
    load_corpus as load_corpus,
)
from minigpt_flax.data.measures import bits_per_character as bits_per_character, unigram_entropy as unigram_entropy
from minigpt_flax.data.tokenizers import (
    TOKENIZERS as TOKENIZERS,
    Tokenizer as Tokenizer,
    ids as ids,
    load_tokenizer as load_tokenizer,
)
