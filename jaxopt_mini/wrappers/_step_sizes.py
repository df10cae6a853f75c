"""How the step of each optimizer grows with the width of the model: what its learning rate must be divided by.

The size of a step is the root mean square of what it adds to the outputs of a parameter whose inputs have a root mean
square of 1, if the step is aligned with its inputs, as the first steps of training are. A layer of any width is trained
equally fast if this size doesn't change (Yang, Simon and Bernstein 2023, arXiv 2310.17813).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

from jaxopt_mini.check import check_name
from jaxopt_mini.transforms.shape import SHAPES, consistent

Felt = Callable[[str, int, int], float]  # (role, fan-in, fan-out) -> size of a step, up to a constant


class NoRule(ValueError):
    """The steps of an optimizer, or of some of its keywords, have no rule for other widths; the message says why."""


class StepSize(NamedTuple):
    """How the steps of an optimizer grow, at a fixed learning rate and for gradients of a fixed size.

    Attributes:
      felt: (role, fan-in, fan-out) -> size of a step, up to a constant factor.
      relative: whether a step is proportional to the norm of the parameter.
      tracks: whether the state depends on earlier parameters, such as their average or their distance from the start.
      adaptive: whether one factor for all parameters is estimated during training, in place of the learning rate.
      blocks: whether this holds for an optimizer of blocks with the shapes of the base, see :func:`in_blocks`. Each
        block is then a problem like that of the base, so that its steps are as large, and their effects add up.
    """

    felt: Felt
    relative: bool = False
    tracks: bool = False
    adaptive: bool = False
    blocks: bool = False


def entrywise(role: str, fan_in: int, fan_out: int) -> float:
    """Every entry moves by about the learning rate, and aligned entries add up over the inputs."""
    del fan_out
    return float(fan_in) if role in ("matrix", "head") else 1.0


def normalized(role: str, fan_in: int, fan_out: int) -> float:
    """Every step has the same Frobenius norm, which is the spectral norm of a step of low rank."""
    return math.sqrt(fan_in / fan_out) if role in ("matrix", "head") else 1 / math.sqrt(fan_out)


def orthogonal(norm: Callable[[int, int], Any]) -> Felt:
    """Steps on matrices have the spectral norm ``norm(fan_in, fan_out)``; others are those of :func:`entrywise`."""

    def felt(role: str, fan_in: int, fan_out: int) -> float:
        if role != "matrix":
            return entrywise(role, fan_in, fan_out)
        return float(norm(fan_in, fan_out)) * math.sqrt(fan_in / fan_out)

    return felt


def operator_norms(role: str, fan_in: int, fan_out: int) -> float:
    """Steps have a fixed size in the norm of each role."""
    del role, fan_in, fan_out
    return 1.0


def of_spectral_norm(norm: Callable[[int, int], float]) -> Felt:
    """Steps on every leaf with two sides have the spectral norm ``norm(fan_in, fan_out)``, as :func:`orthogonal`."""

    def felt(role: str, fan_in: int, fan_out: int) -> float:
        return 1.0 if role == "vector" else norm(fan_in, fan_out) * normalized(role, fan_in, fan_out)

    return felt


def of_gradient(fan_in: int, fan_out: int) -> float:
    """The spectral norm of a gradient of low rank whose entries have a fixed size; also its nuclear norm."""
    return math.sqrt(fan_in * fan_out)


def _shampoo(keywords: Mapping[str, Any]) -> StepSize:
    """Without grafting, blocks have norms of their own, and the step is the gradient's norm to a power."""
    if keywords.get("graft", True) is not False:
        return StepSize(entrywise)
    for name in ("kl", "merge_size"):
        if keywords.get(name):
            raise NoRule(f"steps without grafting and with {name} have no rule for other widths: {UNGRAFTED[name]}")
    block, exponent = keywords.get("block_size"), keywords.get("exponent")
    powers = (0.25, 0.25) if exponent is None else (float(exponent),) * 2 if isinstance(exponent, Real) else exponent

    def norm(fan_in: int, fan_out: int) -> float:
        blocks = 1 if block is None else math.ceil(fan_in / block) * math.ceil(fan_out / block)
        return math.sqrt(blocks) * (of_gradient(fan_in, fan_out) ** 2 / blocks) ** (0.5 - float(sum(powers)))

    def felt(role: str, fan_in: int, fan_out: int) -> float:
        if role == "vector" and keywords.get("precondition_vectors", False):
            return normalized(role, fan_in, fan_out)
        return of_spectral_norm(norm)(role, fan_in, fan_out)

    return StepSize(felt)


UNGRAFTED = {
    "kl": "each factor is fitted to the other, which takes long to forget the size of the first gradient",
    "merge_size": "which matrices are merged depends on the width",
}


def _orthogonal(
    shape: str = "widening", consistent_rms: float | None = None
) -> Callable[[Mapping[str, Any]], StepSize]:
    """The rule of :func:`muon` and its relatives, whose keywords have these defaults."""

    def rule(keywords: Mapping[str, Any]) -> StepSize:
        norm = _norm_by_shape(keywords, shape, consistent_rms)
        if not keywords.get("adaptive", False):
            return StepSize(orthogonal(norm))
        if keywords.get("normalize") is not None:
            raise NoRule(
                "adaptive steps have no rule for other widths where normalize changes the norm of the momentum"
            )
        return StepSize(orthogonal(lambda fan_in, fan_out: norm(fan_in, fan_out) * of_gradient(fan_in, fan_out)))

    return rule


def _norm_by_shape(keywords: Mapping[str, Any], shape: str, consistent_rms: float | None) -> Callable[..., Any]:
    rms, name = keywords.get("consistent_rms", consistent_rms), keywords.get("shape", shape)
    check_name(name, SHAPES, "unknown shape")
    return SHAPES[name] if rms is None else consistent(1.0)


def _adamuon(keywords: Mapping[str, Any]) -> StepSize:
    """Signs have a high rank, and entries divided by their own root mean square a fixed size."""
    rms, before = keywords.get("consistent_rms", 0.2), keywords.get("moment", "after") == "before"
    if not keywords.get("sign", True) and (rms is not None or not before):
        raise NoRule(f"the steps of 'adamuon' without sign have no rule for other widths: {BY_RANK}")
    norm = _norm_by_shape(keywords, "widening", 0.2)
    if before or rms is not None:
        return StepSize(orthogonal(norm))
    return StepSize(orthogonal(lambda fan_in, fan_out: norm(fan_in, fan_out) * consistent(1.0)(fan_in, fan_out)))


def _mars(keywords: Mapping[str, Any]) -> StepSize:
    return StepSize(of_spectral_norm(SHAPES["widening"]) if keywords.get("form") == "shampoo" else entrywise)


def _lars(keywords: Mapping[str, Any]) -> StepSize:
    return StepSize(entrywise, relative=keywords.get("trust_ratio_mask", True) is not False)


def projected(rank: int, side: Callable[[int, int], int]) -> Felt:
    """Steps on matrices are P s, with s of ``rank`` rows and entries of about 1, and P the orthonormal basis of a side.

    The entries of P are about 1 / sqrt(side), so that those of a step are about sqrt(rank / side). The rank must not
    exceed that of the gradients.
    """

    def felt(role: str, fan_in: int, fan_out: int) -> float:
        share = min(rank, fan_in, fan_out) / side(fan_in, fan_out) if role == "matrix" else 1.0
        return entrywise(role, fan_in, fan_out) * math.sqrt(share)

    return felt


def _galore(keywords: Mapping[str, Any]) -> StepSize:
    return StepSize(projected(int(keywords.get("rank", 128)), min if keywords.get("smaller_side", False) else max))


def _apollo(keywords: Mapping[str, Any]) -> StepSize:
    return StepSize(projected(int(keywords.get("rank", 128)), min))


PROJECTED = {"shorter": min, "longer": max, "inputs": lambda fan_in, _: fan_in, "outputs": lambda _, fan_out: fan_out}


def _ldadam(keywords: Mapping[str, Any]) -> StepSize:
    return StepSize(projected(int(keywords.get("rank", 16)), PROJECTED[keywords.get("side", "shorter")]))


def _adafactor(keywords: Mapping[str, Any]) -> StepSize:
    return StepSize(entrywise, relative=keywords.get("multiply_by_parameter_scale", True))


ENTRYWISE = (
    *("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw", "nadamw", "lion", "nadam", "amsgrad", "adamax"),
    *("adamaxw", "adadelta", "radam", "rprop", "sign_sgd", "signum", "adabelief", "yogi", "adan", "sm3"),
    *("adopt", "ademamix", "simplified_ademamix", "sophia", "adam_mini", "laprop", "stable_adamw"),
    *("came", "polargrad"),  # the nuclear norm of a gradient of low rank grows like its entries times the width
)
STEP_SIZES: dict[str, Callable[[Mapping[str, Any]], StepSize]] = {
    **dict.fromkeys(ENTRYWISE, lambda keywords: StepSize(entrywise)),
    "lamb": lambda keywords: StepSize(entrywise, relative=True),
    "lars": _lars,
    "mars": _mars,
    **dict.fromkeys(
        ("asgd", "schedule_free_sgd", "schedule_free_adamw", "schedule_free_radam", "gpa_adamw"),
        lambda keywords: StepSize(entrywise, tracks=True),
    ),
    **dict.fromkeys(
        ("dog", "dowg", "prodigy", "dadapt_adamw"), lambda keywords: StepSize(entrywise, tracks=True, adaptive=True)
    ),
    "polyak_sgd": lambda keywords: StepSize(entrywise, adaptive=True),
    "adafactor": _adafactor,
    "shampoo": _shampoo,
    "galore": _galore,
    "apollo": _apollo,
    "ldadam": _ldadam,
    "novograd": lambda keywords: StepSize(normalized),
    "muon": _orthogonal(),
    "adamuon": _adamuon,
    "amuse": lambda keywords: StepSize(orthogonal(consistent(1.0)), tracks=True),
    "aurora": _orthogonal(),
    "dion2": _orthogonal("spectral"),
    "normuon": _orthogonal(),
    "dion": _orthogonal("spectral"),
    "scion": lambda keywords: StepSize(operator_norms),
    **dict.fromkeys(("soap", "kl_soap", "splus", "kron", "psgd"), lambda keywords: StepSize(entrywise, blocks=True)),
    **dict.fromkeys(("soap_muon", "muown"), lambda keywords: StepSize(entrywise, relative=True, blocks=True)),
}
"""Optimizer -> function of its keywords that returns its :class:`StepSize`."""


BY_RANK = "they grow with a power of the width from 0 to 1/2, by the rank of the gradients"
BY_WEIGHTS = "they are at least as long as a share of the weights"

REFUSED = {"schedule_free_plus": "it estimates them from the gradients, differently in each role"}
"""Optimizer -> why it has no :class:`StepSize`."""


REFUSED_KEYWORDS = {
    "normalize_after": BY_RANK,
    "min_ratio": BY_WEIGHTS,
    "max_norm": "it bounds the norm of the weights, which grows with the width",
    "per_tensor": "it estimates a factor for each tensor, which depends on its width",
}
REFUSED_INNER = {
    "base_optimizer": "they are those of the base optimizer",
    "rest": "those on other parameters are another optimizer's",
}
"""Keyword, in any optimizer -> why there is no :class:`StepSize` if it is neither None nor False; in blocks, which have
the sizes of the base, only the inner optimizers count."""


def step_size(name: str, **keywords: Any) -> StepSize:
    """The :class:`StepSize` of an optimizer of the table with these keywords.

    Raises:
      NoRule: there is none for this optimizer or for one of the keywords.
      ValueError: the optimizer is not in the table.

    >>> step_size("muon").felt("matrix", 64, 64), step_size("adam").felt("matrix", 64, 64)
    (1.0, 64.0)
    """
    if name not in STEP_SIZES and name not in REFUSED:
        raise ValueError(
            f"it is not known how the steps of {name!r} grow with the width: choose from {', '.join(STEP_SIZES)}"
        )
    if name in REFUSED:
        raise NoRule(f"the steps of {name!r} have no rule for other widths: {REFUSED[name]}")
    found = STEP_SIZES[name](keywords)
    refused = REFUSED_INNER if found.blocks else REFUSED_KEYWORDS | REFUSED_INNER
    for key in refused.keys() & {key for key, value in keywords.items() if value not in (None, False)}:
        raise NoRule(f"the steps of {name!r} with {key} have no rule for other widths: {refused[key]}")
    return found
