"""How the step of each optimizer grows with the width of the model: what its learning rate must be divided by.

The size of a step is the root mean square of what it adds to the outputs of a parameter whose inputs have a root mean
square of 1, if the step is aligned with its inputs, as the first steps of training are. A layer of any width is trained
equally fast if this size doesn't change (Yang, Simon and Bernstein 2023, arXiv 2310.17813).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxopt_mini.check import check_name
from jaxopt_mini.transforms.shape import SHAPES, consistent

Felt = Callable[[str, int, int], float]  # (role, fan-in, fan-out) -> size of a step, up to a constant


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


def whitened(role: str, fan_in: int, fan_out: int) -> float:
    """Steps of every leaf with two sides have the spectral norm 1; those of vectors are those of :func:`entrywise`."""
    return 1.0 if role == "vector" else normalized(role, fan_in, fan_out)


def _shampoo(keywords: Mapping[str, Any]) -> StepSize:
    return StepSize(whitened if keywords.get("graft", True) is False else entrywise)


def _orthogonal(
    shape: str = "widening", consistent_rms: float | None = None
) -> Callable[[Mapping[str, Any]], StepSize]:
    """The rule of :func:`muon` and its relatives, whose keywords have these defaults."""

    def rule(keywords: Mapping[str, Any]) -> StepSize:
        rms, name = keywords.get("consistent_rms", consistent_rms), keywords.get("shape", shape)
        check_name(name, SHAPES, "unknown shape")
        return StepSize(orthogonal(SHAPES[name] if rms is None else consistent(1.0)))

    return rule


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
    *("mars", "adopt", "ademamix", "simplified_ademamix", "sophia", "adam_mini", "laprop", "stable_adamw"),
    *("came", "polargrad"),  # the nuclear norm of a gradient of low rank grows like its entries times the width
)
STEP_SIZES: dict[str, Callable[[Mapping[str, Any]], StepSize]] = {
    **dict.fromkeys(ENTRYWISE, lambda keywords: StepSize(entrywise)),
    **dict.fromkeys(("lamb", "lars"), lambda keywords: StepSize(entrywise, relative=True)),
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
    "adamuon": _orthogonal(consistent_rms=0.2),
    "amuse": lambda keywords: StepSize(orthogonal(consistent(1.0)), tracks=True),
    "aurora": _orthogonal(),
    "dion2": _orthogonal("spectral"),
    "normuon": _orthogonal(),
    "dion": _orthogonal("spectral"),
    "scion": lambda keywords: StepSize(operator_norms),
    **dict.fromkeys(
        ("soap", "kl_soap", "soap_muon", "splus", "kron", "psgd", "muown"),
        lambda keywords: StepSize(entrywise, blocks=True),
    ),
}
"""Optimizer -> function of its keywords that returns its :class:`StepSize`."""


REFUSED = {"schedule_free_plus": "it estimates them from the gradients, differently in each role"}
"""Optimizer -> why it has no :class:`StepSize`."""


def step_size(name: str, **keywords: Any) -> StepSize:
    """The :class:`StepSize` of an optimizer of the table with these keywords.

    Raises:
      ValueError: none is known.

    >>> step_size("muon").felt("matrix", 64, 64), step_size("adam").felt("matrix", 64, 64)
    (1.0, 64.0)
    """
    if name in REFUSED:
        raise ValueError(f"the steps of {name!r} have no rule for other widths: {REFUSED[name]}")
    if name not in STEP_SIZES:
        raise ValueError(
            f"it is not known how the steps of {name!r} grow with the width: choose from {', '.join(STEP_SIZES)}"
        )
    return STEP_SIZES[name](keywords)
