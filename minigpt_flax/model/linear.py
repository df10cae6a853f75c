"""Linear layers in the form that XLA compiles to fast code, and matrix products in low precision."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def wide_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Return the dtype for computations that need more digits than bfloat16 has, such as means: at least float32."""
    return jnp.dtype(jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype)


def scaled(x: Float[Array, "*shape"], factor: float) -> Float[Array, "*shape"]:
    """Return ``factor * x``; ``x`` itself for a factor of 1."""
    return x if factor == 1 else x * factor


def linear(x: Float[Array, "*rows D"], w: Float[Array, "D F"]) -> Float[Array, "*rows F"]:
    """Return ``x @ w``, computed as one product of two matrices.

    All leading axes are flattened to rows first. Otherwise the gradient of ``w`` contracts over two axes at once, and
    XLA:CPU first writes a transposed copy of an operand, with the elementwise operations that produced it fused in: 70
    instead of 49 ms for loss and gradient of `ModelConfig`'s defaults on 12 x 64 tokens (two cores of an AMD EPYC, JAX
    0.10.2).
    """
    rows = x.reshape(-1, x.shape[-1])
    product = matmul_transposed_grad if jax.default_backend() == "cpu" else jnp.matmul
    return product(rows, w).reshape(*x.shape[:-1], w.shape[1])


@jax.custom_vjp
def matmul_transposed_grad(x: Float[Array, "R D"], w: Float[Array, "D F"]) -> Float[Array, "R F"]:
    """Return ``x @ w``, where the gradient of ``w`` is a product with a transposed copy of ``x``.

    That gradient sums over the rows of both matrices. XLA:CPU has fast products only for sums over the columns of the
    first matrix, and leaves others to Eigen's (``dot`` instead of ``ynn_fusion`` in the compiled program): 50 instead
    of 80 GFLOP/s for 384 rows of 128 and 512 features, on one core of an AMD EPYC. The copy takes a tenth of the time
    of such a product, and all products with ``x`` share it. JAX's own derivative is the transpose of the reversed
    product, which XLA rewrites on one device but not on several, where the sum over devices comes between the two.

    It has no forward-mode derivative; its gradient has derivatives in both modes.
    """
    return jnp.matmul(x, w)


def _transposed_grad_forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return jnp.matmul(x, w), (x, w)


def _transposed_grad_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, w = saved
    transposed = jax.lax.optimization_barrier(x.T)  # without the barrier, the compiler removes the copy
    return jnp.matmul(cotangent, w.T), jnp.matmul(transposed, cotangent)


matmul_transposed_grad.defvjp(_transposed_grad_forward, _transposed_grad_backward)


def matmul_float32_out(a: Float[Array, "*batch M K"], b: Float[Array, "*batch K N"]) -> Float[Array, "*batch M N"]:
    """Return ``a @ b`` in float32, for scores and logits: bfloat16 has only two to three decimal digits.

    On every device a product of bfloat16 matrices accumulates in float32, and only the result is rounded; this function
    skips that rounding. Its derivatives are again products of bfloat16 matrices: JAX's own derivatives of
    ``preferred_element_type=float32`` multiply float32 with bfloat16, which no device does fast.
    """
    return jnp.matmul(a, b) if a.dtype == jnp.float32 else _float32_out(a, b)


@jax.custom_jvp
def _float32_out(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


@_float32_out.defjvp
def _float32_out_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    return _float32_out(a, b), jnp.matmul(da, b).astype(jnp.float32) + jnp.matmul(a, db).astype(jnp.float32)


class Dense(nn.Module):
    """A kernel of shape (in, out) and an optional bias that is initialized to zero."""

    features: int
    bias: bool
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows F"]:
        """Return ``x @ kernel + bias``, in the dtype of ``x``."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = linear(x, kernel.astype(x.dtype))
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
            y = y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))
        return y
