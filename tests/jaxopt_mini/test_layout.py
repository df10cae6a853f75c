"""Layouts of parameters, given or inferred."""

from __future__ import annotations

import re

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxopt_mini import OPTIMIZERS, ParamLayout, layout, masked, partition
from jaxopt_mini.tree import by_name
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import init_params
from minigpt_flax.model.layout import layout as model_layout
from tests.harness import normal, permissive

BIASED = {"kernel": (6, 3, 2), "bias": (6, 2)}
CASES = {
    "a bias": ({"dense": {"bias": (3,)}}, ParamLayout("vector", (), (), (0,))),
    "a bias per head": ({"query": {"bias": (4, 8)}}, ParamLayout("vector", (), (), (0, 1))),
    "a number": ({"scale": ()}, ParamLayout("vector")),
    "a kernel": ({"dense": {"kernel": (3, 2)}}, ParamLayout("matrix", (), (0,), (1,))),
    "a kernel of Haiku": ({"dense/~/linear": {"w": (3, 2)}}, ParamLayout("matrix", (), (0,), (1,))),
    "a bare array": ({"embed_proj": (3, 2)}, ParamLayout("matrix", (), (0,), (1,))),
    "an array": ((3, 2), ParamLayout("matrix", (), (0,), (1,))),
    "a kernel of a block": (
        {"blocks": {"block_0": {"kernel": (3, 2)}}},
        ParamLayout("matrix", (), (0,), (1,)),
    ),
    "a kernel after an embedding": ({"embed_proj": {"kernel": (3, 2)}}, ParamLayout("matrix", (), (0,), (1,))),
    "a convolution": ({"conv": {"kernel": (3, 3, 4, 5)}}, ParamLayout("matrix", (), (0, 1, 2), (3,))),
    "a depthwise convolution": ({"conv": {"kernel": (3, 3, 1, 5)}}, ParamLayout("vector", (), (), (0, 1, 2, 3))),
    "an embedding": ({"wte": {"embedding": (9, 4)}}, ParamLayout("embedding", (), (0,), (1,))),
    "an embedding of Haiku": ({"lm/~/tokens": {"embeddings": (9, 4)}}, ParamLayout("embedding", (), (0,), (1,))),
    "a classifier": ({"head": {"kernel": (4, 9)}}, ParamLayout("matrix", (), (0,), (1,))),
    "a list of layers": ({"layers": [{"kernel": (3, 2)}]}, ParamLayout("matrix", (), (0,), (1,))),
    "numbered layers": ({"layers": {"0": {"kernel": (3, 2)}}}, ParamLayout("matrix", (), (0,), (1,))),
    "stacked convolutions or layers without a vector": ({"w": (6, 3, 2)}, ParamLayout("matrix", (), (0, 1), (2,))),
}
STACKS = {
    "a kernel and its bias": (BIASED, "kernel", ParamLayout("matrix", (0,), (1,), (2,))),
    "a bias": (BIASED, "bias", ParamLayout("vector", (0,), (), (1,))),
    "a kernel beside a scale": (
        {"a": {"kernel": (3, 3, 8)}, "b": {"kernel": (3, 8, 3)}, "norm": {"scale": (3, 3)}},
        "a/kernel",
        ParamLayout("matrix", (0,), (1,), (2,)),
    ),
    "bare arrays": ({"wq": (6, 3, 3), "norm": (6, 3)}, "wq", ParamLayout("matrix", (0,), (1,), (2,))),
    "a gain of each layer": ({**BIASED, "gain": (6,)}, "gain", ParamLayout("vector", (0,), (), ())),
    "a stack of stacks": (
        {"dense": {"kernel": (2, 6, 3, 4), "bias": (2, 6, 4)}, "norm": {"scale": (2, 6, 3)}},
        "dense/kernel",
        ParamLayout("matrix", (0, 1), (2,), (3,)),
    ),
    "heads": (
        {"query": {"kernel": (6, 8, 2, 4), "bias": (6, 2, 4)}, "norm": {"scale": (6, 8)}},
        "query/kernel",
        ParamLayout("matrix", (0,), (1,), (2, 3)),
    ),
    "as many features as heads, not a stack": (
        {"query": {"kernel": (4, 4, 8), "bias": (4, 8)}},
        "query/kernel",
        ParamLayout("matrix", (), (0,), (1, 2)),
    ),
}


def abstract(shapes):
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes, is_leaf=lambda leaf: isinstance(leaf, tuple)
    )


@pytest.mark.parametrize("name", CASES)
def test_infer(name):
    shapes, expected = CASES[name]
    params = abstract(shapes)
    assert jax.tree.leaves(layout.infer(params)) == [expected]
    assert jax.tree.structure(layout.infer(params)) == jax.tree.structure(params)


@pytest.mark.parametrize("name", STACKS)
def test_stacks_are_seen_in_their_vectors(name):
    shapes, path, expected = STACKS[name]
    assert by_name(layout.infer(abstract({"any": shapes})))[f"any/{path}"] == expected


class Linen(nn.Module):
    """A decoder with convolutions, an untied head, and layers scanned over."""

    tied: bool = False

    @nn.compact
    def __call__(self, tokens):
        table = nn.Embed(50, 16)
        x = table(tokens) + nn.Embed(32, 16, name="any")(jnp.arange(tokens.shape[1]))
        x = nn.Conv(16, (3,))(x)
        x = nn.Conv(16, (3,), feature_group_count=16)(x)
        x = x + nn.MultiHeadDotProductAttention(4, use_bias=False)(x, x)
        x = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()(x, None)[0]
        hidden = nn.Dense(32)(nn.LayerNorm()(x))
        x = nn.Dense(16)(nn.gelu(hidden))
        return table.attend(x) if self.tied else nn.Dense(50)(x)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.MultiHeadDotProductAttention(2)(nn.RMSNorm()(x)), None


class Nnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.table, self.head = nnx.Embed(50, 16, rngs=rngs), nnx.Linear(16, 50, rngs=rngs)
        self.layers = nnx.List([nnx.MultiHeadAttention(4, 16, rngs=rngs), nnx.LayerNorm(16, rngs=rngs)])


class Equinox(eqx.Module):
    table: eqx.nn.Embedding
    mlp: eqx.nn.MLP
    conv: eqx.nn.Conv2d
    depthwise: eqx.nn.Conv2d
    norm: eqx.nn.LayerNorm
    stack: eqx.nn.Linear
    cell: eqx.nn.GRUCell
    attention: eqx.nn.MultiheadAttention
    head: eqx.nn.Linear

    def __init__(self):
        key = jax.random.key(0)
        self.table, self.head = eqx.nn.Embedding(50, 16, key=key), eqx.nn.Linear(16, 50, key=key)
        self.mlp, self.norm = eqx.nn.MLP(16, 16, 24, 1, key=key), eqx.nn.LayerNorm((3, 16))
        self.conv, self.depthwise = (eqx.nn.Conv2d(16, 16, 3, groups=g, key=key) for g in (1, 16))
        self.stack = eqx.filter_vmap(lambda key: eqx.nn.Linear(16, 8, key=key))(jax.random.split(key, 3))
        self.cell, self.attention = eqx.nn.GRUCell(16, 8, key=key), eqx.nn.MultiheadAttention(2, 16, key=key)


HAIKU = {  # Haiku's parameters are plain dicts of this form
    "lm/~/embed": {"embeddings": (50, 16)},
    "lm/~/layer_norm": {"scale": (16,), "offset": (16,)},
    "lm/~/attention/query": {"w": (16, 16), "b": (16,)},
    "lm/~/conv": {"w": (3, 3, 16, 16)},
    "lm/~/up": {"w": (16, 64), "b": (64,)},
    "lm/~/down": {"w": (64, 16), "b": (16,)},
    "lm/~/logits": {"w": (16, 50), "b": (50,)},
}


def linen(tied=False):
    model = Linen(tied)
    with permissive():
        return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32), int))["params"]


MATRIX, VECTOR = "matrix", "vector"
EXPECTED = {  # the path: the role, and the sizes of stacked axes, inputs, outputs
    "linen": (
        linen,
        {
            "Embed_0/embedding": ("embedding", (), (50,), (16,)),
            "any/embedding": ("embedding", (), (32,), (16,)),
            "Conv_0/kernel": (MATRIX, (), (3, 16), (16,)),
            "Conv_1/kernel": (VECTOR, (), (), (3, 1, 16)),
            "MultiHeadDotProductAttention_0/query/kernel": (MATRIX, (), (16,), (4, 4)),
            "MultiHeadDotProductAttention_0/out/kernel": (MATRIX, (), (4, 4), (16,)),
            "ScanLayer_0/MultiHeadDotProductAttention_0/key/kernel": (MATRIX, (3,), (16,), (2, 8)),
            "ScanLayer_0/MultiHeadDotProductAttention_0/key/bias": (VECTOR, (3,), (), (2, 8)),
            "ScanLayer_0/RMSNorm_0/scale": (VECTOR, (3,), (), (16,)),
            "Dense_0/kernel": (MATRIX, (), (16,), (32,)),  # not the head, although there are 32 positions
            "Dense_2/kernel": ("head", (), (16,), (50,)),
        },
    ),
    "linen, tied": (lambda: linen(True), {"Dense_0/kernel": (MATRIX, (), (16,), (32,))}),
    "nnx": (
        lambda: nnx.state(nnx.eval_shape(Nnx), nnx.Param),
        {
            "table/embedding/value": ("embedding", (), (50,), (16,)),
            "layers/0/query/kernel/value": (MATRIX, (), (16,), (4, 4)),
            "layers/0/query/bias/value": (VECTOR, (), (), (4, 4)),
            "layers/0/out/kernel/value": (MATRIX, (), (4, 4), (16,)),
            "layers/1/scale/value": (VECTOR, (), (), (16,)),
            "head/kernel/value": ("head", (), (16,), (50,)),
        },
    ),
    "equinox": (
        lambda: eqx.filter_eval_shape(Equinox),
        {
            "table/weight": ("embedding", (), (50,), (16,)),
            "mlp/layers/0/weight": (MATRIX, (), (16,), (24,)),
            "mlp/layers/0/bias": (VECTOR, (), (), (24,)),
            "conv/weight": (MATRIX, (), (16, 3, 3), (16,)),
            "conv/bias": (VECTOR, (), (), (16, 1, 1)),
            "depthwise/weight": (VECTOR, (), (), (16, 1, 3, 3)),
            "norm/weight": (VECTOR, (), (), (3, 16)),
            "stack/weight": (MATRIX, (3,), (16,), (8,)),
            "stack/bias": (VECTOR, (3,), (), (8,)),
            "cell/weight_ih": (MATRIX, (), (16,), (24,)),
            "cell/bias": (VECTOR, (), (), (24,)),
            "attention/query_proj/weight": (MATRIX, (), (16,), (16,)),
            "head/weight": ("head", (), (16,), (50,)),
        },
    ),
    "haiku": (
        lambda: abstract(HAIKU),
        {
            "lm/~/embed/embeddings": ("embedding", (), (50,), (16,)),
            "lm/~/layer_norm/offset": (VECTOR, (), (), (16,)),
            "lm/~/conv/w": (MATRIX, (), (3, 3, 16), (16,)),
            "lm/~/up/w": (MATRIX, (), (16,), (64,)),
            "lm/~/logits/w": ("head", (), (16,), (50,)),
        },
    ),
}


def sizes(params):
    """Path -> role and the sizes of the three kinds of axes."""
    rows = layout.describe(params).rows
    return {
        name: (e.role, *(tuple(shape[axis] for axis in axes) for axes in (e.stacked, e.inputs, e.outputs)))
        for name, shape, e in rows
    }


@pytest.mark.parametrize("name", EXPECTED)
def test_infer_knows_the_layers_of_frameworks(name):
    make, expected = EXPECTED[name]
    got = sizes(make())
    assert {path: got[path] for path in expected} == expected
    assert [role for role, *_ in got.values()].count("head") == ("tied" not in name)


def renamed(tree, number):
    """A tree of dicts in which the modules are renamed, which reverses their order and hints at wrong roles."""
    if not any(isinstance(child, dict) for child in tree.values()):
        return tree
    wrong = ("head", "embed", "blocks", "layers", "kernel_norm", "lm_head", "wte", "scale_bias", "logits", "stack")
    names = {key: f"{wrong[(number + i) % len(wrong)]}_{9 - i}" for i, key in enumerate(tree)}
    return {names[key]: renamed(child, number + i + 1) for i, (key, child) in enumerate(tree.items())}


@pytest.mark.parametrize("name", ["linen", "linen, tied", "haiku"])
@pytest.mark.parametrize("number", range(5))
def test_renaming_modules_changes_no_entry(name, number):
    tree = EXPECTED[name][0]()

    def rows(params):
        entries = layout.infer(params)
        return sorted(zip(map(str, jax.tree.leaves(params)), map(str, jax.tree.leaves(entries)), strict=True))

    other = renamed(tree, number)
    assert jax.tree.structure(other) != jax.tree.structure(tree) and rows(other) == rows(tree)


def test_masks_do_not_hide_what_shows_a_stack():
    """Under ``masked`` and ``partition``, also nested, a part has the layout that it has in the whole tree."""
    seen = []

    def init(params):
        seen.append(layout.infer(params))
        return optax.EmptyState()

    spy = optax.GradientTransformation(init, lambda updates, state, params=None: (updates, init(updates)))
    params = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape), abstract({"layer": BIASED, "table": {"embedding": (5, 4)}})
    )
    labels = {"layer": {"kernel": "a", "bias": "b"}, "table": "b"}
    tx = partition({"a": masked(spy, lambda p: jax.tree.map(lambda leaf: True, p)), "b": optax.identity()}, labels)
    tx.update(params, tx.init(params), params)
    whole = layout.infer(params)["layer"]["kernel"]
    assert whole.stacked == (0,) and len(seen) == 2
    assert all(jax.tree.leaves(part) == [whole] for part in seen)
    assert layout.infer({"layer": {"kernel": params["layer"]["kernel"]}})["layer"]["kernel"].stacked == ()


@pytest.mark.parametrize("rule", ["scion", "lamb"])
def test_renaming_a_module_does_not_change_a_step(rule):
    shapes = {"query": {"kernel": (6, 2, 3)}, "out": {"kernel": (2, 3, 6)}, "Dense_0": {"kernel": (6, 4)}}
    new = {"query": "head", "out": "embed_proj", "Dense_0": "blocks"}  # in the same order
    trees = [normal(shapes, seed) for seed in (0, 1)]
    steps = []
    for names in (dict(zip(shapes, shapes, strict=True)), new):
        params, grads = ({names[key]: value for key, value in tree.items()} for tree in trees)
        tx = OPTIMIZERS[rule](0.1)
        steps.append(tx.update(grads, tx.init(params), params)[0])
    for name in shapes:
        np.testing.assert_allclose(steps[1][new[name]]["kernel"], steps[0][name]["kernel"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tie_head", [False, True])
@pytest.mark.parametrize(
    "size", [{"layers": 2, "context": 64}, {"layers": 3, "context": 8, "bias": True, "kv_heads": 1}]
)
def test_infer_reads_the_gpt_as_its_own_layout_says(tie_head, size):
    """Also where the context is as long as the MLP is wide."""
    config = ModelConfig(65, heads=4, width=16, tie_head=tie_head, **size)
    params = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    stated = [(axes.role, axes.stacked, axes.inputs, axes.outputs) for axes in jax.tree.leaves(model_layout(params))]
    assert jax.tree.leaves(layout.infer(params)) == [ParamLayout(*axes) for axes in stated]


def test_describe_prints_a_table_of_a_model_or_of_parameters():
    text = str(layout.describe(eqx.filter_eval_shape(Equinox)))
    assert (
        "head/weight" in text and text.splitlines()[0].split() == "parameter shape role stacked inputs outputs".split()
    )
    row = next(line for line in text.splitlines() if line.startswith("stack/weight"))
    assert re.split(r"  +", row) == ["stack/weight", "3 x 8 x 16", "matrix", "3", "16", "8"]
    given = {"w": ParamLayout("head", (), (1,), (0,))}
    assert layout.describe(abstract({"w": (3, 2)}), given).rows == (("w", (3, 2), given["w"]),)
    assert {role for role, *_ in sizes(Nnx()).values()} == {"matrix", "vector", "embedding", "head"}


def test_bad_entries_are_rejected():
    with pytest.raises(ValueError, match="unknown role 'tensor': choose from matrix, embedding, head, vector"):
        ParamLayout("tensor")
    with pytest.raises(ValueError, match="named exactly once, got stacked=\\(0,\\), inputs=\\(0,\\)"):
        ParamLayout("matrix", (0,), (0,), (1,))
    with pytest.raises(ValueError, match="named exactly once"):
        ParamLayout("matrix", (), (1,), (2,))


def test_a_layout_that_does_not_fit_names_the_leaf():
    params = {"dense": {"kernel": jnp.zeros((3, 2))}}
    with pytest.raises(ValueError, match=r"layout of dense/kernel is .* but the parameter has shape \(3, 2\)"):
        layout.resolve({"dense": {"kernel": ParamLayout("vector", (), (), (0,))}}, params)
    with pytest.raises(
        ValueError, match="layout's tree differs from the parameters': (pytree structure error|Dict key mismatch)"
    ):
        layout.resolve({"dense": {"bias": ParamLayout("vector")}}, params)


def test_masked_leaves_are_taken_out():
    entry = ParamLayout("vector", (), (), (0,))
    params = {"a": jnp.zeros(2), "b": optax.MaskedNode(), "c": None}
    for given in (None, {"a": entry, "b": entry, "c": entry}):
        resolved = layout.resolve(given, params)
        assert resolved["a"] == entry
        assert isinstance(resolved["b"], optax.MaskedNode)
        assert resolved["c"] is None


def test_per_copy_sees_one_copy_at_a_time():
    leaf = jnp.arange(24.0).reshape(2, 3, 4)
    normalized = layout.per_copy(lambda x: x / jnp.sum(x), ParamLayout("vector", (0, 2), (), (1,)))(leaf)
    np.testing.assert_allclose(normalized, leaf / jnp.sum(leaf, 1, keepdims=True), rtol=1e-6)


def test_roles_and_fans():
    tree = {"a": ParamLayout("head", (), (0,), (1, 2))}
    assert layout.roles(tree) == {"a": "head"}
    assert tree["a"].fans((8, 2, 3)) == (8, 6)
    assert tree["a"].ndim == 3
