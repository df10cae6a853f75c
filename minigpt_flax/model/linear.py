"""The dense layer, in the form that XLA compiles well, and what products of matrices do in low precision."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def wide_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The type for what bfloat16 has too few digits for, such as means over features: at least float32."""
    return jnp.dtype(jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype)


def linear(x: Float[Array, "*rows D"], w: Float[Array, "D F"]) -> Float[Array, "*rows F"]:
    """Returns ``x @ w``, computed as one product of two matrices.

    All leading axes become rows first. Otherwise the gradient of ``w`` contracts over two axes at once, and XLA:CPU
    first writes a transposed copy of an operand, into which it fuses the elementwise work that made it: 70 instead of
    49 ms for loss and gradient of `ModelConfig`'s defaults on 12 x 64 tokens (two cores of an AMD EPYC, JAX 0.10.2).
    """
    rows = x.reshape(-1, x.shape[-1])
    product = turned_product if jax.default_backend() == "cpu" else jnp.matmul
    return product(rows, w).reshape(*x.shape[:-1], w.shape[1])


@jax.custom_vjp
def turned_product(x: Float[Array, "R D"], w: Float[Array, "D F"]) -> Float[Array, "R F"]:
    """``x @ w``, where the gradient of ``w`` is a product with a transposed copy of ``x``.

    That gradient sums over the rows of both matrices. XLA:CPU has its fast products for sums over the columns of the
    first, and leaves others to Eigen's (``dot`` instead of ``ynn_fusion`` in its program): 50 instead of 80 GFLOP/s for
    384 rows of 128 and 512, on a core of an AMD EPYC. The copy takes a tenth of such a product, and is shared by all
    that ``x`` is multiplied with. A derivative by JAX's rules would be the transpose of a product the other way round,
    which XLA mends on one device but not on several, where the sum over them comes between the two.

    Forwards it can't be differentiated; its gradient can, in both modes.
    """
    return jnp.matmul(x, w)


def _turned_product_forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return jnp.matmul(x, w), (x, w)


def _turned_product_backward(kept: tuple[Array, Array], along: Array) -> tuple[Array, Array]:
    x, w = kept
    turned = jax.lax.optimization_barrier(x.T)  # else the compiler takes the product without a copy for the same
    return jnp.matmul(along, w.T), jnp.matmul(turned, along)


turned_product.defvjp(_turned_product_forward, _turned_product_backward)


def wide_product(a: Float[Array, "*batch M K"], b: Float[Array, "*batch K N"]) -> Float[Array, "*batch M N"]:
    """``a @ b`` with every digit of the float32 sums, for scores and logits: bfloat16 would leave them two and a half.

    Sums are float32 inside a product of bfloat16 matrices on every device; only the result is rounded, which this
    function avoids. Its derivatives are products of bfloat16 matrices again: those that JAX would make of
    ``preferred_element_type=float32`` multiply float32 with bfloat16, for which there is no fast unit.
    """
    return jnp.matmul(a, b) if a.dtype == jnp.float32 else _wide_product(a, b)


@jax.custom_jvp
def _wide_product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


@_wide_product.defjvp
def _wide_product_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    return _wide_product(a, b), jnp.matmul(da, b).astype(jnp.float32) + jnp.matmul(a, db).astype(jnp.float32)


class Dense(nn.Module):
    """A kernel (in, out) and, if asked for, a bias that is zero at first."""

    features: int
    bias: bool
    draw: Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows F"]:
        """Returns ``x @ kernel + bias``, in the type of ``x``."""
        kernel = self.param("kernel", self.draw, (x.shape[-1], self.features))
        y = linear(x, kernel.astype(x.dtype))
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
            y = y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))
        return y
