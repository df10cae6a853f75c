"""Probes that evaluate the loss again, against closed forms: a known covariance, dense eigenvalues, plain steps."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import chain, clip_by_norm, sgd
from minigpt_flax.errors import UserError
from minigpt_flax.train.build import build, loss_sum
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.curvature_probes import largest_eigenvalue, noise, noise_of, sharpness
from minigpt_flax.train.probe_wrappers import count_clips, remember_last_update
from minigpt_flax.train.probes import clip, cosine
from minigpt_flax.train.state import StepView
from minigpt_flax.train.step import _mean_loss
from tests.minigpt_flax.training import TINY

LENGTH, WIDTH = 5, 64  # tokens of a sequence, entries of the parameters


def view(batch, loss_of, params=None, step=0):
    params = jnp.zeros(WIDTH) if params is None else params
    return StepView(jnp.int32(step), params, None, None, None, None, None, jnp.float32(1), batch, loss_of)


@jax.jit
def _noise_of(batch, points, mean):
    """Of a loss whose gradient on a sequence is the mean of points around a mean, drawn for its tokens."""
    loss_of = lambda params, sequences, part: (points[sequences[:, :-1]].mean((0, 1)) + mean) @ params
    return noise_of(view(batch, loss_of))


def test_noise_is_that_of_a_known_covariance():
    rng = np.random.default_rng(0)
    points = rng.normal(0, 0.5, (4096, WIDTH))
    points -= points.mean(0)
    mean = np.full(WIDTH, 0.1)
    found = [
        _noise_of(jnp.asarray(rng.integers(0, 4096, (16, LENGTH + 1))), jnp.float32(points), jnp.float32(mean))
        for _ in range(400)
    ]
    spread, signal = (np.array([float(each[f"noise/{name}"]) for each in found]) for name in ("spread", "signal"))
    for measured, true in ((spread, points.var(0).sum()), (signal, mean @ mean)):
        assert abs(measured.mean() - true) < 4 * measured.std() / np.sqrt(len(found))
    assert float(found[0]["noise/scale"]) == pytest.approx(spread[0] / signal[0], rel=1e-4)


def test_the_largest_eigenvalue_is_the_dense_one():
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    values = np.concatenate([np.linspace(-2, 3, 39), [7.0]])
    matrix = jnp.float32(basis * values @ basis.T)
    start = {"a": jnp.ones((5, 4)), "b": jnp.ones(20)}
    flat = lambda x: jnp.concatenate([x["a"].ravel(), x["b"]])

    def product(x):
        image = matrix @ flat(x)
        return {"a": image[:20].reshape(5, 4), "b": image[20:]}

    found = [float(largest_eigenvalue(product, start, depth)) for depth in (2, 12, 30)]
    assert found[0] <= found[1] <= 7 + 1e-4  # it comes from below
    np.testing.assert_allclose(found[1:], 7.0, rtol=1e-3)  # and rounding doesn't spoil a long recurrence


@pytest.mark.slow
def test_sharpness_is_that_of_the_models_dense_hessian():
    given = {name.replace("-", "_"): value for name, value in TINY.items() if name not in ("preset", "steps")}
    given |= {"width": 8, "context": 4, "data": str(TINY["data"]), "mesh": "data=1"}
    run = build(resolve(given, "nano"))
    params, batch = run.draw(jax.random.key(0)), jnp.asarray(run.batches(0))
    from minigpt_flax.train.build import loss_sum

    def loss_of(params, sequences):
        total, count = loss_sum(run.model)(params, sequences[:, :-1], sequences[:, 1:], jax.random.key(0))
        return total / count

    flat, unravel = jax.flatten_util.ravel_pytree(params)
    slope = jax.grad(lambda x: loss_of(unravel(x), batch[:2]))
    dense = jax.jit(lambda rows: jax.lax.map(lambda v: jax.vjp(slope, flat)[1](v)[0], rows))(jnp.eye(flat.size))
    top = np.linalg.eigvalsh(np.asarray(dense, np.float64))[-1]
    found = jax.jit(lambda p: sharpness(view(batch, loss_of, p), sequences=2, depth=25))(params)["sharpness"]
    assert float(found) == pytest.approx(top, rel=1e-3)


@pytest.mark.parametrize("top", [0.0, 3.0, -1.0, 2e30, 2e-30])
@pytest.mark.parametrize("distinct", [1, 2])
def test_an_exhausted_krylov_space_ends_the_recurrence(top, distinct):
    values = jnp.float32(top - abs(top) * (np.arange(60) % distinct))
    start = jnp.sign(jax.random.normal(jax.random.key(0), (60,)))
    found = float(largest_eigenvalue(lambda v: values * v, start, 8))
    assert found == pytest.approx(top, rel=1e-5, abs=0)


def test_every_part_has_its_own_dropout_mask():
    """Each token's gradient is the same, so that all noise comes from the masks."""
    drop = lambda part: jax.random.bernoulli(jax.random.fold_in(jax.random.key(0), part), 0.5, (WIDTH,))
    loss_of = lambda params, sequences, part: params @ drop(part).astype(jnp.float32)
    found = noise_of(view(jnp.zeros((4, LENGTH + 1), jnp.int32), loss_of))
    assert float(found["noise/spread"]) == pytest.approx(LENGTH * WIDTH / 4, rel=0.3)


def test_the_loss_of_a_step_has_a_mask_for_each_part():
    loss_of = _mean_loss(lambda params, inputs, targets, key: (jax.random.uniform(key), 1.0), jax.random.key(0), None)
    drawn = [float(loss_of(None, jnp.zeros((1, 2), jnp.int32), part)) for part in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_between_two_measurements_the_probe_is_nan():
    loss_of = lambda params, sequences: jnp.sum(params**2)
    measure = jax.jit(lambda step: sharpness(view(jnp.zeros((2, 3), jnp.int32), loss_of, step=step), every=10, depth=2))
    found = {step: float(measure(jnp.int32(step))["sharpness"]) for step in (0, 1, 8, 9, 10, 19)}
    assert {step for step, value in found.items() if np.isfinite(value)} == {0, 9, 19}
    assert found[9] == pytest.approx(2.0)


def test_the_cosine_is_that_of_two_successive_updates():
    tx = remember_last_update(sgd(0.5))
    params = {"w": jnp.zeros(3)}
    state, grads = tx.init(params), [jnp.array(g, jnp.float32) for g in ([1, 0, 0], [1, 1, 0], [-1, -1, 0])]
    found = []
    for grad in grads:
        before, (_, state) = state, tx.update({"w": grad}, state, params)
        found.append(float(cosine(view(None, None)._replace(last_state=before, opt_state=state))["update_cosine"]))
    np.testing.assert_allclose(found, [np.nan, np.sqrt(0.5), -1.0], rtol=1e-6)
    unseen = tx.update({"w": grads[0]}, state, params, observed=False)[1]
    np.testing.assert_array_equal(unseen.last_update["w"], state.last_update["w"])


def test_clips_are_counted_and_nothing_else_changes():
    inner = chain(clip_by_norm(1.0), sgd(1.0))
    tx, params = count_clips(inner), {"w": jnp.zeros(2)}
    state, plain = tx.init(params), inner.init(params)
    for size in (0.5, 2.0, 0.9, 3.0):
        grad = {"w": jnp.array([size, 0.0], jnp.float32)}
        updates, state = tx.update(grad, state, params)
        expected, plain = inner.update(grad, plain, params)
        np.testing.assert_array_equal(updates["w"], expected["w"])
    seen = clip(view(None, None, step=3)._replace(opt_state=state))
    assert (float(seen["clip/rate"]), float(seen["clip/clipped"])) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sharpness(every=0)", "every must be at least 1, got 0"),
        ("sharpness(depth=0)", "depth must be at least 1"),
        ("sharpness(often=3)", "has no keyword 'often'"),
        ("noise(every=-1)", "every must be at least 1, got -1"),
        ("noises", "did you mean 'noise'"),
    ],
)
def test_a_wrong_spec_of_a_probe_is_refused(spec, message):
    given = {name.replace("-", "_"): value for name, value in TINY.items() if name not in ("preset", "data")}
    with pytest.raises(UserError, match=message):
        build(resolve({**given, "data": str(TINY["data"]), "probe": (spec,)}, "nano"))


@pytest.mark.parametrize(
    "ways",
    [
        {},
        pytest.param({"mesh": "data=2"}, marks=pytest.mark.slow),
        pytest.param({"parallel": "pmap", "mesh": "data=2"}, marks=pytest.mark.slow),
    ],
)
def test_the_step_with_probes_is_the_step_and_measures_itself(ways):
    given = {name.replace("-", "_"): value for name, value in TINY.items() if name not in ("preset", "data")}
    specs = ("noise(every=3)", "sharpness(every=4)", "ratios")
    run = build(resolve({**given, "data": str(TINY["data"]), "probe": specs, **ways}, "nano"))
    state, seen = run.init(), []
    for t in range(4):
        before = state.params
        after, plain = run.step(jax.tree.map(jnp.copy, state), run.batches(t))
        _, usual = run.step_with_probes(jax.tree.map(jnp.copy, state), run.batches(t))
        state, metrics = run.step_with_periodic_probes(jax.tree.map(jnp.copy, state), run.batches(t))
        chex.assert_trees_all_close(after, state, rtol=1e-6, atol=1e-7)
        assert plain.keys() < usual.keys() < metrics.keys() and not any("/" in name for name in plain)
        assert usual.keys() == {name for name in metrics if not name.startswith(("noise", "sharpness"))}
        if t in (0, 2) and "parallel" not in ways:  # whose devices cut other parts of the batch
            expected = noise_of(view(jnp.asarray(run.batches(t)), _loss_of(run), before))
            np.testing.assert_allclose(float(metrics["noise/spread"]), float(expected["noise/spread"]), rtol=2e-4)
        seen.append({name for name in metrics if np.ndim(metrics[name]) == 0 and np.isfinite(metrics[name])})
    periodic = ({"noise/scale", "noise/signal", "noise/spread"}, {"sharpness"})
    assert all("update_ratio/matrix" in names for names in seen)
    assert [[probe <= names for probe in periodic] for names in seen] == [
        [True, True],
        [False, False],
        [True, False],
        [False, True],
    ]


def _loss_of(run):
    def loss_of(params, sequences, part=0):
        total, count = loss_sum(run.model)(params, sequences[..., :-1], sequences[..., 1:], jax.random.key(0))
        return total / count

    return loss_of


def test_a_batch_of_one_has_no_gradient_noise():
    with pytest.raises(ValueError, match="--batch-size of at least 2"):
        noise(view(jnp.zeros((1, 3), jnp.int32), lambda params, sequences, part: jnp.sum(params)))
