"""Eight bits: the code, the error of a round trip; stochastic rounding: unbiased, to a neighbor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini.quantize import BLOCK, Blocks, dequantize, quantize, stochastic_round
from tests.known_8_bit import dynamic_code


@pytest.mark.parametrize("signed", [True, False])
def test_the_values_are_those_of_the_known_8_bit_optimizers(signed):
    """All 256, and sums over the map that bitsandbytes builds."""
    codes = jnp.arange(256, dtype=jnp.uint8)[None]
    values = dequantize(Blocks(codes, jnp.array([[-1.0 if signed else 1.0]])))[0]
    np.testing.assert_allclose(values, dynamic_code(signed), rtol=1e-6)
    expected = [1.0, 48.5958375] if signed else [75.1052631, 48.5974518]
    np.testing.assert_allclose([values.sum(), jnp.square(values).sum()], expected, rtol=1e-5)


@pytest.mark.parametrize("signed", [True, False])
def test_every_number_gets_the_nearest_value(signed):
    """Against a search in the table, over eight decades and at the table's own values and borders.

    Without signs, zero isn't a candidate: no positive number is rounded to it.
    """
    code = dynamic_code(True) if signed else dynamic_code(False)[1:]
    generator = np.random.default_rng(0)
    spread = 10 ** generator.uniform(-8, 0, 4000) * (generator.choice([-1, 1], 4000) if signed else 1)
    borders = (code[1:] + code[:-1]) / 2
    share = np.float32(np.concatenate([spread, code, borders * (1 + 1e-5), borders * (1 - 1e-5)]))
    array = jnp.stack([jnp.asarray(share), jnp.ones(len(share)), jnp.full(len(share), -0.5 if signed else 0.5)], -1)
    back = np.float64(dequantize(quantize(array))[:, 0])
    nearest = np.abs(share[:, None] - code).min(1)
    assert np.all(np.abs(back - share) <= nearest + 1e-6 * np.abs(share))


@pytest.mark.parametrize("shape", [(7,), (3, 300), (2, 5, BLOCK), (2, 1)])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_round_trip_is_close(shape, absolute):
    """Half a step of the code, which is relative to the largest number of the block; zeros stay zero."""
    generator = np.random.default_rng(0)
    array = generator.standard_normal(shape) * 10 ** generator.uniform(-3, 0, shape)
    array = jnp.asarray(np.abs(array) if absolute else array, jnp.float32).at[..., 0].set(0)
    blocks = quantize(array)
    back = dequantize(blocks)
    assert blocks.codes.shape == shape and blocks.codes.dtype == jnp.uint8
    assert blocks.scales.shape == (*shape[:-1], -(-shape[-1] // BLOCK))
    largest = jnp.repeat(jnp.maximum(jnp.abs(blocks.scales), 1e-9), BLOCK, axis=-1)[..., : shape[-1]]
    off, half = jnp.abs(back - array) / largest, 0.501 * 0.9 / (128 if absolute else 64)
    assert jnp.all(off <= half)
    assert jnp.all(jnp.where(jnp.abs(array) < 0.09 * largest, off, 0) <= half / 5)  # a tenth, in half the parts
    np.testing.assert_array_equal(back[..., 0], 0.0)


def test_a_second_moment_uses_all_codes_for_one_sign():
    """Half the error of the signed code, in the mean."""
    array = jnp.asarray(np.random.default_rng(0).uniform(0.1, 1, (64, BLOCK)), jnp.float32)
    error = {}
    for name, block in (("unsigned", array), ("signed", array.at[:, 0].set(-1e-3))):
        error[name] = float(jnp.mean(jnp.abs(dequantize(quantize(block)) - block)))
    assert error["unsigned"] < 0.6 * error["signed"]


def test_blocks_are_independent_of_each_other():
    array = jnp.ones((1, 2 * BLOCK)).at[0, :BLOCK].mul(1e-6)
    np.testing.assert_allclose(dequantize(quantize(array)), array, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_stochastic_rounding_is_unbiased_and_to_a_neighbor(dtype):
    values = jnp.asarray(np.random.default_rng(0).standard_normal(200), jnp.float32)
    many = jnp.broadcast_to(values, (4000, 200))
    rounded = jax.jit(stochastic_round, static_argnums=1)(many, dtype, jax.random.key(0)).astype(jnp.float32)
    spacing = jnp.abs(values) * 2.0 ** (-7 if dtype == jnp.bfloat16 else -10)
    assert jnp.all(jnp.abs(rounded - many).max(0) <= spacing)
    # four deviations of a mean of 4000 choices between two neighbors
    assert jnp.all(jnp.abs(rounded.mean(0) - values) <= 4 * spacing / 2 / np.sqrt(4000))


def test_what_is_exact_or_not_finite_stays():
    values = jnp.array([0.0, -0.0, 1.5, -2.0, jnp.inf, -jnp.inf, jnp.nan])
    rounded = stochastic_round(values, jnp.bfloat16, jax.random.key(1))
    np.testing.assert_array_equal(rounded.astype(jnp.float32), values)
    assert stochastic_round(values, jnp.float32, jax.random.key(1)) is values


def test_nothing_positive_becomes_zero_without_signs():
    array = jnp.asarray(10.0 ** np.arange(0.0, -30.0, -1.0), jnp.float32).at[-1].set(0.0)
    back = dequantize(quantize(array))
    assert jnp.all(back[:-1] > 0) and back[-1] == 0
