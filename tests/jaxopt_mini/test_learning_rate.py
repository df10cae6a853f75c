"""``states.learning_rate`` returns what the next step applies, for every optimizer and under every wrapper."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import (
    OPTIMIZERS,
    WRAPPERS,
    accumulate,
    adamw,
    chain,
    clip_by_norm,
    inject_hyperparams,
    masked,
    partition,
    sgd,
    skip_nonfinite,
    skip_spikes,
    states,
)
from tests.cases import CASES
from tests.cases_wrappers import INNERS, WRAPPED
from tests.harness import LAYOUT, SHAPES, half_square, normal, permissive

RATES = jnp.array([0.1, 0.07, 0.05, 0.03, 0.02, 0.01], jnp.float32)
KEYWORDS = {  # by default the weights of the first two follow the schedule a step ahead, and the third starts late
    "schedule_free_sgd": {"rate_ahead": False},
    "schedule_free_adamw": {"rate_ahead": False},
    "schedule_free_radam": {"silent": False},
}
CALLS = 4


def schedule(count):
    return RATES[count]


def check_rates(make, extra):
    """Every step equals a step with the constant rate ``states.learning_rate``, and with no other rate."""

    @jax.jit
    def step(rate, grads, state, params, t):
        tx = make(lambda count: jnp.where(jnp.isnan(rate), schedule(count), rate))
        return tx.update(grads, state, params, **extra(half_square, params, t))

    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, CALLS)
    state, apart = make(schedule).init(params), 0.0
    for t in range(CALLS):
        inputs = (jax.tree.map(lambda leaf, t=t: leaf[t], grads), state, params, jnp.asarray(t))
        rate = states.learning_rate(state, schedule)
        assert rate is not None
        new, state = step(jnp.float32(jnp.nan), *inputs)
        (same, _), (other, _) = step(rate, *inputs), step(2 * rate, *inputs)
        jax.tree.map(np.testing.assert_array_equal, new, same)
        apart += max(jnp.abs(a - b).max() for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(other), strict=True))
        params = optax.apply_updates(params, new)
    assert apart > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_rate_is_the_one_that_an_optimizer_applies(name):
    keywords = KEYWORDS.get(name, {})
    check_rates(lambda rate: CASES[name].make(LAYOUT, **keywords, learning_rate=rate), CASES[name].extra)


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("name", WRAPPERS)
def test_the_rate_is_the_one_that_is_applied_under_a_wrapper(name, inner):
    case = WRAPPED[name]
    check_rates(lambda rate: case.wrapper(INNERS[inner](rate), **case.keywords), case.extra)


def rates(tx, grads, extra=lambda t: {}):
    """The rates before each call, under jit."""
    params, found = {"w": jnp.zeros(2)}, []
    state = tx.init(params)
    for t, grad in enumerate(grads):
        found.append(jax.jit(lambda state: states.learning_rate(state, schedule))(state))
        _, state = tx.update({"w": jnp.full(2, grad)}, state, params, **extra(t))
    return [int(jnp.argmax(RATES == rate)) for rate in found]


@pytest.mark.parametrize(
    ("make", "counts"),
    {
        "every call": (lambda inner: chain(clip_by_norm(1.0), inner), [0, 1, 2, 3]),
        "accumulated": (lambda inner: accumulate(inner, steps=2), [0, 0, 1, 1]),
        "skipped": (skip_nonfinite, [0, 1, 1, 2]),
        "both": (lambda inner: skip_nonfinite(accumulate(inner, steps=2)), [0, 0, 0, 1]),
        "spikes": (lambda inner: skip_spikes(inner, window=2), [0, 1, 1, 2]),
        "some leaves": (lambda inner: masked(inner, {"w": True}), [0, 1, 2, 3]),
        "groups": (lambda inner: partition({"a": skip_nonfinite(inner)}, {"w": "a"}), [0, 1, 1, 2]),
        "Optax's": (lambda inner: optax.MultiSteps(inner, 2).gradient_transformation(), [0, 0, 1, 1]),
    }.values(),
)
def test_the_count_is_the_optimizers_own(make, counts):
    with permissive():
        assert rates(make(adamw(schedule)), [1.0, jnp.nan, 1.0, 1.0]) == counts


def test_each_group_has_its_own_count():
    tx = partition({"a": accumulate(sgd(schedule), steps=2), "b": sgd(schedule)}, {"x": "a", "y": "b"})
    params = {"x": jnp.zeros(()), "y": jnp.zeros(())}
    _, state = tx.update(params, tx.init(params), params)
    found = [states.learning_rate(state.inner_states[label], schedule) for label in ("a", "b")]
    assert found == [RATES[0], RATES[1]]


@pytest.mark.parametrize("inject", [inject_hyperparams, optax.inject_hyperparams])
def test_an_injected_rate_is_read_from_the_state(inject):
    tx, params = chain(clip_by_norm(1.0), inject(sgd)(0.5)), {"w": jnp.zeros(2)}
    state = tx.init(params)
    state[1].hyperparams["learning_rate"] = jnp.float32(0.25)
    assert states.learning_rate(state, None) == 0.25
    with permissive():
        scheduled = inject(sgd)(schedule)
        _, after = scheduled.update(params, scheduled.init(params), params)
    assert states.learning_rate(after, schedule) == RATES[1]


def test_without_a_count_only_a_number_tells_the_rate():
    state = sgd(0.1).init({"w": jnp.zeros(2)})
    assert states.learning_rate(state, 0.1) == 0.1
    assert states.learning_rate(state, None) is None and states.learning_rate(state, schedule) is None
