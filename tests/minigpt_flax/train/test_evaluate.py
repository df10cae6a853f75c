"""Validation: against a direct computation, whatever the batches, and stopped when asked."""

import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.data import evaluation_windows
from minigpt_flax.train.evaluate import Abandoned, evaluate

TOKENS = np.random.default_rng(0).integers(0, 50, 101)


def losses(params, inputs, targets, mask):
    """A loss that is known: the token itself, times a parameter."""
    return jnp.sum(jnp.where(mask, targets, 0), axis=1).astype(jnp.float32) * params, jnp.sum(mask, axis=1).astype(
        jnp.float32
    )


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_mean_error_and_perplexity(batch):
    found = evaluate(losses, jnp.float32(0.1), evaluation_windows(TOKENS, 8, batch))
    values = 0.1 * TOKENS[1:]
    windows = [values[i : i + 8] for i in range(0, 100, 8)]
    mean = values.mean()
    spread = np.sqrt(sum((window.sum() - mean * len(window)) ** 2 for window in windows)) / 100
    assert found == pytest.approx({"val_loss": mean, "val_sem": spread, "val_perplexity": np.exp(mean)}, rel=1e-6)


def test_the_standard_error_is_that_of_the_mean():
    # equal windows: the usual formula, with n instead of n - 1
    found = evaluate(losses, jnp.float32(1.0), evaluation_windows(TOKENS[:97], 8, 4))
    means = TOKENS[1:97].reshape(12, 8).mean(axis=1)
    assert found["val_sem"] == pytest.approx(means.std() / np.sqrt(12), rel=1e-5)


def test_a_loss_beyond_the_largest_exponential():
    assert evaluate(losses, jnp.float32(1e3), evaluation_windows(TOKENS, 8, 4))["val_perplexity"] == np.inf


def test_a_request_to_stop_is_seen_at_the_next_batch():
    asked = iter([False, False, True])
    seen = []

    def counted(*args):
        seen.append(1)
        return losses(*args)

    with pytest.raises(Abandoned):
        evaluate(counted, jnp.float32(1.0), evaluation_windows(TOKENS, 8, 2), lambda: next(asked))
    assert len(seen) == 2
