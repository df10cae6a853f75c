"""The dense layer, in the form that XLA compiles well."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

INIT_STDDEV = 0.02  # GPT-2's, for every matrix that does not write to the residual stream


def linear(x: Float[Array, "*rows D"], w: Float[Array, "D F"]) -> Float[Array, "*rows F"]:
    """Returns ``x @ w``, computed as one product of two matrices.

    All leading axes become rows first. Otherwise the gradient of ``w`` contracts over two axes at once, and XLA:CPU
    first writes a transposed copy of an operand, into which it fuses the elementwise work that made it: 70 instead of
    49 ms for loss and gradient of `ModelConfig`'s defaults on 12 x 64 tokens (two cores of an AMD EPYC, JAX 0.10.2).
    An optimization barrier or a hand-written gradient gain nothing beyond that, so this stays an ordinary function
    with every derivative in every mode.
    """
    rows = x.reshape(-1, x.shape[-1])
    return jnp.matmul(rows, w).reshape(*x.shape[:-1], w.shape[1])


class Dense(nn.Module):
    """A kernel (in, out), normally distributed at first, and a bias if asked for, zero at first."""

    features: int
    bias: bool
    stddev: float

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows F"]:
        """Returns ``x @ kernel + bias``."""
        kernel = self.param("kernel", nn.initializers.normal(self.stddev), (x.shape[-1], self.features))
        y = linear(x, kernel)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))
        return y
