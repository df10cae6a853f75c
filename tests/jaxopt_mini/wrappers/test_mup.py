"""`mup`: recorded runs of microsoft/mup's optimizers, the identity at the base, and the properties of a wrapper."""

import dataclasses
import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import step_law
from jaxopt_mini import (
    OPTIMIZERS,
    ParamLayout,
    adam,
    adamw,
    add_decayed_weights,
    apply_updates,
    chain,
    inject_hyperparams,
    masked,
    muon,
    partition,
    schedule_free_adamw,
    sgd,
    states,
)
from jaxopt_mini.tree import path_name
from jaxopt_mini.wrappers import REFUSED, STEP_SIZES, WRAPPERS, NoRule, multipliers, mup, scale_units, step_size
from minigpt_flax.train.config.run_config import default_of
from tests.cases import CASES
from tests.harness import LAYOUT, SHAPES, half_square, normal, run

GOLDEN = Path(__file__).parents[2] / "golden" / "mup"
PACKAGE = json.loads((GOLDEN / "package.json").read_text())["runs"]
MATRIX, HEAD = ParamLayout("matrix", (), (0,), (1,)), ParamLayout("head", (), (0,), (1,))
VECTOR, EMBEDDING = ParamLayout("vector", (), (), (0,)), ParamLayout("embedding", (), (0,), (1,))
QUICK = ("sgd", "adamw", "muon", "lamb", "schedule_free_adamw", "sophia")  # the other optimizers are slow tests
NETWORK = {
    "embed": {"embedding": EMBEDDING},
    "up": {"kernel": MATRIX, "bias": VECTOR},
    "down": {"kernel": MATRIX, "bias": VECTOR},
    "head": {"kernel": HEAD, "bias": VECTOR},
}


def package_optimizer(entry):
    h = entry["hyperparameters"]
    if "momentum" in h:  # its decay is added to the gradient
        return chain(add_decayed_weights(h.get("weight_decay", 0.0)), sgd(h["lr"], momentum=h["momentum"]))
    return adamw(h["lr"], b1=h["betas"][0], b2=h["betas"][1], weight_decay=h.get("weight_decay", 0.0))


@pytest.mark.parametrize("name", PACKAGE)
def test_the_optimizers_of_microsofts_package_are_reproduced(name):
    entry, recorded = PACKAGE[name], np.load(GOLDEN / f"{name}.npz")
    tree = lambda prefix, at: jax.tree.map_with_path(
        lambda path, _: jnp.asarray(recorded[f"{prefix}/{path_name(path)}"][at]), NETWORK
    )
    shape = lambda path, _: jax.ShapeDtypeStruct(entry["leaves"][path_name(path)]["base_shape"], "float32")
    base = jax.tree.map_with_path(shape, NETWORK)
    unscaled = entry["hyperparameters"].get("decoupled_wd", "unscaled" in name)
    params, ends = tree("params", 0), []
    factors = multipliers(params, base, layout=NETWORK, decay="unscaled" if unscaled else "independent")
    if "momentum" not in entry["hyperparameters"]:  # the package does not scale Adam's eps
        factors = factors._replace(gradient=jax.tree.map(lambda _: 1.0, params))
    tx = scale_units(package_optimizer(entry), factors)
    state, step = tx.init(params), jax.jit(tx.update)
    for t in range(12):
        updates, state = step(tree("grads", t), state, params)
        params = apply_updates(params, updates)
        ends.append(params)
    for row, t in ((1, 5), (2, 11)):
        chex.assert_trees_all_close(ends[t], tree("params", row), atol=1e-5, rtol=0)


def wide(times=2, layers=2):
    """The shapes of the harness with longer axes, except vocabulary and stack."""

    def one(path, shape, entry):
        first = entry.inputs if entry.role == "embedding" else entry.outputs if entry.role == "head" else ()
        fixed = {*first, *entry.stacked}
        grown = tuple(size if axis in fixed else size * times for axis, size in enumerate(shape))
        return tuple(size * layers // 2 if axis in entry.stacked else size for axis, size in enumerate(grown))

    return jax.tree.map_with_path(one, SHAPES, LAYOUT, is_leaf=lambda leaf: isinstance(leaf, tuple))


def abstract(shapes):
    as_array = lambda shape: jax.ShapeDtypeStruct(shape, "float32")
    return jax.tree.map(as_array, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in STEP_SIZES])
def test_around_the_base_it_is_the_identity_bit_for_bit(name):
    case = CASES[name]
    plain, params, grads = case.make(LAYOUT), normal(SHAPES, 0), normal(SHAPES, 1, 2)
    tx = mup(case.make, abstract(SHAPES), like=step_size(name, **case.keywords), layout=LAYOUT)
    runs = jax.jit(lambda p, g: [run(each, p, g, extra=case.extra) for each in (plain, tx)])
    (expected, state), (found, wrapped) = runs(params, grads)
    chex.assert_trees_all_equal(found, expected)
    chex.assert_trees_all_equal(wrapped.inner_state, state)


def test_every_optimizer_of_the_table_has_a_step_size():
    assert STEP_SIZES.keys() | REFUSED.keys() == OPTIMIZERS.keys()
    with pytest.raises(ValueError, match="'schedule_free_plus' have no rule for other widths"):
        step_size("schedule_free_plus")
    with pytest.raises(ValueError, match="'my_rule'.*choose from sgd"):
        step_size("my_rule")
    assert "mup" not in WRAPPERS  # the command line has no base to give


def test_a_stack_of_layers_is_updated_like_its_layers():
    stacked = {"w": ParamLayout("matrix", (0,), (1,), (2,)), "b": ParamLayout("vector", (0,), (), (1,))}
    single = {f"layer_{i}": {"w": MATRIX, "b": VECTOR} for i in range(4)}
    unstack = lambda tree: {f"layer_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(4)}
    params = normal({"w": (4, 6, 4), "b": (4, 4)}, 0)
    grads = normal({"w": (4, 6, 4), "b": (4, 4)}, 1, 3)
    base = abstract({"w": (2, 3, 2), "b": (2, 2)})
    layers = {f"layer_{i}": abstract({"w": (3, 2), "b": (2,)}) for i in range(4)}
    for alpha in (0.5, 1.0):
        tx = mup(adamw(0.1), base, layout=stacked, alpha=alpha)
        by_layer = mup(adamw(0.1), layers, layout=single, alpha=alpha, layers=2)
        one, _ = run(tx, params, grads)
        other, _ = run(by_layer, unstack(params), jax.vmap(unstack)(grads))
        chex.assert_trees_all_close(unstack(one), other, rtol=1e-6)


def test_the_factors_of_every_role():
    base = {"w": (8, 16), "e": (5, 8), "h": (8, 5), "b": (8,), "stack": (2, 8, 8)}
    model = {"w": (16, 64), "e": (5, 16), "h": (16, 5), "b": (16,), "stack": (8, 16, 16)}
    layout = {"w": MATRIX, "e": EMBEDDING, "h": HEAD, "b": VECTOR, "stack": ParamLayout("matrix", (0,), (1,), (2,))}
    of = lambda **how: multipliers(abstract(model), abstract(base), layout=layout, **how)
    found = of(alpha=0.5)
    assert found.gradient == {"w": 4, "e": 2, "h": 2, "b": 2, "stack": 4}
    assert found.update == {"w": 0.5, "e": 1, "h": 1, "b": 1, "stack": 0.25}
    assert found.parameter == {"w": 2, "e": 1, "h": 1, "b": 1, "stack": 2}
    assert of(decay="unscaled").parameter == dict.fromkeys(model, 1)
    assert of(decay="sqrt").parameter["w"] == pytest.approx(2**0.5)
    assert of(scaled_logits=False).update["h"] == 0.5 and of(scaled_logits=False).gradient["h"] == 1
    assert of(like="muon").update == {"w": pytest.approx(1.0), "e": 1, "h": 1, "b": 1, "stack": 1}
    assert of(like=step_size("muon", consistent_rms=0.2)).update["stack"] == pytest.approx(0.5**0.5)
    assert of(like=step_size("normuon", consistent_rms=0.2)) == of(like=step_size("muon", consistent_rms=0.2))
    assert of(like=step_size("muon", shape="spectral")).update == of(like="dion").update
    assert of(like="scion").update["h"] == 2
    assert of(like="lamb").parameter == pytest.approx({"w": 2**0.5, "e": 1, "h": 1, "b": 1, "stack": 2**0.5})
    narrow = multipliers(abstract(base), abstract(model), layout=layout)
    assert narrow.update["w"] == 2 and narrow.gradient["e"] == 0.5
    assert str(found).splitlines()[0].split() == ["parameter", "gradient", "parameter", "update"]
    assert "stack      4         2          0.25" in str(found)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"decay": "none"}, "unknown decay='none': choose from independent"),
        ({"alpha": 0.1}, "alpha must be from 0.5 to 1, got 0.1"),
        ({"like": "mine"}, "'mine'"),
        ({"like": "dog", "decay": "sqrt"}, "averages parameters"),
        ({"like": "soap"}, "like='soap' has a rule in blocks of the base's shapes: give a function"),
        ({"base": {"w": (2, 2)}}, "the base lacks b, which the model has"),
        ({"base": {"w": (2, 2), "b": (2,), "c": (2,)}}, "the base has c, which the model lacks"),
        ({"base": {"w": (2, 2, 2), "b": (2,)}}, r"w has the shape \(2, 2, 2\) in the base"),
    ],
    ids=str,
)
def test_mistakes_name_the_leaf_or_the_value(how, says):
    params = normal({"w": (4, 4), "b": (4,)}, 0)
    base = abstract(how.pop("base", {"w": (2, 2), "b": (2,)}))
    with pytest.raises(ValueError, match=says):
        mup(adam(0.1), base, **how).init(params)


def test_evaluation_parameters_are_those_of_the_model():
    """Scaling a schedule-free optimizer's units by hand gives the same averages."""
    params, grads = normal({"w": (4, 4)}, 0), normal({"w": (4, 4)}, 1, 5)
    base = abstract({"w": (2, 2)})
    tx = mup(schedule_free_adamw(0.1, weight_decay=0.0), base, like="schedule_free_adamw", layout={"w": MATRIX})
    found, state = run(tx, params, grads)
    plain = schedule_free_adamw(0.1, weight_decay=0.0)
    inside, inner = run(plain, jax.tree.map(lambda p: 2 * p, params), grads)
    expected = jax.tree.map(lambda p: p / 2, states.evaluation_params(inner, inside))
    chex.assert_trees_all_close(states.evaluation_params(state, found), expected, rtol=1e-5)
    assert states.evaluation_params(mup(adam(0.1), base).init(params), params) is params


def test_works_in_masks_and_groups_with_injected_numbers_and_optaxs_optimizers():
    params, grads = normal({"w": (4, 4), "b": (4,)}, 0), normal({"w": (4, 4), "b": (4,)}, 1, 3)
    base = abstract({"w": (2, 2), "b": (2,)})
    plain, _ = run(mup(adam(0.1), base), params, grads)
    grouped = partition({"a": mup(adam(0.1), base), "b": mup(adam(0.1), base)}, {"w": "a", "b": "b"})
    around = inject_hyperparams(lambda learning_rate: mup(adam(learning_rate), base))(0.1)
    inside = mup(inject_hyperparams(adam)(0.1), base)
    for tx in (grouped, around, inside, optax.chain(optax.identity(), mup(adam(0.1), base))):
        found, _ = jax.jit(lambda p, g, tx=tx: run(tx, p, g))(params, grads)
        chex.assert_trees_all_close(found, plain, rtol=1e-5)
    theirs, ours = (run(mup(each(0.1), base, like="sgd"), params, grads)[0] for each in (optax.sgd, sgd))
    chex.assert_trees_all_close(theirs, ours, rtol=1e-6)
    only, _ = run(masked(mup(adam(0.1), base), {"w": True, "b": False}), params, grads)
    chex.assert_trees_all_close(only["w"], plain["w"], rtol=1e-5)


def test_the_loss_that_an_optimizer_evaluates_has_the_gradient_that_it_sees():
    params, base, seen = normal({"w": (4, 4)}, 0), abstract({"w": (2, 2)}), {}

    def update(updates, state, params=None, *, loss_fn, **extra_args):
        seen.update(gradient=updates, of_loss=jax.grad(loss_fn)(params))
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = mup(inner, base)
    grads = jax.grad(half_square)(params)
    tx.update(grads, tx.init(params), params, loss_fn=half_square)
    chex.assert_trees_all_close(seen["of_loss"], seen["gradient"], rtol=1e-5)


@pytest.mark.parametrize("inner", [adamw(0.1), muon(0.1, layout=LAYOUT)], ids=["adamw", "muon"])
def test_a_state_keeps_its_structure_and_takes_abstract_parameters(inner):
    base = abstract(SHAPES)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "bfloat16"), abstract(wide()))
    tx = mup(inner, base, layout=LAYOUT)
    state = jax.eval_shape(tx.init, shapes)
    updates, new = jax.eval_shape(tx.update, shapes, state, shapes)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, shapes)
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(shapes), state)


ADAPTIVE = [name for name in STEP_SIZES if step_size(name).adaptive]  # these choose one factor for all parameters
LAW_QUICK = ("sgd", "adamw", "lion", "lamb")
BOUND = 0.2
HEADS = {"soap": 0.25, "kl_soap": 0.35}  # part of what blocks of a head add has unrelated signs


def is_within_the_bound(name, slopes):
    bounds = {"head": HEADS.get(name, BOUND)}
    return all(abs(slope) <= bounds.get(leaf, BOUND) for leaf, slope in slopes.items())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in LAW_QUICK)) for n in STEP_SIZES if n not in ADAPTIVE]
)
def test_steps_of_the_default_learning_rate_add_as_much_at_every_width(name):
    assert is_within_the_bound(name, step_law.slopes(step_law.spec_of(name)))


@pytest.mark.parametrize(
    "name, keywords, shape, felt",
    [
        ("galore", {"rank": 16}, (64, 64), 32),  # half of Adam's
        ("galore", {"rank": 16}, (64, 256), 16),  # projects the longer side
        ("galore", {"rank": 16, "smaller_side": True}, (64, 256), 32),
        ("apollo", {"rank": 16}, (64, 256), 32),
        ("ldadam", {"rank": 16, "side": "outputs"}, (64, 256), 16),
        ("ldadam", {"rank": 128}, (64, 64), 64),
        ("shampoo", {"graft": False}, (64, 16), 2),
        ("shampoo", {"graft": "sgd"}, (64, 16), 64),
        ("shampoo", {"graft": False, "block_size": 16}, (64, 64), 4),
        ("shampoo", {"graft": False, "exponent": 0.5}, (64, 16), 2 / 32),
        ("polargrad", {}, (64, 16), 64),
        ("muon", {"adaptive": True}, (64, 16), 64),
        ("muon", {"adaptive": True, "shape": "spectral"}, (64, 16), 32),
        ("adamuon", {"moment": "before", "sign": False, "consistent_rms": None}, (64, 16), 2),
        ("adamuon", {"consistent_rms": None}, (64, 16), 16),
        ("mars", {"form": "shampoo"}, (64, 16), 2),
        ("mars", {"form": "lion"}, (64, 16), 64),
    ],
)
def test_step_sizes_by_keywords(name, keywords, shape, felt):
    assert step_size(name, **keywords).felt("matrix", *shape) == pytest.approx(felt)


def test_steps_of_other_roles_by_keywords():
    assert step_size("mars", form="shampoo").felt("head", 64, 4) == 4
    assert step_size("shampoo", graft=False, precondition_vectors=True).felt("vector", 1, 64) == 1 / 8
    assert step_size("lars").relative and not step_size("lars", trust_ratio_mask=False).relative


@pytest.mark.parametrize(
    "name, keywords, says",
    [
        ("muon", {"min_ratio": 0.35}, "'muon' with min_ratio .* a share of the weights"),
        ("normuon", {"normalize_after": "frobenius"}, "'normuon' with normalize_after .* rank of the gradients"),
        ("muon", {"adaptive": True, "normalize": "outputs"}, "adaptive .* normalize"),
        ("muon", {"rest": sgd(0.1)}, "another optimizer's"),
        ("lamb", {"max_norm": 10.0}, "norm of the weights"),
        ("dog", {"per_tensor": True}, "a factor for each tensor"),
        ("galore", {"base_optimizer": sgd(0.1)}, "base optimizer"),
        ("adamuon", {"sign": False}, "without sign .* rank of the gradients"),
        ("shampoo", {"graft": False, "kl": True}, "without grafting and with kl"),
        ("shampoo", {"graft": False, "merge_size": 64}, "without grafting and with merge_size"),
    ],
)
def test_keywords_without_a_rule_are_refused(name, keywords, says):
    with pytest.raises(NoRule, match=says):
        step_size(name, **keywords)
    assert step_size(name, **dict.fromkeys(keywords)) is not None or name == "shampoo"


def rules_of_keywords(name):
    """The alternatives of an optimizer that have a rule, except learning rates and decays."""
    for keywords in CASES[name].alternatives():
        if any("learning_rate" in key or "weight_decay" in key for key in keywords):
            continue
        try:
            step_size(name, **keywords)
        except NoRule:
            continue
        yield keywords


@pytest.mark.slow
@pytest.mark.parametrize("name", STEP_SIZES)
def test_every_keyword_adds_as_much_at_every_width_or_is_refused(name):
    spec = step_law.spec_of(name)
    given = spec.keywords | ({"precondition_frequency": 1} if name == "shampoo" else {})
    for keywords in rules_of_keywords(name):
        slopes = step_law.slopes(dataclasses.replace(spec, keywords=given | keywords))
        adaptive = name in ADAPTIVE and beyond_the_common_factor(slopes) <= BOUND
        assert adaptive or is_within_the_bound(name, slopes), keywords


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTIVE)
def test_an_adaptive_factor_is_the_same_for_all_parameters(name):
    assert beyond_the_common_factor(step_law.slopes(step_law.spec_of(name))) <= BOUND


def beyond_the_common_factor(slopes):
    common = np.mean(list(slopes.values()))
    return max(abs(slope - common) for slope in slopes.values())


def test_the_law_notices_a_missing_rule():
    assert max(step_law.slopes(default_of("lion"), scaled=False).values()) > 0.5


def test_the_recorded_table_is_within_the_bound():
    recorded = json.loads(step_law.OUT.read_text())
    assert recorded.keys() == STEP_SIZES.keys()
    for name, ways in recorded.items():
        slopes = ways["mup"]
        adaptive = name in ADAPTIVE and beyond_the_common_factor(slopes) <= BOUND
        assert adaptive or is_within_the_bound(name, slopes), name
