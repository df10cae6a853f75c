"""Diagnoses against dense linear algebra, known distributions and the optimizers' actual behavior."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxopt_mini import OPTIMIZERS, apply_updates, muon, tree
from jaxopt_mini.layout import infer
from minigpt_flax.__main__ import main
from minigpt_flax.diagnose import gradient_noise, landscape, optimizer_dynamics
from minigpt_flax.diagnose.checkpoint_view import load
from minigpt_flax.diagnose.edge_of_stability import STABILITY_BOUNDS, find_bound, optimizer_keywords
from minigpt_flax.diagnose.lanczos import density, flat, lanczos, spectrum
from minigpt_flax.errors import UserError
from tests.minigpt_flax.training import start


def symmetric(values, seed=0):
    """A symmetric matrix with these eigenvalues."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return jnp.asarray(basis @ np.diag(values) @ basis.T, jnp.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained run, small enough for a dense Hessian."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    assert start(path, width=8, keep=9, opt="adamw(weight_decay=0.1)", lr=1e-2) == 0
    return path


@pytest.fixture(scope="module")
def view(folder):
    return load(folder, "last", 2, lambda *progress: None)


@pytest.mark.slow
def test_a_run_whose_learning_rate_decayed_to_zero_is_studied_at_its_peak_rate(tmp_path, capsys):
    assert start(tmp_path / "over", width=8, steps=4, schedule="warmup_cosine(warmup=1, floor=0.0)", lr=1e-2) == 0
    assert main(["diagnose", str(tmp_path / "over"), "--only", "optimizer", "--json"]) == 0
    (result,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"study"' in line]
    assert result["lr"] == pytest.approx(1e-2)
    assert all(map(math.isfinite, result["update_cosine"]))
    assert main(["diagnose", str(tmp_path / "over"), "--only", "optimizer"]) == 0
    assert "learning rate has reached 0: steps are studied at its peak value" in capsys.readouterr().out


def test_extreme_eigenvalues_of_a_known_spectrum():
    values = np.concatenate([[-3.0, 40.0], np.linspace(0, 1, 78)])
    matrix, ticks = symmetric(values), []
    result = spectrum(lambda v: matrix @ v, 80, jax.random.key(0), depth=20, probes=4, tick=lambda: ticks.append(1))
    assert result.largest == pytest.approx(40, abs=1e-3)
    assert result.smallest == pytest.approx(-3, abs=1e-3)
    assert len(ticks) == 80
    vector = np.asarray(result.vectors[0])
    np.testing.assert_allclose(matrix @ vector, 40 * vector, atol=1e-3)
    grid = np.linspace(-6, 43, 2000)
    assert np.trapezoid(density(result.values, result.weights, grid, 0.5), grid) == pytest.approx(1, abs=1e-3)


def test_error_bounds_of_ritz_values_hold():
    values = np.sort(np.random.default_rng(1).normal(size=60))
    matrix = symmetric(values)
    run = lanczos(lambda v: matrix @ v, 12, lambda: None)(jnp.ones(60))
    nearest = np.abs(run.values[:, None] - values[None]).min(1)
    assert (nearest <= run.errors + 1e-5).all()
    assert run.weights.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_hutchinson_trace(seed):
    values = np.random.default_rng(seed).normal(size=100) + 0.5
    matrix = symmetric(values, seed)
    result = spectrum(lambda v: matrix @ v, 100, jax.random.key(seed), depth=5, probes=12, tick=lambda: None)
    assert abs(result.trace - values.sum()) < 3 * result.trace_sem


@pytest.mark.slow
def test_hessian_spectrum_of_a_network_matches_dense_algebra(view):
    product = flat(lambda v: view.hessian_product(view.params, v), view.params)
    loss = lambda vector: view.mean_loss(ravel_pytree(view.params)[1](vector))
    dense = np.asarray(jax.jit(jax.hessian(loss))(ravel_pytree(view.params)[0]), np.float64)
    some = jnp.asarray(np.random.default_rng(0).normal(size=view.size), jnp.float32)
    np.testing.assert_allclose(jax.jit(product)(some), dense @ np.asarray(some), atol=1e-4)
    values = np.linalg.eigvalsh(dense)
    result = view.spectrum
    assert result.largest == pytest.approx(values[-1], rel=1e-3)
    assert result.smallest == pytest.approx(values[0], rel=0.1)
    assert abs(result.trace - values.sum()) < 3 * result.trace_sem + 1e-3


def diverges(spec, lr, steps=100):
    """Whether the optimizer's oscillation grows on a quadratic of curvature 1, after its averages have warmed up."""
    name, keywords = optimizer_keywords(spec)
    tx = OPTIMIZERS[name](lr, **{k: v for k, v in keywords.items() if k != "learning_rate"})

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(params, state, params)  # the gradient of x^2 / 2
        params = apply_updates(params, updates)
        return (params, state), jnp.abs(params["x"][0])

    params = {"x": jnp.full(1, 1e-12)}
    _, sizes = jax.lax.scan(step, (params, tx.init(params)), length=steps)
    return sizes[-20:].max() > sizes[steps // 2 - 20 : steps // 2].max()


@pytest.mark.parametrize(
    "spec",
    [
        "sgd",
        "sgd(momentum=0.9)",
        "sgd(momentum=0.9, nesterov=True)",
        "sgd(momentum=0.8, dampening=0.5)",
        "momentum(decay=0.8)",
        # With an eps much larger than the second moment, Adam divides by a constant, as the theory assumes.
        "adam(eps=1e12)",
        "adamw(eps=1e12, weight_decay=0.0)",
        "adam(eps=1e12, nesterov=True)",
    ],
)
def test_optimizers_diverge_exactly_beyond_their_stability_bound(spec):
    bound, keywords = find_bound(spec)
    lr = bound.factor(keywords) * (keywords.get("eps", 1.0) if bound.scale else 1.0)
    assert not diverges(spec, 0.99 * lr)
    assert diverges(spec, 1.01 * lr)


def test_every_stability_bound_belongs_to_an_optimizer():
    assert STABILITY_BOUNDS.keys() <= OPTIMIZERS.keys()
    assert find_bound("lion")[0] is None
    assert find_bound("optimizers.py:mine(b=0.5)") == (None, {"b": 0.5})


def test_noise_and_signal_estimates_are_unbiased():
    generator, tokens = np.random.default_rng(0), 10
    true, deviation, n = generator.normal(size=50), 0.7, 40
    results = []
    for _ in range(300):
        grads = true + deviation * generator.normal(size=(n, 50))
        mean = grads.mean(0)
        results.append(gradient_noise.noise_and_signal((grads**2).sum(1), float(mean @ mean), tokens))
    noise, signal = np.mean(results, axis=0)
    assert noise == pytest.approx(tokens * 50 * deviation**2, rel=0.01)
    assert signal == pytest.approx(true @ true, rel=0.01)


def sums_of(grads):
    mean = grads.mean(0)
    return gradient_noise.GradientSums((grads**2).sum(1), grads @ mean, float(mean @ mean))


def test_statistics_without_one_batch():
    grads = np.random.default_rng(3).normal(size=(7, 5))
    squares, mean_square = sums_of(grads).without(2)
    rest = sums_of(np.delete(grads, 2, axis=0))
    np.testing.assert_allclose(squares, rest.squares)
    assert mean_square == pytest.approx(rest.mean_square)


def test_coverage_of_the_noise_scale_interval():
    generator, true = np.random.default_rng(5), np.full(200, 0.5)
    truth, hits = 200 / (true @ true), 0
    for _ in range(200):
        _, low, high = gradient_noise.noise_scale(sums_of(true + generator.normal(size=(24, 200))), 1)
        hits += low <= truth <= high
    assert 160 <= hits <= 197


def test_noise_scale_is_infinite_for_a_gradient_hidden_by_noise():
    grads = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert gradient_noise.noise_scale(sums_of(grads), 1) == (math.inf, 0.0, math.inf)


def test_filter_normalized_directions():
    params = {"w": jnp.ones((3, 5)) * jnp.arange(5.0)[None], "b": jnp.ones(5)}
    result = landscape.filter_normalized(jax.random.key(0), params, infer(params))
    np.testing.assert_allclose(jnp.linalg.norm(result["w"], axis=0), jnp.linalg.norm(params["w"], axis=0), rtol=1e-5)
    assert not result["b"].any()


def test_noise_on_one_parameter_of_a_quadratic():
    """The mean loss increases by half the noise variance per entry."""
    loss, params = lambda p: jnp.sum(p["a"] ** 2) / 2 + p["b"][0], {"a": jnp.zeros(1000), "b": jnp.zeros(1)}
    result = landscape.perturb(loss, params, "a", 0.1, 64, jax.random.key(0))
    assert result["mean"] == pytest.approx(1000 * 0.1**2 / 2, rel=0.02)
    assert result["min"] < result["mean"] < result["max"]
    assert result["unperturbed"] == 0 and not params["a"].any()
    with pytest.raises(UserError, match="no parameter is called 'c'.*there are: a, b"):
        landscape.perturb(loss, params, "c", 0.1, 4, jax.random.key(0))


def test_line_scan_passes_through_the_checkpoint():
    loss, params = lambda p: (p["x"][0] - 1) ** 2, {"x": jnp.zeros(1)}
    result = landscape.scan_line(loss, params, {"x": jnp.ones(1)}, 2.0, 5)
    assert result == {"distance": [-2.0, -1.0, 0.0, 1.0, 2.0], "loss": [9.0, 4.0, 1.0, 0.0, 1.0]}


def test_singular_values_of_muon_updates_are_equal():
    params = {"layer": {"kernel": jnp.zeros((16, 24))}}
    tx = muon(0.1)
    grad = {"layer": {"kernel": jax.random.normal(jax.random.key(0), (16, 24)) ** 3}}
    updates, _ = tx.update(grad, tx.init(params), params)
    plain, orthogonal = (optimizer_dynamics.singular_values(matrices, infer(params)) for matrices in (grad, updates))
    assert orthogonal[0] > 0.7 > plain[0]


def diagnose(folder, out, capsys, *studies):
    """Runs the command and checks its output and files."""
    only = [word for name in studies for word in ("--only", name)]
    assert main(["diagnose", str(folder), "--batches", "2", "--out", str(out), *only]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.replace(str(folder), "").replace(str(out), "").splitlines())) <= 80
    for name in studies:
        assert f"\n{name}\n" in printed
        assert (out / f"{name}.png").stat().st_size > 10_000
        assert json.loads((out / f"{name}.json").read_text())


def test_the_command(folder, tmp_path, capsys):
    diagnose(folder, tmp_path / "out", capsys, "noise", "optimizer")


@pytest.mark.slow
def test_the_command_in_full(folder, tmp_path, capsys):
    diagnose(folder, tmp_path / "out", capsys, "landscape", "curvature", "noise", "optimizer")
    lines = json.loads((tmp_path / "out" / "landscape.json").read_text())
    middle = len(lines["lines"]["random"]["loss"]) // 2
    here = {result["loss"][middle] for result in lines["lines"].values()}
    assert len(here) == 1 and lines["perturbed"]["unperturbed"] == pytest.approx(here.pop(), rel=1e-6)
    assert len(lines["path"]["steps"]) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "curvatur"], "did you mean 'curvature'?"),
        (["--batches", "1"], "--batches must be at least 2, got 1"),
        (["--noise", "0"], "--noise must be above 0"),
        (["--step", "7"], "no checkpoint of step '7'"),
        (["--only", "landscape", "--parameter", "nope"], "no parameter is called 'nope'"),
    ],
)
def test_user_errors(folder, tmp_path, capsys, arguments, said):
    assert main(["diagnose", str(folder), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert main(["diagnose", str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_a_step_leaves_the_checkpoint_unchanged(view):
    before = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(view.state)]
    view.step(view.state, view.batches[0])
    assert before == [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(view.state)]
    assert tree.norm(jax.jit(view.gradient)(view.params, view.batches)) > 0
