"""``--dtype``: the dtypes of the computation and of the parameters."""

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
    """Dtypes of a run.

    Attributes:
      compute: of matrix products and of the residual stream.
      params: of the parameters that a step reads and writes.
      rounding: of updates of low-precision parameters, see ``low_precision``; None with float32 parameters.
    """

    compute: str
    params: str = "float32"
    rounding: str | None = None

    def store(self, params: Any) -> Any:
        """Casts the parameters to ``params``."""
        return jax.tree.map(lambda leaf: leaf.astype(self.params), params)

    def around(self, tx: GradientTransformationExtraArgs, layout: Any) -> GradientTransformationExtraArgs:
        """Wraps the whole optimizer so that it computes in float32, whatever the dtype of the parameters."""
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
    """Computes in bfloat16: half the memory of activations, and the fast matrix units of GPUs and TPUs.

    Accumulation in matrix products, softmax, reductions in norms, the loss and the optimizer stay float32.

    Args:
      params: "float32"; or "master", bfloat16 parameters with a float32 copy that only the optimizer reads; or
        "stochastic", bfloat16 parameters without a copy, updated with stochastic rounding.

    Raises:
      ValueError: ``params`` is none of these.
    """
    if params not in PARAMS:
        raise ValueError(f"params={params!r} is unknown: give one of {', '.join(PARAMS)}")
    return PARAMS[params]


DTYPES: dict[str, Callable[..., Precision]] = {f.__name__: f for f in (float32, bfloat16)}


@functools.cache
def require(dtype: str) -> None:
    """Checks that the device supports matrix products in this dtype, by compiling one.

    Raises:
      UserError: it doesn't.
    """
    ones = jax.ShapeDtypeStruct((8, 8), dtype)
    try:
        jax.jit(jnp.matmul).lower(ones, ones).compile()
    except Exception as error:  # each compiler has its own error
        kind = jax.devices()[0].device_kind
        raise UserError(
            f"--dtype {dtype}: {kind} does not support matrix products in {dtype}; use --dtype float32"
        ) from error
