"""Tests for `minigpt_flax.model.generate`: generation with a KV cache against generation without one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.model import generate as module
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.generate import CHUNK, append, generate, stream
from minigpt_flax.model.gpt import apply
from minigpt_flax.model.sampling import sample_logits
from tests.minigpt_flax.model import speedrun
from tests.minigpt_flax.model.uncached import generate_uncached

KEY = jax.random.key(0)
CONFIG = ModelConfig(vocab_size=11, context=5, layers=1, heads=2, width=8, tie_head=False)
PARTS = [
    {},
    {"position": "rope", "norm": "rmsnorm", "mlp": "swiglu", "heads": 4, "kv_heads": 2, "qk_norm": True},
    {"position": "none", "softcap": 2.0, "bias": True, "tie_head": True, "heads": 2, "kv_heads": 1},
    {**speedrun.PARTS, "width": 32},
    {"embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 0.25, "attention_scale": 0.2},
    {"end_of_text": 5, "layers": 1},
    {"end_of_text": 5, "layers": 1, "position": "rope"},
]


@pytest.fixture(scope="module")
def params(draw):
    return draw(CONFIG, 1.0)  # large, so that the text depends on every token of the window


@pytest.mark.parametrize("start", [3, 8])
def test_greedy_tokens_with_a_window_that_drops_its_older_half(start, params):
    prompt = np.random.default_rng(1).integers(0, 11, (2, start))
    one_by_one = jax.jit(functools.partial(apply, CONFIG, params))
    windows, new = list(prompt[:, -CONFIG.context :]), []
    for _ in range(9):
        logits = np.stack([np.asarray(one_by_one(jnp.asarray(window[None])))[0, -1] for window in windows])
        new.append(np.argmax(logits, axis=1))
        windows = [[*(w[3:] if len(w) == 5 else w), token] for w, token in zip(windows, new[-1], strict=True)]
        windows = [np.array(window) for window in windows]
    text = np.stack(new, axis=1)
    assert len(set(text.flat)) > 3
    for options in ({"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}):
        np.testing.assert_array_equal(generate(CONFIG, params, prompt, KEY, max_tokens=9, **options), text)
        uncached = generate_uncached(CONFIG, params, jnp.asarray(prompt), KEY, max_tokens=9, **options)
        np.testing.assert_array_equal(uncached, text)


@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "-".join([parts.get("position", "learned"), *parts][:2]))
def test_every_architecture_samples_the_same_with_and_without_kv_cache(parts, draw):
    settings = {"vocab_size": 13, "context": 12, "layers": 2, "heads": 2, "width": 16} | parts
    config = ModelConfig(**settings)
    params, prompt = draw(config, 0.7), np.random.default_rng(0).integers(0, 13, (3, 4))
    for temperature in (0.9, 0.0):
        how = {"max_tokens": 2 * CHUNK + 3, "temperature": temperature}
        found = generate(config, params, prompt, KEY, **how)
        assert config.end_of_text is None or temperature == 0 or config.end_of_text in found
        np.testing.assert_array_equal(found, generate_uncached(config, params, jnp.asarray(prompt), KEY, **how))


def test_a_document_mask_hides_earlier_documents(draw):
    config = ModelConfig(vocab_size=11, context=16, layers=1, heads=2, width=8, end_of_text=7)
    params, how = draw(config, 1.0), {"max_tokens": 6, "temperature": 0.0}
    alone = generate(config, params, [[7, 1, 2]], KEY, **how)
    behind = generate(config, params, [[3, 3, 9, 7, 1, 2], [7, 7, 1, 2]], KEY, **how)
    np.testing.assert_array_equal(behind, np.repeat(alone, 2, axis=0))


def test_the_penalty_counts_the_whole_prompt_and_the_text(params):
    prompt, penalty = np.array([9, 1, 2, 3, 4, 5, 6]), 1.7  # longer than the context
    found = generate(CONFIG, params, [prompt], KEY, max_tokens=9, temperature=0.0, repetition_penalty=penalty)[0]
    window, seen = prompt[-CONFIG.context :], set(prompt.tolist())
    one_by_one = jax.jit(functools.partial(apply, CONFIG, params))
    for token in found:
        padded = np.pad(window, (0, CONFIG.context - window.size))
        logits = np.array(one_by_one(jnp.asarray(padded[None])))[0, window.size - 1]
        for i in seen:
            logits[i] = logits[i] * penalty if logits[i] < 0 else logits[i] / penalty
        assert np.argmax(logits) == token
        (window,), seen = append([window], np.array([[token]]), CONFIG.context), seen | {int(token)}
    plain = generate(CONFIG, params, [prompt], KEY, max_tokens=9, temperature=0.0)[0]
    assert not np.array_equal(found, plain)


def test_prompts_do_not_influence_each_other(draw):
    config = ModelConfig(vocab_size=11, context=12, layers=2, heads=2, width=8, position="rope")
    params, random = draw(config, 1.0), np.random.default_rng(2)
    prompts = [random.integers(0, 11, size) for size in (1, 7, 12, 30)]
    together = generate(config, params, prompts, KEY, max_tokens=40, temperature=0.0)
    for prompt, row in zip(prompts, together, strict=True):
        np.testing.assert_array_equal(generate(config, params, [prompt], KEY, max_tokens=40, temperature=0.0)[0], row)
    assert len({tuple(row) for row in together}) > 2


def test_windows_of_every_size_drop_their_older_half():
    assert [window.tolist() for window in append([np.arange(1)], np.array([[7, 8]]), 1)] == [[8]]
    assert [window.tolist() for window in append([np.arange(5)], np.array([[7]]), 5)] == [[3, 4, 7]]
    assert [window.tolist() for window in append([np.arange(5)], np.array([[7, 8, 9, 6]]), 5)] == [[8, 9, 6]]


def test_token_i_of_row_b_is_sampled_with_key_b_i(params):
    text = np.array([[1, 2, 3], [4, 5, 6]])
    tokens = generate(CONFIG, params, text, KEY, max_tokens=2, temperature=5.0)
    for i in range(2):
        logits = apply(CONFIG, params, jnp.asarray(text))[:, -1]
        keys = [jax.random.fold_in(jax.random.fold_in(KEY, row), i) for row in range(2)]
        new = [sample_logits(row, key, 5.0) for row, key in zip(logits, keys, strict=True)]
        text = np.append(text, np.stack(new)[:, None], axis=1)
    np.testing.assert_array_equal(tokens, text[:, 3:])


def test_same_key_same_text_and_other_settings_compile_nothing_new(monkeypatch, draw):
    config, traces = dataclasses.replace(CONFIG, vocab_size=12), []  # a model that no other test has compiled
    params = draw(config, 1.0)
    for name in ("prefill", "decode"):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, original=original: traces.append(1) or original(*args))
    run = functools.partial(generate, config, params, [[1, 2, 3]], max_tokens=9)
    first, again, other = run(KEY), run(KEY), run(jax.random.key(5))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    run(KEY, temperature=0.5)
    generate(config, params, [[4]], KEY, max_tokens=20)
    assert len(traces) == 2
    run(KEY, top_k=3, top_p=0.7)
    run(KEY, top_k=4, top_p=0.2, temperature=0.0)
    assert len(traces) == 4
    run(KEY, min_p=0.1, repetition_penalty=1.2)
    run(KEY, min_p=0.3, repetition_penalty=0.7)
    assert len(traces) == 6


def test_tokens_are_streamed(params):
    sizes = [chunk.shape for chunk in stream(CONFIG, params, [[1]], KEY, max_tokens=9)]
    assert sizes == [(1, 1), (1, 4), (1, 1), (1, 2), (1, 1)]  # 1 is read, 4 fill the window, 3 are read, 2 fill it


def test_vocabulary_padding_is_never_sampled(params):
    tokens = generate(CONFIG, params, [[1]], KEY, max_tokens=60, temperature=50.0, vocab_size=4)
    assert set(tokens.flat) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be at least 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature must be at least 0, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"min_p": 1.5}, "min_p must be from 0 to 1, got 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0 and finite, got 0.0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty must be above 0 and finite, got nan"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, says, params):
    with pytest.raises(UserError, match=says):
        generate(CONFIG, params, [[1]], KEY, **({"max_tokens": 3} | wrong))


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []]])
def test_an_empty_prompt_is_refused(params, prompts):
    with pytest.raises(UserError, match="the prompt is empty"):
        generate(CONFIG, params, prompts, KEY, max_tokens=3)
