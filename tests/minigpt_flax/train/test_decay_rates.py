"""The weight decay that a run's summary states, against the shrinkage of weights trained with and without it."""

import math

import jax
import jax.numpy as jnp
import pytest

from jaxopt_mini import OPTIMIZERS, WRAPPERS, ParamLayout
from minigpt_flax.console.summary import summary
from minigpt_flax.spec import Spec, parse
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.decay_rates import _decays, decay_rates, without_decay
from minigpt_flax.train.optimizer import build_optimizer, updates_of

LAYOUT = {
    "matrix": ParamLayout("matrix", inputs=(0,), outputs=(1,)),
    "vector": ParamLayout("vector", outputs=(0,)),
}
SHAPES = {"matrix": jax.ShapeDtypeStruct((6, 4), jnp.float32), "vector": jax.ShapeDtypeStruct((6,), jnp.float32)}
DECAY, RATE, UPDATES = 0.5, 1e-3, 50
UNEVEN = {  # the decay is no constant multiple of the learning rate: why
    "adadelta": "an L2 penalty inside the division",
    "adafactor": "decay without the learning rate",
    "dadapt_adamw": "times an estimated step size",
    "dog": "an L2 penalty, times an estimated step size",
    "dowg": "an L2 penalty, times an estimated step size",
    "lamb": "times the trust ratio",
    "lars": "times the trust ratio",
    "novograd": "decay inside the moment",
    "prodigy": "times an estimated step size",
    "schedule_free_adamw": "the weights are an average",
    "schedule_free_sgd": "an L2 penalty, and the weights are an average",
    "cautious": "masked with the update",
    "cautious_decay": "only where the update doesn't lead away from zero",
    "hyperball": "the norm is fixed",
    "lookahead": "the slow weights take a part of it",
    "schedule_free": "the weights are an average",
}
DECAYING = [name for name in OPTIMIZERS if _decays("optimizer", Spec(name))]


def configured(opt, *wrappers, **more):
    """A run of this optimizer with weight decay ``DECAY``."""
    name = next(iter(_decays("optimizer", Spec(opt))), None)
    spec = Spec(opt, keywords={name: DECAY} if name else {})
    return resolve({"opt": spec, "wrap": tuple(parse(w, "wrapper") for w in wrappers), **more}, "nano")


def trained(config, seed=0):
    """Weights after training on random gradients."""
    _, tx = build_optimizer(config, LAYOUT, [lambda count: jnp.float32(RATE)])
    keys = jax.random.split(jax.random.key(seed), 2)
    tree = lambda key: {
        name: jax.random.normal(jax.random.fold_in(key, i), leaf.shape) for i, (name, leaf) in enumerate(SHAPES.items())
    }

    def step(carry, key):
        params, state = carry
        grads = tree(key)
        loss = lambda params: jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, grads, params))
        updates, state = tx.update(grads, state, params, value=jnp.float32(1), key=key, loss_fn=loss)
        return (jax.tree.map(jnp.add, params, updates), state), None

    params = jax.tree.map(lambda leaf: 10 * leaf, tree(keys[0]))
    calls = UPDATES * math.ceil(config.steps / updates_of(config))
    return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(keys[1], calls))[0][0]


def shrinkage(config):
    """The fraction that decay has taken off each tensor, in a step at learning rate 1."""
    with_decay, without = (jax.jit(trained, static_argnums=0)(each) for each in (config, without_decay(config)))
    left = jax.tree.map(lambda p, q: float(jnp.vdot(p, q) / jnp.vdot(q, q)), with_decay, without)
    return {name: -math.log(max(fraction, 1e-9)) / (RATE * UPDATES) for name, fraction in left.items()}


def check(config, is_even):
    """What is stated is true; NaN only for the matrix of an optimizer whose decay is known to vary."""
    stated, true = decay_rates(config, LAYOUT, SHAPES), shrinkage(config)
    assert math.isnan(stated["matrix"]) != is_even
    for name, fraction in stated.items():
        if not math.isnan(fraction):
            assert true[name] == pytest.approx(fraction, rel=0.05, abs=1e-3), name


QUICK = ("adamw", "soap", "muon", "adafactor", "lamb", "schedule_free_adamw")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in DECAYING]
)
def test_the_stated_decay_is_the_shrinkage_of_the_weights(name):
    check(configured(name), is_even=name not in UNEVEN)


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", DECAYING)
def test_the_stated_decay_inside_a_wrapper_is_the_shrinkage_of_the_weights(name, wrapper):
    check(configured(name, wrapper), is_even=not {name, wrapper} & set(UNEVEN))


SAID = {  # flags -> the line of the summary
    ("soap(weight_decay=0.1)",): "lr x 0.1 on",
    ("adamw(weight_decay=0.1)", "cautious"): "not a constant multiple of lr on",
    ("adamw(weight_decay=0.0)", "hyperball"): "none: this optimizer has no weight decay",
    ("muon(adam_weight_decay=0.2)",): "lr x 0.2 on",
}


@pytest.mark.parametrize("flags", SAID, ids=" ".join)
def test_the_summary_states_the_decay(flags):
    opt, *wrappers = flags
    sizes = {"layers": 1, "width": 16, "heads": 1, "context": 8}
    given = {"opt": parse(opt, "optimizer"), "wrap": tuple(parse(w, "wrapper") for w in wrappers), **sizes}
    assert dict(summary(build(resolve(given, "nano"))))["decay"].startswith(SAID[flags])


def test_no_decay_is_stated_for_code_whose_decay_nothing_switches_off(tmp_path):
    (tmp_path / "mine.py").write_text("import optax\n\n\ndef mine(lr):\n    return optax.adamw(lr)\n")
    config = resolve({"opt": parse(f"{tmp_path}/mine.py:mine", "optimizer")}, "nano")
    assert decay_rates(config, LAYOUT, SHAPES) is None


def test_the_first_updates_of_some_calls_only_accumulate():
    config = configured("adamw", "accumulate(steps=3)")
    assert decay_rates(config, LAYOUT, SHAPES) == pytest.approx({"matrix": DECAY, "vector": 0.0})


STACK = {"w": ParamLayout("matrix", (0,), (1,), (2,))}


@pytest.mark.parametrize(
    ("group", "rate"),
    [("w[0:2]=frozen", 0.1), ("w[0:2]=adamw(weight_decay=0.1, lr=0.5)", 0.1), ("w[2]=adam", math.nan)],
)
def test_layers_of_a_stack_are_measured_apart(group, rate):
    config = resolve({"opt": "adamw(weight_decay=0.1)", "layers": 4, "group": group}, "nano")
    found = decay_rates(config, STACK, {"w": jax.ShapeDtypeStruct((4, 6, 5), jnp.float32)})
    assert found["w"] == pytest.approx(rate, rel=0.02, nan_ok=True)
