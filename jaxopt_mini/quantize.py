"""Quantization: block-wise 8-bit codes, and stochastic rounding to a narrower float."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

BLOCK = 256
DECADES = range(7)


class Blocks(NamedTuple):
    """An array quantized to 8 bits per number, with one scale per block along its last axis."""

    codes: jax.Array  # uint8, in the shape of the array, so it can be sharded like it
    scales: jax.Array  # float32[..., blocks]: largest absolute value; negative if the block has signs


def _cut(array: jax.Array) -> jax.Array:
    """Splits the last axis into blocks and pads the last block with zeros."""
    length = array.shape[-1]
    width = max(1, min(BLOCK, length))
    count = -(-length // width)
    padded = jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, count * width - length)])
    return padded.reshape(*array.shape[:-1], count, width)


def _join(blocks: jax.Array, length: int) -> jax.Array:
    return blocks.reshape(*blocks.shape[:-2], -1)[..., :length]


def _place(size: jax.Array, least: jax.Array) -> jax.Array:
    """Index of the nearest code value: 0, the interval midpoints, 1; ``least``: intervals in the lowest decade."""
    place = jnp.zeros_like(size)
    for decade in DECADES:
        parts = least * 2.0**decade
        part = jnp.clip(jnp.floor((size * 10.0 ** (6 - decade) - 0.1) / 0.9 * parts), 0, parts - 1)
        # Half-way to the last midpoint of the decade below; in the lowest decade, half-way to zero.
        border = 10.0 ** (decade - 7) * (1 + 1.8 / parts) if decade else 1e-7 * (0.5 + 2.25 / parts)
        place = jnp.where(size > border, parts - least + 1 + part, place)
    finest = least * 2.0 ** DECADES[-1]
    return jnp.where(size > 1 - 0.225 / finest, 2 * finest - least + 1, place)


def _size(place: jax.Array, least: jax.Array) -> jax.Array:
    """The value at an index: the inverse of :func:`_place`."""
    size = jnp.zeros_like(place)
    for decade in DECADES:
        parts = least * 2.0**decade
        part = place - 1 - (parts - least)
        size = jnp.where(part >= 0, 10.0 ** (decade - 6) * (0.1 + 0.9 * (part + 0.5) / parts), size)
    finest = least * 2.0 ** DECADES[-1]
    return jnp.where(place > 2 * finest - least, 1.0, size)


def quantize(array: jax.Array) -> Blocks:
    """Block-wise dynamic 8-bit quantization: rounds every number to the nearest of 256 values times its block's scale.

    Dettmers, Lewis, Shleifer, Zettlemoyer, "8-bit Optimizers via Block-wise Quantization" (2022, arXiv 2110.02861). A
    block is divided by its largest absolute value. The range from 1e-7 to 1 has seven decades, each divided into twice
    as many equal intervals as the decade below, from 1 to 64; the code values are the midpoints, 0 and 1. A block
    without negative numbers, such as a second moment, needs no sign bit and has intervals half as wide. The error of
    numbers above a tenth of the largest is at most 0.7 % of it (0.35 % without signs). Without signs, a positive number
    below the smallest code value is rounded up to it, as Adam divides by the root of the second moment.

    The values are computed, which on a CPU is twenty times faster than searching a table.

    Args:
      array: real numbers, at least one axis.

    Returns:
      1 byte per number and 4 per block of up to 256 along the last axis.

    >>> blocks = quantize(jnp.array([1.0, -0.5, 1e-3]))
    >>> print(blocks.codes, blocks.scales, [round(x, 4) for x in dequantize(blocks).tolist()])
    [255  35 142] [-1.] [1.0, -0.5008, 0.0009]
    """
    blocks = _cut(array.astype(jnp.float32))
    largest = jnp.max(jnp.abs(blocks), axis=-1, keepdims=True)
    signed = jnp.any(blocks < 0, axis=-1, keepdims=True)
    share = blocks / jnp.where(largest > 0, largest, 1)
    place = _place(jnp.abs(share), jnp.where(signed, 1.0, 2.0))
    # With signs, code 127 is zero and -1 has no code.
    # Without signs, nothing positive becomes zero: Adam would divide by the root of a zero second moment.
    code = jnp.where(
        signed, jnp.maximum(127 + jnp.sign(share) * place, 0), jnp.where(blocks > 0, jnp.maximum(place, 1), place)
    )
    scales = jnp.where(signed, -largest, largest)
    return Blocks(_join(code, array.shape[-1]).astype(jnp.uint8), scales[..., 0])


def dequantize(blocks: Blocks) -> jax.Array:
    """Converts the codes back to float32."""
    scales = blocks.scales[..., None]
    code = _cut(blocks.codes.astype(jnp.float32))
    place = jnp.where(scales < 0, code - 127, code)
    size = _size(jnp.abs(place), jnp.where(scales < 0, 1.0, 2.0))
    return _join(jnp.sign(place) * size * jnp.abs(scales), blocks.codes.shape[-1])


def stochastic_round(array: jax.Array, dtype: DTypeLike, key: jax.Array) -> jax.Array:
    """Stochastic rounding to one of the two neighbors in ``dtype``, unbiased: the expected result is the number itself.

    Rounding to nearest loses every change below half a step, which for bfloat16 is 1/512 of the number. The derivative
    is that of the cast, as if nothing were rounded.

    Args:
      array: real numbers, at least as wide as ``dtype``.
      dtype: the dtype to round to.
      key: a JAX key.

    >>> key = jax.random.key(0)
    >>> many = stochastic_round(jnp.full(10000, 1.001), jnp.bfloat16, key)
    >>> sorted(set(many.tolist())), round(many.astype(jnp.float32).mean().item(), 4)
    ([1.0, 1.0078125], 1.001)
    """
    return array if array.dtype == dtype else _stochastic_round(array, jnp.dtype(dtype), key)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _stochastic_round(array, dtype, key):
    nearest = array.astype(dtype)
    back = nearest.astype(array.dtype)
    beyond = jnp.where(back < array, jnp.inf, -jnp.inf).astype(dtype)
    other = jnp.nextafter(nearest, beyond)
    step = jnp.abs(other.astype(array.dtype) - back)
    # 16 random bits are enough: there are 2^16 float32 numbers between two neighbors in bfloat16.
    uniform = jax.random.bits(key, array.shape, jnp.uint16).astype(array.dtype) / 2**16
    away = uniform * step < jnp.abs(array - back)
    return jnp.where(away, other, nearest)


@_stochastic_round.defjvp
def _(dtype, primals, tangents):
    return _stochastic_round(primals[0], dtype, primals[1]), tangents[0].astype(dtype)
