"""What a GPT is made of: sizes, and one word from each table of parts.

Imports no JAX, so that a command line can read, check and print a configuration at once. The words are those of the
tables ``NORMS``, ``POSITIONS``, ``MLPS``, ``SOFTCAPS``, ``INITS``, ``ATTENTION`` and ``REMAT``; a test holds them
together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from minigpt_flax.bounds import SIZE, Bound
from minigpt_flax.errors import UserError, nearest

NORM_NAMES = ("layernorm", "rmsnorm")
POSITION_NAMES = ("learned", "rope", "half_rope", "none")
MLP_NAMES = ("gelu", "gelu_tanh", "swiglu", "relu2")
SOFTCAP_NAMES = ("tanh", "algebraic")
INIT_NAMES = ("gpt2", "zero_out")
ATTENTION_NAMES = ("plain", "cudnn", "tpu")
DTYPE_NAMES = ("float32", "bfloat16")
REMAT_NAMES = ("none", "full", "dots")
BOUNDS = {  # ranges of the numbers, by field
    "vocab_size": SIZE,
    "context": SIZE,
    "layers": Bound(1, 10_000, whole=True),
    "heads": SIZE,
    "width": SIZE,
    "kv_heads": SIZE,
    "hidden": SIZE,
    "rope_base": Bound(1, 1e12, above=True),
    "attention_scale": Bound(0, 1e6, above=True),
    "softcap": Bound(0, 1e6, above=True),
    "dropout": Bound(0, 1, below=True),
    "norm_eps": Bound(1e-30, 1.0),
    "loss_chunk": Bound(0, SIZE.high, whole=True),
}
LISTED = 12  # divisors that an error message lists at most
MULTIPLES = {"rope": 2, "half_rope": 4}  # what a head's features must come in, as these turn them in pairs


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and parts of one GPT; the defaults are nanoGPT's for a small machine.

    Args:
        vocab_size: Number of tokens V.
        context: Longest sequence C that the model reads.
        layers: Number of blocks.
        heads: Number of query heads; divides ``width``.
        width: Features D of the residual stream.
        kv_heads: Number of key and value heads; divides ``heads``. None means ``heads`` (plain multi-head attention),
            1 is multi-query attention.
        hidden: Features F inside the MLP. None means four widths, or eight thirds of one for gated rows, which
            then have as many parameters as the others.
        norm: A row of ``NORMS``.
        position: A row of ``POSITIONS``.
        rope_base: The longest wavelength of a rotation is 2 pi times this many tokens, or nearly so.
        mlp: A row of ``MLPS``.
        bias: Whether linear layers carry a bias, and norms too where ``norm_bias`` says so; the head has its own word.
        norm_bias: Whether norms have a bias where linear layers have one.
        head_bias: Whether the logits have a bias.
        tie_head: Whether the head reads logits with the token embedding instead of its own matrix.
        qk_norm: Whether queries and keys are normalised per head before their product.
        qk_norm_scale: Whether that normalisation has a learned scale (and bias), as all others have.
        attention_scale: What the products of queries and keys are multiplied by. None means 1 / sqrt(head size).
        embedding_norm: Whether the residual stream begins normalised.
        softcap: Bounds the logits to (-softcap, softcap). None means no bound.
        softcap_form: A row of ``SOFTCAPS``, if they are bounded.
        dropout: Probability of dropping an embedding, an attention weight or a block's output, in [0, 1).
        norm_eps: Added to the variance in norms.
        init_scheme: A row of ``INITS``, by which parameters are drawn.
        scan_layers: Whether the blocks are one compiled loop (a short compilation, whatever the depth) or written out
            one after the other (a faster step on a small model). Parameters and numbers are the same.
        dtype: What products of matrices and the residual stream are computed in. Softmax, the reductions of norms and
            the loss are float32 in any case, and so are the parameters that `init_params` makes.
        attention: A row of ``ATTENTION``.
        remat: A row of ``REMAT``: what of a block the backward pass computes again.
        end_of_text: The token between documents, if the loss keeps documents apart: then no attention crosses it, and
            positions begin anew. None takes every sequence as one text, as writing does in any case.
        loss_chunk: How many tokens' logits are made at once in the loss. None chooses by size, 0 means all.

    Raises:
        UserError: If a size, a word or a number cannot make a model.
    """

    vocab_size: int
    context: int = 64
    layers: int = 4
    heads: int = 4
    width: int = 128
    kv_heads: int | None = None
    hidden: int | None = None
    norm: str = "layernorm"
    position: str = "learned"
    rope_base: float = 10000.0
    mlp: str = "gelu"
    bias: bool = False
    norm_bias: bool = True
    head_bias: bool = False
    tie_head: bool = True
    qk_norm: bool = False
    qk_norm_scale: bool = True
    attention_scale: float | None = None
    embedding_norm: bool = False
    softcap: float | None = None
    softcap_form: str = "tanh"
    dropout: float = 0.0
    norm_eps: float = 1e-5
    init_scheme: str = "gpt2"
    scan_layers: bool = False
    dtype: str = "float32"
    attention: str = "plain"
    remat: str = "none"
    end_of_text: int | None = None
    loss_chunk: int | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot make a model."""
        for name, bound in BOUNDS.items():
            value = getattr(self, name)
            if value is not None:
                bound.check(name, value)
        _check_word("norm", self.norm, NORM_NAMES)
        _check_word("position", self.position, POSITION_NAMES)
        _check_word("mlp", self.mlp, MLP_NAMES)
        _check_word("softcap_form", self.softcap_form, SOFTCAP_NAMES)
        _check_word("init_scheme", self.init_scheme, INIT_NAMES)
        _check_word("dtype", self.dtype, DTYPE_NAMES)
        _check_word("attention", self.attention, ATTENTION_NAMES)
        _check_word("remat", self.remat, REMAT_NAMES)
        _check_divides("heads", self.heads, "width", self.width)
        _check_divides("kv_heads", self.key_value_heads, "heads", self.heads)
        if self.head_size % MULTIPLES.get(self.position, 1):
            raise UserError(
                f"position={self.position!r} needs a head size that is a multiple of {MULTIPLES[self.position]}, but "
                f"width={self.width} over heads={self.heads} is {self.head_size}; change width or heads"
            )

    @property
    def head_size(self) -> int:
        """Features of one head."""
        return self.width // self.heads

    @property
    def key_value_heads(self) -> int:
        """Number of key and value heads, with the default filled in."""
        return self.heads if self.kv_heads is None else self.kv_heads


def _check_word(name: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise UserError(f"unknown {name} {word!r}{nearest(word, known)}; it is one of: {', '.join(known)}")


def _check_divides(name: str, part: int, whole_name: str, whole: int) -> None:
    if whole % part:
        found = divisors(whole)
        listed = nearest_numbers(part, found, LISTED)
        which = "the divisors are" if len(listed) == len(found) else f"the nearest of its {len(found)} divisors are"
        raise UserError(f"{name}={part} does not divide {whole_name}={whole}; {which}: {', '.join(map(str, listed))}")


def divisors(number: int) -> list[int]:
    """Return all divisors of a number, in order.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def nearest_numbers(wanted: int, numbers: Sequence[int], count: int) -> list[int]:
    """Return the ``count`` numbers nearest to ``wanted``, by ratio, in order.

    >>> nearest_numbers(10, [1, 2, 3, 4, 6, 12], 2)
    [6, 12]
    """
    return sorted(sorted(numbers, key=lambda n: max(n / wanted, wanted / n))[:count])
