"""Tests for `minigpt_flax.model.generate`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.model import generate as module
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.generate import generate, sample_logits
from minigpt_flax.model.gpt import apply

KEY = jax.random.key(0)
CONFIG = ModelConfig(vocab_size=11, context=5, layers=1, heads=2, width=8, tie_head=False)
PROBABILITIES = np.array([0.15, 0.5, 0.05, 0.3])


@pytest.fixture(scope="module")
def params(draw):
    return draw(CONFIG, 1.0)  # large, so that the text depends on every token of the window


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
def test_draws_follow_the_law(options, weights):
    expected = np.array(weights) / sum(weights)
    found = frequencies(**options)
    np.testing.assert_array_equal(found[expected == 0], 0)
    np.testing.assert_allclose(found, expected, atol=0.03)  # four standard deviations of 4000 draws


def test_of_equal_logits_exactly_k_stay_and_the_first_is_greedy():
    logits = jnp.zeros(6)
    assert set(draw_many(logits, top_k=2).tolist()) == {0, 1}
    assert set(draw_many(logits, temperature=0.0).tolist()) == {0}


@pytest.mark.parametrize("start", [3, 8])
def test_likeliest_tokens_with_a_window_that_slides(start, params):
    prompt = np.random.default_rng(1).integers(0, 11, (2, start))
    one_by_one = jax.jit(functools.partial(apply, CONFIG, params))
    text = prompt
    for _ in range(7):
        logits = one_by_one(jnp.asarray(text[:, -CONFIG.context :]))
        text = np.append(text, np.argmax(logits[:, -1], axis=-1)[:, None], axis=1)
    assert len(set(text[:, start:].flat)) > 3
    for options in ({"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}):
        tokens = generate(CONFIG, params, jnp.asarray(prompt), KEY, max_tokens=7, **options)
        np.testing.assert_array_equal(tokens, text[:, start:], err_msg=str(options))


def test_token_i_is_drawn_with_key_i(params):
    text = np.array([[1, 2, 3], [4, 5, 6]])
    tokens = generate(CONFIG, params, jnp.asarray(text), KEY, max_tokens=2, temperature=5.0)
    for i in range(2):
        logits = apply(CONFIG, params, jnp.asarray(text))[:, -1]
        text = np.append(text, sample_logits(logits, jax.random.fold_in(KEY, i), 5.0)[:, None], axis=1)
    np.testing.assert_array_equal(tokens, text[:, 3:])


def test_same_key_same_text_and_other_settings_compile_nothing_new(monkeypatch, params):
    traces = []
    monkeypatch.setattr(module, "apply", lambda *args: traces.append(1) or apply(*args))
    prompt = jnp.array([[1, 2, 3]])
    run = functools.partial(generate, CONFIG, params, prompt, max_tokens=9)
    first, again, other = run(KEY), run(KEY), run(jax.random.key(5))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    run(KEY, temperature=0.5, top_k=3, top_p=0.7)
    run(KEY, temperature=0.0)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"max_tokens": 0}, "max_tokens=0 is not positive"),
        ({"temperature": -1.0}, "temperature=-1.0 is negative"),
        ({"top_k": 0}, "top_k=0 leaves no token"),
        ({"top_p": 0.0}, "top_p=0.0 is not in"),
        ({"top_p": 1.5}, "top_p=1.5 is not in"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, says, params):
    with pytest.raises(UserError, match=says):
        generate(CONFIG, params, jnp.array([[1]]), KEY, **({"max_tokens": 3} | wrong))


def test_an_empty_prompt_is_refused(params):
    with pytest.raises(UserError, match="the prompt is empty"):
        generate(CONFIG, params, jnp.zeros((1, 0), jnp.int32), KEY, max_tokens=3)
