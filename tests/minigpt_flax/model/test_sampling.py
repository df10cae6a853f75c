"""Tests for `minigpt_flax.model.sampling`: frequencies against the exact distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.model.sampling import _cumulative_sum as cumulative_sum, penalize_repetition, sample_logits

KEY = jax.random.key(0)
PROBABILITIES = np.array([0.15, 0.5, 0.05, 0.3])


@jax.jit
def draw_many(logits, **options):
    return jax.vmap(lambda key: sample_logits(logits, key, **options))(jax.random.split(KEY, 4000))


def frequencies(**options):
    """How often each of the four tokens is drawn."""
    tokens = draw_many(jnp.log(jnp.asarray(PROBABILITIES, jnp.float32)), **options)
    return np.bincount(tokens, minlength=4) / 4000


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [0.15, 0.5, 0.05, 0.3]),
        ({"temperature": 0.5}, [0.15**2, 0.5**2, 0.05**2, 0.3**2]),
        ({"temperature": 0.0}, [0, 1, 0, 0]),
        ({"temperature": 0.0, "top_k": 3, "top_p": 0.9}, [0, 1, 0, 0]),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 0.5, 0, 0.3]),
        ({"top_k": 9}, [0.15, 0.5, 0.05, 0.3]),
        ({"top_p": 1e-6}, [0, 1, 0, 0]),
        ({"top_p": 0.49}, [0, 1, 0, 0]),
        ({"top_p": 0.51}, [0, 0.5, 0, 0.3]),
        ({"top_p": 0.81}, [0.15, 0.5, 0, 0.3]),
        ({"top_p": 1.0}, [0.15, 0.5, 0.05, 0.3]),
        ({"top_k": 2, "top_p": 0.6}, [0, 1, 0, 0]),  # after top_k, 0.5 has become 0.625
        ({"temperature": 0.5, "top_p": 0.6}, [0, 1, 0, 0]),  # after the temperature, 0.5 has become 0.68
    ],
    ids=str,
)
def test_samples_follow_the_distribution(options, weights):
    expected = np.array(weights) / sum(weights)
    found = frequencies(**options)
    np.testing.assert_array_equal(found[expected == 0], 0)
    np.testing.assert_allclose(found, expected, atol=0.03)  # four standard deviations of 4000 draws


def test_ties_keep_exactly_k_tokens_and_greedy_takes_the_first():
    logits = jnp.zeros(6)
    assert set(draw_many(logits, top_k=2).tolist()) == {0, 1}
    assert set(draw_many(logits, temperature=0.0).tolist()) == {0}


# From transformers 5.24.0 and torch 2.13.0: logits, the tokens before them, and what the processors make of both.
LOGITS = np.array(
    [[-2.25, -2.3, -0.5, -0.87, 1.7, 1.38, -0.63, -4.23], [0.64, -2.53, 0.7, 0.62, 0.24, 2.48, 2.23, -0.49]], np.float32
)
TOKENS = np.array([[1, 3, 3, 6], [0, 7, 2, 2]])
PROCESSED = [
    (
        {"repetition_penalty": 1.3},
        [
            [0.009591, 0.004576, 0.055193, 0.029366, 0.498121, 0.36171, 0.040119, 0.001324],
            [0.057752, 0.002812, 0.06048, 0.065619, 0.044874, 0.421516, 0.328277, 0.018669],
        ],
    ),
    (
        {"repetition_penalty": 0.7},
        [
            [0.009116, 0.017288, 0.052457, 0.04704, 0.473422, 0.343775, 0.055645, 0.001259],
            [0.082143, 0.002623, 0.089494, 0.061202, 0.041853, 0.393143, 0.30618, 0.023363],
        ],
    ),
    (
        {"min_p": 0.1},
        [
            [0, 0, 0.060319, 0, 0.54438, 0.395301, 0, 0],
            [0.067057, 0, 0.071204, 0.065729, 0.04495, 0.422228, 0.328832, 0],
        ],
    ),
    (
        {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.2},
        [[0, 0, 0, 0, 0.612336, 0.387664, 0, 0], [0, 0, 0, 0, 0, 0.588349, 0.411651, 0]],
    ),
    (
        {"repetition_penalty": 1.5, "temperature": 1.2, "top_k": 6, "top_p": 0.8, "min_p": 0.05},
        [[0, 0, 0, 0, 0.566274, 0.433726, 0, 0], [0, 0, 0.084483, 0.095998, 0, 0.45229, 0.36723, 0]],
    ),
    (
        {"repetition_penalty": 2.0, "temperature": 0.8, "min_p": 0.3},
        [[0, 0, 0, 0, 0.598688, 0.401312, 0, 0], [0, 0, 0, 0, 0, 0.577495, 0.422505, 0]],
    ),
]


@pytest.mark.parametrize(("options", "expected"), PROCESSED, ids=range(6))
def test_processors_of_transformers(options, expected):
    penalty = options.get("repetition_penalty")
    others = {name: value for name, value in options.items() if name != "repetition_penalty"}
    for logits, tokens, row in zip(LOGITS, TOKENS, np.array(expected), strict=True):
        logits, seen = jnp.asarray(logits), jnp.asarray(np.isin(np.arange(8), tokens))
        logits = logits if penalty is None else penalize_repetition(logits, seen, penalty)
        if not others:
            np.testing.assert_allclose(jax.nn.softmax(logits), row, atol=2e-6)
            continue
        found = np.bincount(draw_many(logits, **others), minlength=8) / 4000
        np.testing.assert_array_equal(found > 0, row > 0)
        np.testing.assert_allclose(found, row, atol=0.03)


# The number of tokens that TopPLogitsWarper of these versions keeps where the probabilities add up to top_p exactly.
EXACT_SUMS = {
    (5, 3, 1, 1): {0.5: 1, 0.6: 2, 0.8: 2, 0.9: 3},
    (1, 1, 1, 1, 1): {0.2: 1, 0.4: 2, 0.6: 3, 0.8: 4},
    (4, 2, 1, 1, 1, 1): {0.4: 1, 0.6: 2, 0.7: 3, 0.8: 4, 0.9: 5},
    (7, 5, 3, 3, 2): {0.35: 1, 0.6: 2, 0.75: 3, 0.9: 4},
}


@pytest.mark.parametrize("weights", EXACT_SUMS, ids=str)
def test_top_p_keeps_as_many_tokens_as_transformers_where_the_sum_is_exact(weights):
    logits = jnp.log(jnp.asarray(weights, jnp.float32) / sum(weights))
    kept = {top_p: len(set(draw_many(logits, tail=1 - top_p).tolist())) for top_p in EXACT_SUMS[weights]}
    assert kept == EXACT_SUMS[weights]


def test_top_p_adds_probabilities_as_exactly_as_double_precision():
    x = np.random.default_rng(0).integers(1, 9, (50, 40)).astype(np.float32)
    x /= x.sum(axis=1, keepdims=True)
    exact = np.cumsum(x.astype(np.float64), axis=1).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(cumulative_sum)(jnp.asarray(x)), exact)
    assert np.any(np.asarray(jnp.cumsum(jnp.asarray(x), axis=1)) != exact)
