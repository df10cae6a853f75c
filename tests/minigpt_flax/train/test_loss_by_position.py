"""The loss by position: against one token at a time, and as a table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.data import evaluation_windows
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import apply, init_params
from minigpt_flax.train.loss_by_position import losses_of, octaves, table

MODEL = ModelConfig(vocab_size=7, context=6, layers=1, heads=1, width=8)


@pytest.mark.slow
def test_means_and_errors_are_those_of_every_token_by_itself():
    params = jax.tree.map(lambda leaf: 20 * leaf, init_params(MODEL, jax.random.key(0)))
    tokens = np.random.default_rng(0).integers(0, 7, 6 * 5 + 4)  # five whole windows and half a one
    found = losses_of(MODEL, params, evaluation_windows(tokens, 6, 2))
    losses = [[] for _ in range(6)]
    for start in range(0, len(tokens) - 1, 6):
        window = tokens[start : start + 7]
        logits = np.asarray(apply(MODEL, params, jnp.asarray(window[None, :-1])))[0]
        for i, target in enumerate(window[1:]):
            losses[i].append(np.log(np.sum(np.exp(logits[i]))) - logits[i, target])
    assert [len(column) for column in losses] == [6, 6, 6, 5, 5, 5]
    np.testing.assert_allclose(found.by_position, [np.mean(column) for column in losses], rtol=1e-5)
    errors = [np.std(column) / np.sqrt(len(column)) for column in losses]
    np.testing.assert_allclose(found.errors, errors, rtol=1e-4)
    np.testing.assert_allclose(found.mean, np.mean(np.concatenate(losses)), rtol=1e-5)
    assert np.std(found.by_position) > 0.05


def test_positions_that_no_token_reaches_have_no_loss():
    found = losses_of(MODEL, init_params(MODEL, jax.random.key(0)), evaluation_windows(np.arange(4), 6, 1))
    assert np.isfinite(found.by_position).tolist() == [True] * 3 + [False] * 3
    assert table(found.by_position).count("\n") == 2  # the heading, 1, 2; "3 to 4" lacks a part


def test_doubling_ranges_cover_every_position_once():
    for context in (1, 2, 3, 64, 100):
        covered = [i for first, end in octaves(context) for i in range(first, end)]
        assert covered == list(range(context))


def test_bars_are_as_long_as_the_losses_are_large():
    rows = table(np.array([4.0, 2.0, 1.0, 1.0])).splitlines()[1:]
    assert [row.split() for row in rows] == [
        ["1", "4.0000", "#" * 40],
        ["2", "2.0000", "#" * 20],
        ["3", "to", "4", "1.0000", "#" * 10],
    ]
