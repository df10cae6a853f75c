"""``--parametrization``: the model and the optimizer of a run, its plan, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import ParamLayout
from jaxopt_mini.tree import by_name
from minigpt_flax.console.summary import summary
from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import init_params
from minigpt_flax.model.layout import layout as model_layout
from minigpt_flax.train.base_model import base_of, initial_std, parametrized, shapes_of
from minigpt_flax.train.build import build, model_config
from minigpt_flax.train.config.run_config import RunConfig, resolve
from minigpt_flax.train.multipliers import factors_of
from minigpt_flax.train.optimizer import build_optimizer, check_one_step

SMALL = {"width": 64, "layers": 4, "heads": 4, "context": 8, "base_width": 16}


def config(parametrization="mup", **fields):
    return RunConfig(**{**SMALL, "parametrization": parametrization, **fields})


def layout_of(run):
    axes = model_layout(shapes_of(run)[0])
    return jax.tree.map(lambda a: ParamLayout(a.role, a.stacked, a.inputs, a.outputs), axes)


def factors(run):
    return [by_name(tree) for tree in factors_of(run, layout_of(run))]


def test_a_base_of_the_same_sizes_is_the_standard_model_and_optimizer():
    same = config(base_width=64, base_layers=4)
    plain = RunConfig(**{name: value for name, value in SMALL.items() if name != "base_width"})
    ours, standard = model_config(same, 65), model_config(plain, 65)
    assert dataclasses.replace(ours, init_width=None, init_layers=None) == standard
    key = jax.random.key(0)
    jax.tree.map(np.testing.assert_array_equal, init_params(ours, key), init_params(standard, key))
    assert {factor for column in factors(same) for factor in column.values()} == {1.0}
    assert factors_of(plain, layout_of(plain)) is None


def test_the_models_numbers():
    model = model_config(config(), 65)
    assert (model.logit_scale, model.residual_scale, model.init_width, model.init_layers) == (0.25, 1.0, 16, 4)
    assert model.attention_scale is None
    deep = model_config(config("completep", base_layers=2), 65)
    assert (deep.residual_scale, deep.init_layers) == (0.5, 2)
    assert config("completep").base_layers == 4 and config(base_width=None).base_width == 128


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({"base_heads": 4}, 4**-0.5 * 4 / 16),
        ({"base_heads": 4, "attention_scale": 0.3}, 0.3 * 4 / 16),
        ({"base_heads": 4, "qk_norm": True}, 4**-0.5),
        ({"attention_scale": 0.3}, 0.3),
    ],
    ids=str,
)
def test_attention_scores_where_the_heads_grow(fields, scale):
    assert model_config(config(**fields), 65).attention_scale == pytest.approx(scale)


def test_the_base_keeps_the_proportions():
    run = config(kv_heads=2, heads=8, hidden=192)
    base = base_of(run, ModelConfig(vocab_size=65, width=64, heads=8, kv_heads=2, hidden=192))
    assert (base.heads, base.kv_heads, base.hidden) == (2, 2, 48)
    assert base_of(config(base_heads=1), ModelConfig(vocab_size=65, width=64, heads=4)).heads == 1


def test_each_group_has_the_rule_of_its_optimizer():
    run = config(opt="muon", group=("embedding=sgd",), tie_head=False)
    _, parameter, update = factors(run)
    assert update["blocks/mlp/up/kernel"] == pytest.approx(1) and parameter["blocks/mlp/up/kernel"] == pytest.approx(1)
    assert update["head/kernel"] == 1
    assert factors(config())[2]["blocks/mlp/up/kernel"] == 0.25
    assert factors(config("mup(decay='unscaled')"))[1]["blocks/mlp/up/kernel"] == 1


def test_layers_of_one_parameter_need_one_rule():
    frozen = factors(config(opt="muon", group=("blocks[0:2]/mlp/*=frozen",)))
    assert frozen[2]["blocks/mlp/up/kernel"] == pytest.approx(1)
    with pytest.raises(UserError, match="the optimizers of blocks/mlp/.*/kernel's layers grow differently"):
        factors(config(opt="muon", group=("blocks[0:2]/mlp/*=adamw",)))


@pytest.mark.parametrize("opt", ["soap(precondition_frequency=1)", "soap(b1=[(0, 0.9), (4, 0.95)])"])
def test_an_optimizer_with_a_rule_in_blocks_has_the_states_of_the_base(opt):
    run = config(opt=opt, group=("vector=frozen",), lr=0.1, schedule="constant")
    shapes, layout = shapes_of(run)[0], layout_of(run)
    state = jax.eval_shape(build_optimizer(run, layout)[1].init, shapes)
    sides = {leaf.shape[-1] for leaf in jax.tree.leaves(state) if leaf.ndim > 2 and leaf.shape[-1] == leaf.shape[-2]}
    assert max(sides) == 64  # four times the width of the base; without blocks, 256
    grads = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    check_one_step(run, 0.1, build_optimizer(run, layout)[1], grads)


def test_the_plan_says_what_runs_in_blocks():
    sizes = {"width": 16, "layers": 1, "heads": 2, "context": 8, "base_width": 8, "parametrization": "mup"}
    text = lambda **more: dict(summary(build(resolve({**sizes, **more}, "nano"))))["transfer"].splitlines()
    assert text(opt="soap", group="vector=frozen")[2] == "soap: in blocks of the base's shapes"
    assert text(opt="muon")[2].startswith("role")


def test_blocks_must_divide_the_model():
    run = config(opt="soap", width=40, heads=5)
    with pytest.raises(UserError, match=r"kernel .*can't be divided into blocks of .* must be a multiple"):
        check_one_step(run, 0.1, build_optimizer(run, layout_of(run))[1], shapes_of(run)[0])


def test_clipping_sees_the_gradients_of_the_model():
    run = config(clip="clip_by_norm(1.0)", opt="sgd(momentum=None)", lr=1.0, schedule="constant")
    shapes, layout = shapes_of(run)[0], layout_of(run)
    grads = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    _, tx = build_optimizer(run, layout)
    updates = by_name(tx.update(grads, tx.init(grads), grads)[0])
    norm = sum(leaf.size for leaf in jax.tree.leaves(shapes)) ** 0.5
    assert updates["blocks/attention/query/kernel"].max() == pytest.approx(-1 / norm, rel=1e-4)
    assert updates["token_embedding/embedding"].max() == pytest.approx(-4 / norm, rel=1e-4)


def test_initial_standard_deviations():
    model = model_config(config("completep", base_layers=2), 65)
    found = {name: initial_std(model, name, leaf.shape) for name, leaf in by_name(shapes_of(config())[0]).items()}
    assert found["blocks/mlp/up/kernel"] == 0.01 and found["blocks/mlp/down/kernel"] == 0.005
    assert found["token_embedding/embedding"] == 0.02 and found["final_norm/scale"] is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"base_width": 20}, "--base-width 20: the base would have 1.25 as its --heads"),
        ({"base_width": 20, "base_heads": 3}, "the base of --base-width 20 is impossible: heads=3 does not divide"),
        ({"base_width": 16, "hidden": 66}, "the base would have 16.5 as its --hidden"),
        ({"parametrization": "standard"}, "--base-width 16 is for --parametrization mup or completep"),
        ({"parametrization": "mop"}, "no parametrization is called 'mop'"),
        ({"parametrization": "mup(gamma=1)"}, "has no keyword 'gamma'"),
        ({"parametrization": "mup(alpha=0.2)"}, "alpha must be from 0.5 to 1, got 0.2"),
        ({"parametrization": "mup(decay='half')"}, "unknown decay='half'"),
        (
            {"opt": "schedule_free_plus"},
            "the steps of 'schedule_free_plus' have no rule for other widths: it estimates",
        ),
        ({"opt": "optax:adam", "parametrization": "mup(like='soap')"}, "'optax:adam' grow with the width"),
        ({"opt": "muon(min_ratio=0.35)"}, "the steps of 'muon' with min_ratio have no rule for other widths: they are"),
        ({"opt": "optax:adam"}, "'optax:adam' grow with the width; name one of --list"),
        ({"wrap": ("hyperball",)}, "doesn't cover --wrap hyperball"),
    ],
    ids=str,
)
def test_mistakes_end_in_one_line(fields, says):
    with pytest.raises(UserError, match=says) as error:
        run = config(**fields)
        parametrized(run, ModelConfig(vocab_size=65, width=64, layers=4, heads=4, hidden=run.hidden))
        factors_of(run, layout_of(run))
    assert "\n" not in str(error.value)


def test_an_external_optimizer_may_name_one_that_it_grows_like():
    assert factors(config("mup(like='muon')", opt="my.module:factory"))[2]["blocks/mlp/up/kernel"] == pytest.approx(1)
