"""Configuration of a GPT: the architecture options that a user sets, and the fields that a run derives.

Imports no JAX, so that a command line can parse, check and print a configuration at once. The names of components are
those of the tables ``NORMS``, ``POSITIONS``, ``MLPS``, ``SOFTCAPS``, ``INITS``, ``ATTENTION`` and ``REMAT``; a test
compares the two.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

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
FACTOR = Bound(0, 1e6, above=True)
LISTED = 12  # divisors that an error message lists at most
MULTIPLES = {"rope": 2, "half_rope": 4}  # the head size must be a multiple of this: features are rotated in pairs


def option(
    default: Any,
    metavar: str,
    help: str,
    bound: Bound | None = None,
    *,
    names: tuple[str, ...] = (),
    group: str = "model",
) -> Any:
    """Declare one option of :class:`Architecture`; the command line makes a flag of it.

    Args:
      default: default value.
      metavar: placeholder of the value in ``--help``; empty for a switch.
      help: one line of ``--help``; brackets at its end describe the default.
      bound: range of a number.
      names: possible values of a name; they are appended to the help text.
      group: heading in ``--help``: ``model`` or ``computing``.
    """
    text = f"{help}: {', '.join(names[:-1])} or {names[-1]}" if names else help
    metadata = {"metavar": metavar, "help": text, "bound": bound, "names": names, "group": group}
    metadata["fixed"] = group != "computing"  # remat and loops change the memory, not the numbers
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """The model options that a user sets; the defaults are nanoGPT's for a small machine.

    A new option is one field here, plus the code of the model that reads it: its flag, help text, range and place in
    ``config.json`` follow. :class:`ModelConfig` checks the values.
    """

    layers: int = option(4, "N", "number of transformer blocks", Bound(1, 10_000, whole=True))
    heads: int = option(4, "N", "attention heads; must divide the width", SIZE)
    kv_heads: int | None = option(  # 1 is multi-query attention
        None, "N", "key and value heads (grouped-query attention); must divide the heads [same]", SIZE
    )
    width: int = option(128, "N", "width of the residual stream", SIZE)
    # With 8/3 widths, a gated MLP has as many parameters as the others with 4.
    hidden: int | None = option(None, "N", "hidden width of the MLP [4 widths; 8/3 if gated]", SIZE)
    context: int = option(64, "N", "context length in tokens", SIZE)
    norm: str = option("layernorm", "NAME", "normalization", names=NORM_NAMES)
    position: str = option("learned", "NAME", "position encoding", names=POSITION_NAMES)
    rope_base: float = option(  # the longest wavelength is about 2 pi times this, in tokens
        10000.0, "NUMBER", "base of the frequencies of rotary embeddings", Bound(1, 1e12, above=True)
    )
    norm_eps: float = option(1e-5, "NUMBER", "added to the variance in norms", Bound(1e-30, 1.0))
    mlp: str = option("gelu", "NAME", "MLP", names=MLP_NAMES)
    bias: bool = option(False, "", "biases in linear layers, and in norms unless --no-norm-bias")
    norm_bias: bool = option(True, "", "biases in norms, if linear layers have them")
    head_bias: bool = option(False, "", "bias of the logits")
    tie_head: bool = option(True, "", "share the token embedding with the head")
    embedding_norm: bool = option(False, "", "normalize the embedding")
    qk_norm: bool = option(False, "", "normalize queries and keys per head")
    qk_norm_scale: bool = option(True, "", "learned scale (and bias) in that normalization")
    attention_scale: float | None = option(
        None, "NUMBER", "scale of the attention scores [1 / sqrt(head size)]", FACTOR
    )
    softcap: float | None = option(
        None, "NUMBER", "soft cap C: logits stay in (-C, C) [none]", Bound(0, 1e6, above=True)
    )
    softcap_form: str = option(
        "tanh", "NAME", "form of the soft cap, C tanh(x / C) or C x / sqrt(x^2 + C^2)", names=SOFTCAP_NAMES
    )
    init_scheme: str = option("gpt2", "NAME", "weight initialization", names=INIT_NAMES)
    dropout: float = option(  # of embeddings, attention weights and the outputs of a block
        0.0,
        "NUMBER",
        "dropout probability, rounded to 1/256 where that changes it by at most 2 %",
        Bound(0, 1, below=True),
    )
    remat: str = option("none", "NAME", "activation checkpointing", names=REMAT_NAMES, group="computing")
    # Parameters and results are the same either way; an unrolled step is faster on a small model.
    scan_layers: bool = option(
        False, "", "compile the blocks as one loop: faster compilation of deep models", group="computing"
    )
    loss_chunk: int | None = option(
        None,
        "N",
        "tokens per chunk of the logits in the loss; 0: all at once [by size]",
        Bound(0, SIZE.high, whole=True),
        group="computing",
    )


def architecture_of(config: Architecture) -> dict[str, Any]:
    """The fields of :class:`Architecture` by name, without those that a subclass adds."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(Architecture)}


@dataclasses.dataclass(frozen=True)
class ModelConfig(Architecture):
    """Everything that determines a model's parameters and computation: the options, and values that a run derives.

    Attributes:
      vocab_size: rows V of the token embedding and number of logits; at least the tokenizer's vocabulary size.
      dtype: dtype of matrix products and the residual stream. Softmax, the reductions of norms and the loss are float32
        in any case, and so are the parameters that `init_params` returns.
      attention: row of ``ATTENTION``, the kernel that computes attention.
      end_of_text: token between documents, if no attention crosses it; positions then restart after it. None treats
        every sequence as one document.
      embedding_scale: factor of the embedding, the start of the residual stream.
      residual_scale: factor of the output of every branch, attention or MLP, that is added to the stream.
      logit_scale: factor of the logits, before a bias or a soft cap.
      init_width: width whose standard deviation the hidden matrices are initialized with; at another width it is
        multiplied by ``sqrt(init_width / width)``. None keeps that of the initialization scheme.
      init_layers: number of layers that the initialization scheme scales the outputs of branches for; None is
        ``layers``.
      batch_axis: name of the device axis under ``pmap`` that divides the batch; dropout masks are those of the whole
        batch. None elsewhere.

    Raises:
      UserError: an unknown name, a number out of range, or sizes that do not fit together.
    """

    vocab_size: int = dataclasses.field(metadata={"bound": SIZE})
    dtype: str = dataclasses.field(default="float32", metadata={"names": DTYPE_NAMES})
    attention: str = dataclasses.field(default="plain", metadata={"names": ATTENTION_NAMES})
    end_of_text: int | None = None
    embedding_scale: float = dataclasses.field(default=1.0, metadata={"bound": FACTOR})
    residual_scale: float = dataclasses.field(default=1.0, metadata={"bound": FACTOR})
    logit_scale: float = dataclasses.field(default=1.0, metadata={"bound": FACTOR})
    init_width: int | None = dataclasses.field(default=None, metadata={"bound": SIZE})
    init_layers: int | None = dataclasses.field(default=None, metadata={"bound": SIZE})
    batch_axis: str | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        for name, bound in BOUNDS.items():
            value = getattr(self, name)
            if value is not None:
                bound.check(name, value)
        for name, names in NAMES.items():
            _check_name(name, getattr(self, name), names)
        _check_divides("heads", self.heads, "width", self.width)
        _check_divides("kv_heads", self.key_value_heads, "heads", self.heads)
        if self.head_size % MULTIPLES.get(self.position, 1):
            raise UserError(
                f"position={self.position!r} needs a head size that is a multiple of {MULTIPLES[self.position]}, but "
                f"width={self.width} over heads={self.heads} is {self.head_size}; change width or heads"
            )

    @property
    def head_size(self) -> int:
        """Features per head."""
        return self.width // self.heads

    @property
    def key_value_heads(self) -> int:
        """Number of key and value heads, with the default filled in."""
        return self.heads if self.kv_heads is None else self.kv_heads


def _metadata(key: str) -> dict[str, Any]:
    """One kind of metadata of the fields that have it, by field."""
    return {f.name: f.metadata[key] for f in dataclasses.fields(ModelConfig) if f.metadata.get(key)}


BOUNDS: dict[str, Bound] = _metadata("bound")  # range of each number
NAMES: dict[str, tuple[str, ...]] = _metadata("names")  # possible values of each name


def _check_name(field: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UserError(f"unknown {field} {name!r}{nearest(name, known)}; it is one of: {', '.join(known)}")


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
