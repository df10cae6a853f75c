"""QK-clip in a run: the model's largest logits, and one step on one device, on several, and with micro-batches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import ParamLayout, qk_clip, sgd
from minigpt_flax.data.tokenizers.ids import Ids
from minigpt_flax.errors import UserError
from minigpt_flax.model import gpt
from minigpt_flax.model.attention import max_logits
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.layout import layout as model_layout
from minigpt_flax.train.build import loss_sum, make_setup, tensor_axes
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.state import init_state
from minigpt_flax.train.step import make_step
from tests.minigpt_flax.train.parallel.test_launch import launched

MODEL = ModelConfig(vocab_size=11, context=4, layers=1, heads=2, width=8)
PARAMS = jax.tree.map(lambda leaf: 8 * leaf, gpt.init_params(MODEL, jax.random.key(0)))
LAYOUT = jax.tree.map(lambda a: ParamLayout(a.role, a.stacked, a.inputs, a.outputs), model_layout(PARAMS))
ROWS = np.random.default_rng(0).integers(0, 11, (4, 5))
BATCH = jnp.asarray(ROWS[:, :-1]), jnp.asarray(ROWS[:, 1:])
WAYS = [
    ("jit", "data=1", 4),
    ("jit", "data=4", 1),
    ("jit", "data=2,tensor=2", 1),
    ("jit", "fsdp=2", 2),
    ("pmap", "data=2", 2),
]


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_largest_logits_are_those_of_allowed_pairs(kv_heads):
    q, k = (jax.random.normal(jax.random.key(i), (3, 5, n, 4)) for i, n in enumerate((2, kv_heads)))
    documents = jnp.array([[0, 0, 1, 1, 1]] * 3)
    found = max_logits(q, k, documents=documents, scale=0.5)
    pairs = [(t, s) for t in range(5) for s in range(t + 1) if documents[0, t] == documents[0, s]]
    for head in range(2):
        scores = [q[b, t, head] @ k[b, s, head * kv_heads // 2] for b in range(3) for t, s in pairs]
        np.testing.assert_allclose(found[head], 0.5 * np.max(scores), rtol=1e-5)


@functools.cache
def after_one_step(*way, rate=0.1):
    tx = qk_clip(sgd(rate), threshold=1.0, layout=LAYOUT)
    losses = lambda axis: loss_sum(dataclasses.replace(MODEL, batch_axis=axis), tx.init(PARAMS))
    make = lambda axis: make_step(losses(axis), tx, key=jax.random.key(0), layout=LAYOUT, axis=axis)
    init = lambda: init_state(PARAMS, tx)
    step, state, place = launched(*way, make=make, init=init, layout=LAYOUT, tensor=tensor_axes(PARAMS))
    return jax.device_get(step(state, place(ROWS))[0].params)


def test_a_step_clips_by_the_logits_of_all_micro_batches():
    """The logits are those of the whole batch before the step."""
    params = after_one_step("jit", "data=1", 4, rate=0.0)
    losses, logits = gpt.losses_and_max_logits(MODEL, PARAMS, *BATCH)
    assert losses.shape == ROWS[:, 1:].shape
    root = 1 / np.sqrt(np.maximum(np.asarray(logits["blocks/attention"]), 1))
    assert root.min() < 0.9
    for part in ("query", "key"):
        before, after = (np.asarray(tree["blocks"]["attention"][part]["kernel"]) for tree in (PARAMS, params))
        np.testing.assert_allclose(after, before * np.repeat(root, 4, axis=1)[:, None], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=map(str, WAYS))
def test_every_way_to_divide_a_batch_is_the_same_step(way):
    same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(same, after_one_step(*way), after_one_step("jit", "data=1", 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{"scan_layers": True, "layers": 2}, {"remat": "full"}, {"kv_heads": 1, "position": "rope"}]
)
def test_the_logits_do_not_depend_on_how_the_blocks_run(more):
    model = dataclasses.replace(MODEL, **more)
    params = jax.tree.map(lambda leaf: 8 * leaf, gpt.init_params(model, jax.random.key(0)))
    plain = dataclasses.replace(model, scan_layers=False, remat="none")
    found, expected = (gpt.losses_and_max_logits(m, params, *BATCH)[1] for m in (model, plain))
    np.testing.assert_allclose(found["blocks/attention"], expected["blocks/attention"], rtol=1e-5)


def test_normalized_queries_are_refused():
    config = resolve({"data": "x", "opt": "muon", "wrap": ("qk_clip",), "qk_norm": True}, "nano")
    with pytest.raises(UserError, match="no effect on normalized queries and keys"):
        make_setup(config, Ids(11))
