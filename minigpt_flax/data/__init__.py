"""Data: corpora, tokenizers and batches. Uses NumPy only, and neither models nor optimizers."""

from minigpt_flax.data.batches import (
    Batches as Batches,
    PhaseBatches as PhaseBatches,
    evaluation_windows as evaluation_windows,
    split as split,
)
from minigpt_flax.data.corpora import (
    CORPORA as CORPORA,
    Corpus as Corpus,
    load_corpus as load_corpus,
    open_corpus as open_corpus,
)
from minigpt_flax.data.detokenize import TextSize as TextSize, text_size as text_size
from minigpt_flax.data.documents import (
    encode as encode,
    join_documents as join_documents,
    rechunk as rechunk,
    replacement_note as replacement_note,
    single_piece as single_piece,
)
from minigpt_flax.data.mixture import Mixture as Mixture, by_size as by_size, mix as mix, read_weights as read_weights
from minigpt_flax.data.prefetch import Prefetch as Prefetch
from minigpt_flax.data.sources import TEXT_SUFFIXES as TEXT_SUFFIXES
from minigpt_flax.data.stats import bits_per_unit as bits_per_unit, unigram_entropy as unigram_entropy
from minigpt_flax.data.token_files import TokenFiles as TokenFiles, Tokens as Tokens
from minigpt_flax.data.tokenizers import (
    READY_MADE as READY_MADE,
    TOKENIZERS as TOKENIZERS,
    Ids as Ids,
    Tokenizer as Tokenizer,
    digest_of as digest_of,
    ids as ids,
    load_tokenizer as load_tokenizer,
)
