"""Tests for `minigpt_flax.model.sampling`: frequencies against the exact distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.model.sampling import sample_logits

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
