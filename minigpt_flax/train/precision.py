"""``--dtype``: what a run computes in, and what its parameters are kept in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini import GradientTransformationExtraArgs, low_precision
from minigpt_flax.errors import UserError


@dataclass(frozen=True)
class Precision:
    """Types of numbers.

    Attributes:
      compute: dtype of products of matrices and of the residual stream.
      params: dtype of the parameters that a step reads and writes.
      rounding: of steps to narrow parameters, a word of ``low_precision``; None where they need none.
    """

    compute: str
    params: str = "float32"
    rounding: str | None = None

    def store(self, params: Any) -> Any:
        """Parameters as they are kept."""
        return jax.tree.map(lambda leaf: leaf.astype(self.params), params)

    def around(self, tx: GradientTransformationExtraArgs, layout: Any) -> GradientTransformationExtraArgs:
        """The whole optimizer, working in float32 whatever the parameters are kept in."""
        if self.rounding is None:
            return tx
        return low_precision(tx, moments="float32", rounding=self.rounding, layout=layout)


def float32() -> Precision:
    """Computes in float32, with float32 parameters."""
    return Precision("float32")


PARAMS = {
    "float32": Precision("bfloat16"),
    "master": Precision("bfloat16", "bfloat16", "master"),
    "stochastic": Precision("bfloat16", "bfloat16", "stochastic"),
}


def bfloat16(*, params: str = "float32") -> Precision:
    """Computes in bfloat16: half the memory of activations, and a GPU's or TPU's fast units.

    Sums inside products, softmax, the reductions of norms, the loss and the optimizer stay float32.

    Args:
      params: "float32"; or "master", bfloat16 parameters with a float32 copy that only the optimizer reads; or
        "stochastic", bfloat16 parameters without one, whose steps are rounded up or down by chance.

    Raises:
      ValueError: ``params`` is none of these.
    """
    if params not in PARAMS:
        raise ValueError(f"params={params!r} is unknown: give one of {', '.join(PARAMS)}")
    return PARAMS[params]


DTYPES: dict[str, Callable[..., Precision]] = {f.__name__: f for f in (float32, bfloat16)}


@functools.cache
def require(dtype: str) -> None:
    """Tries whether the device multiplies matrices of this type.

    Raises:
      UserError: it doesn't.
    """
    ones = jax.ShapeDtypeStruct((8, 8), dtype)
    try:
        jax.jit(jnp.matmul).lower(ones, ones).compile()
    except Exception as error:  # a compiler says it in a way of its own
        kind = jax.devices()[0].device_kind
        raise UserError(f"--dtype {dtype}: {kind} does not multiply in {dtype}; use --dtype float32") from error
