"""Tests for `minigpt_flax.model.gpt`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.model.config import MLP_NAMES, NORM_NAMES, POSITION_NAMES, REMAT_NAMES, ModelConfig
from minigpt_flax.model.gpt import REMAT, apply, init_params, losses
from minigpt_flax.model.layout import path_name
from minigpt_flax.model.loss import cross_entropy, token_losses

SMALL = ModelConfig(vocab_size=11, context=6, layers=1, heads=4, width=16)
SWITCHES = (
    {"bias": True},
    {"kv_heads": 1, "qk_norm": True},
    {"tie_head": False, "softcap": 2.0, "hidden": 24},
    {"dropout": 0.5, "layers": 2},
)
KEY = jax.random.key(0)
TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, 11, (4, 7)))


def variants():
    """Configurations in which every row of every table and every switch comes at least once."""
    tables = {"norm": NORM_NAMES, "position": POSITION_NAMES, "mlp": MLP_NAMES}
    for i in range(max(len(SWITCHES), *map(len, tables.values()))):
        yield {field: names[i % len(names)] for field, names in tables.items()} | SWITCHES[i % len(SWITCHES)]


def small(**parts):
    return dataclasses.replace(SMALL, **parts)


@functools.partial(jax.jit, static_argnums=0, static_argnames="deterministic")
def run(config, params, tokens, **options):
    return apply(config, params, tokens, **options)


def mean_loss(config, params, **options):
    total, count = cross_entropy(apply(config, params, TOKENS[:, :-1], **options), TOKENS[:, 1:])
    return total / count


@pytest.mark.parametrize("parts", list(variants()), ids=str)
def test_every_part_starts_uniform_and_learns(parts, draw):
    config = small(**parts)
    loss = jax.jit(jax.value_and_grad(lambda params: mean_loss(config, params, deterministic=False, dropout_key=KEY)))
    params = draw(config)
    before, gradient = loss(params)
    assert abs(before - np.log(11)) < 0.05
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    after, _ = loss(jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient))
    assert after < before


def test_initial_weights_and_loss_are_gpt2s():
    config = ModelConfig(65, layers=2, bias=True, tie_head=False)
    params = init_params(config, KEY)
    block, residual = jax.tree.map(lambda leaf: leaf[1], params["blocks"]), 0.02 / 2  # sqrt(2 * 2 layers) is 2
    spreads = [
        (params["token_embedding"]["embedding"], 0.02),
        (params["position_embedding"]["embedding"], 0.02),
        (params["head"]["kernel"], 0.02),
        (block["attention"]["query"]["kernel"], 0.02),
        (block["attention"]["output"]["kernel"], residual),
        (block["mlp"]["up"]["kernel"], 0.02),
        (block["mlp"]["down"]["kernel"], residual),
    ]
    for leaf, stddev in spreads:
        np.testing.assert_allclose(np.std(leaf), stddev, rtol=0.05)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert not np.any(block["mlp"]["up"]["bias"])
    assert np.all(np.asarray(params["final_norm"]["scale"]) == 1)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 65, (8, 33)))
    total, count = cross_entropy(run(config, params, tokens[:, :-1]), tokens[:, 1:])
    # Logits have the variance 128 * 0.02^2 = 0.0512, half of which is added to ln V.
    np.testing.assert_allclose(total / count, np.log(65) + 0.0256, atol=0.05)


@pytest.mark.parametrize(("bias", "tie_head", "kv_heads"), [(False, True, None), (True, False, 2)])
def test_parameter_count_by_formula(bias, tie_head, kv_heads):
    config = ModelConfig(65, bias=bias, tie_head=tie_head, kv_heads=kv_heads)  # D 128, heads of 32
    shapes = jax.eval_shape(lambda: init_params(config, KEY))
    kv = 128 if kv_heads is None else kv_heads * 32
    matrices = 2 * 128 * 128 + 2 * 128 * kv + 2 * 128 * 512
    vectors = 2 * 128 + (2 * 128 + 2 * kv + 512 + 128 + 2 * 128 if bias else 0)
    outside = (65 + 64) * 128 + (1 + bias) * 128 + (0 if tie_head else 128 * 65)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 4 * (matrices + vectors) + outside


def test_hidden_matrices_shrink_with_the_root_of_the_width():
    """At the width and the depth of the base, nothing changes, bit for bit."""
    base = init_params(small(width=64, layers=2), KEY)
    same = init_params(small(width=64, layers=2, init_width=64, init_layers=2), KEY)
    jax.tree.map(np.testing.assert_array_equal, base, same)
    found = init_params(small(width=64, layers=8, init_width=16, init_layers=2), KEY)
    stds = lambda tree: {path[-2].key: np.std(leaf) for path, leaf in jax.tree.leaves_with_path(tree) if leaf.ndim > 1}
    ratios = {name: std / stds(base)[name] for name, std in stds(found).items() if std}
    halved = dict.fromkeys(("query", "key", "value", "output", "up", "down"), 0.5)
    assert ratios == pytest.approx({**dict.fromkeys(ratios, 1.0), **halved}, rel=0.05)


def test_factors_multiply_the_embedding_the_branches_and_the_logits(draw):
    parts = {"layers": 1, "head_bias": True, "tie_head": False}
    config = small(**parts)
    params = draw(config, 0.3)
    for field, names in {
        "embedding_scale": ("token_embedding", "position_embedding"),
        "residual_scale": ("output", "down"),
        "logit_scale": ("head/kernel",),
    }.items():
        of_field = lambda path, names=names: any(name in path_name(path) for name in names)
        changed = jax.tree.map_with_path(lambda path, leaf, on=of_field: leaf * 0.5 if on(path) else leaf, params)
        found = run(small(**parts, **{field: 0.5}), params, TOKENS[:, 1:])
        np.testing.assert_allclose(found, run(config, changed, TOKENS[:, 1:]), atol=1e-6)
        assert not np.allclose(found, run(config, params, TOKENS[:, 1:]), atol=1e-3), field


def test_layers_are_initialized_independently(draw):
    kernels = np.asarray(init_params(small(layers=3), KEY)["blocks"]["mlp"]["up"]["kernel"]).reshape(3, -1)
    np.testing.assert_allclose(np.corrcoef(kernels), np.eye(3), atol=0.15)  # 1024 numbers each: 1/32 is one deviation


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_looped_and_unrolled_layers_agree(dropout, draw):
    config = small(layers=3, dropout=dropout, bias=True)
    params = draw(config, 0.1)

    def loss(params, scan_layers):
        parts = dataclasses.replace(config, scan_layers=scan_layers)
        return mean_loss(parts, params, deterministic=False, dropout_key=KEY)

    (out, loop) = (jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, scan) for scan in (False, True))
    np.testing.assert_allclose(out[0], loop[0], rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7), out[1], loop[1])


def test_activation_checkpointing_changes_no_result(draw):
    assert tuple(REMAT) == REMAT_NAMES
    config = small(layers=2, dropout=0.5)
    params = draw(config, 0.1)

    def loss(params, remat, scan_layers):
        parts = dataclasses.replace(config, remat=remat, scan_layers=scan_layers)
        return mean_loss(parts, params, deterministic=False, dropout_key=KEY)

    run = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))
    (value, gradient), *others = (run(params, *how) for how in (("none", False), ("full", False), ("dots", True)))
    for other, there in others:
        np.testing.assert_allclose(value, other, rtol=1e-6)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7), gradient, there)


def test_each_checkpointing_policy_saves_less_for_the_backward_pass(draw):
    def kept(remat):
        config = small(remat=remat, layers=2)
        shapes = jax.eval_shape(lambda: init_params(config, KEY))
        _, back = jax.eval_shape(lambda params: jax.vjp(lambda p: mean_loss(config, p), params), shapes)
        return sum(leaf.size for leaf in jax.tree.leaves(back))

    assert kept("full") < kept("dots") < kept("none")


@pytest.mark.parametrize(
    "parts", [{}, {"tie_head": False, "softcap": 2.0, "logit_scale": 0.5, "head_bias": True}], ids=str
)
def test_losses_equal_those_of_the_logits_for_any_chunk_size(parts, draw):
    config = small(**parts)
    params, tokens, targets = draw(config, 0.3), TOKENS[:, :-1], TOKENS[:, 1:]
    whole = token_losses(run(config, params, tokens), targets)
    for chunk in (None, 0, 8):
        config = dataclasses.replace(config, loss_chunk=chunk)
        np.testing.assert_allclose(jax.jit(losses, static_argnums=0)(config, params, tokens, targets), whole, atol=1e-6)


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_packed_documents_have_the_losses_of_separate_documents(position, draw):
    config = small(position=position, layers=2, kv_heads=2, end_of_text=0)
    params, run = draw(config, 0.3), jax.jit(losses, static_argnums=0)
    tokens = jnp.array([[4, 5, 6, 0, 7, 8, 9]])
    packed = run(config, params, tokens[:, :-1], tokens[:, 1:])
    alone = [run(config, params, tokens[:, i:j], tokens[:, i + 1 : j + 1]) for i, j in ((0, 3), (3, 6))]
    np.testing.assert_allclose(packed, np.concatenate(alone, axis=1), atol=2e-6)
    mixed = run(dataclasses.replace(config, end_of_text=None), params, tokens[:, :-1], tokens[:, 1:])
    assert np.abs(mixed - packed)[0, 3:].max() > 1e-3


def test_bfloat16_computes_in_16_bits_and_stays_near_float32(draw):
    config = small(layers=2, dtype="bfloat16", bias=True, qk_norm=True, position="rope")
    params = draw(config, 0.1)
    value = jax.jit(jax.value_and_grad(mean_loss, argnums=1), static_argnums=0)
    (loss, gradient), (exact, wanted) = (
        value(dataclasses.replace(config, dtype=d), params) for d in ("bfloat16", "float32")
    )
    np.testing.assert_allclose(loss, exact, rtol=2e-3)
    assert loss != exact
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {np.dtype("float32")}
    norm = lambda tree: np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))
    assert norm(jax.tree.map(jnp.subtract, gradient, wanted)) < 0.03 * norm(wanted)
    text = jax.jit(lambda: apply(config, params, TOKENS[:, :-1])).lower().as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and not [line for line in products if "f32" in line.split(":")[-1].split("->")[0]]


def test_gradients_of_positions_show_causality(draw):
    params = draw(SMALL)

    def logit(table, t):
        return apply(SMALL, params | {"position_embedding": {"embedding": table}}, TOKENS[:1, :-1])[0, t, 3]

    gradient = jax.jit(jax.vmap(jax.grad(logit), (None, 0)))(params["position_embedding"]["embedding"], jnp.arange(6))
    reaches = np.abs(gradient).max(axis=-1) > 0
    np.testing.assert_array_equal(reaches, np.tri(6, dtype=bool))


@pytest.mark.parametrize("position", POSITION_NAMES)
def test_later_tokens_change_no_earlier_logits(position, draw):
    config = small(position=position, kv_heads=2, qk_norm=True)
    tokens = TOKENS[:2, :6].at[1].set(TOKENS[0, :6]).at[1, 3].add(1) % 11
    here, there = run(config, draw(config), tokens)
    np.testing.assert_array_equal(np.any(here != there, axis=-1), [False] * 3 + [True] * 3)


@pytest.mark.parametrize(("position", "knows_order"), [("learned", True), ("rope", True), ("none", False)])
def test_which_position_encodings_know_the_order(position, knows_order, draw):
    # One causal layer without positions sees a set: swapping two earlier tokens leaves the last logits alone.
    config = small(position=position)
    there, swapped = run(config, draw(config, 0.1), jnp.array([[1, 2, 3], [2, 1, 3]]))[:, -1]
    assert (np.abs(there - swapped).max() > 1e-5) == knows_order


def test_an_untied_head_that_equals_the_embedding_is_a_tied_one(draw):
    params = draw(SMALL)
    untied = params | {"head": {"kernel": params["token_embedding"]["embedding"].T}}
    tokens = TOKENS[:, :-1]
    np.testing.assert_allclose(run(small(tie_head=False), untied, tokens), run(SMALL, params, tokens), atol=1e-6)


def test_grouped_heads_equal_repeated_ones(draw):
    grouped = small(kv_heads=2)
    params = draw(grouped, 0.1)
    attention = dict(params["blocks"]["attention"])
    for name in ("key", "value"):
        kernel = np.asarray(attention[name]["kernel"]).reshape(1, 16, 2, 4)
        attention[name] = {"kernel": jnp.asarray(np.repeat(kernel, 2, axis=2).reshape(1, 16, 16))}
    repeated = params | {"blocks": params["blocks"] | {"attention": attention}}
    tokens = TOKENS[:, :-1]
    np.testing.assert_allclose(run(grouped, params, tokens), run(SMALL, repeated, tokens), atol=1e-5)


def test_softcap_bounds_the_logits(draw):
    params, tokens = draw(SMALL, 1.0), TOKENS[:, :-1]
    free, capped = run(SMALL, params, tokens), run(small(softcap=3.0), params, tokens)
    assert np.abs(free).max() > 3
    np.testing.assert_allclose(capped, 3 * np.tanh(np.asarray(free) / 3), rtol=1e-4, atol=1e-5)


def test_dropout_is_a_function_of_its_key_and_off_by_default(draw):
    config, tokens = small(dropout=0.5), TOKENS[:, :-1]
    params = draw(config)
    off = run(config, params, tokens)
    np.testing.assert_array_equal(off, run(SMALL, params, tokens))
    first, again, other = (
        np.asarray(run(config, params, tokens, deterministic=False, dropout_key=jax.random.key(i))) for i in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first - off).max() > 1e-3


def test_too_long_a_sequence_is_refused(draw):
    with pytest.raises(UserError, match="7 tokens is longer than the context of 6"):
        apply(SMALL, draw(SMALL), TOKENS)


def test_curvature_and_populations(draw):
    config = small(position="rope")
    loss = functools.partial(mean_loss, config)
    params, direction = draw(config), draw(config, 0.1, seed=1)

    @jax.jit
    def curvature(params, direction):
        _, along = jax.jvp(jax.grad(loss), (params,), (direction,))
        return sum(jnp.vdot(h, d) for h, d in zip(*map(jax.tree.leaves, (along, direction)), strict=True))

    @jax.jit
    def along_line(distances):
        points = jax.vmap(lambda s: jax.tree.map(lambda p, d: p + s * d, params, direction))(distances)
        return jax.vmap(loss)(points)

    before, here, after = np.asarray(along_line(jnp.array([-0.05, 0.0, 0.05])), np.float64)
    np.testing.assert_allclose(curvature(params, direction), (before - 2 * here + after) / 0.05**2, rtol=0.02)
