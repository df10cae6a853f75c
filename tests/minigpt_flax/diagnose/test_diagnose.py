"""Diagnoses against dense linear algebra, known distributions and the optimizers' own behaviour."""

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
from minigpt_flax.diagnose.edge_of_stability import RULES, keywords, rule_of
from minigpt_flax.diagnose.lanczos import density, flat, lanczos, spectrum
from minigpt_flax.errors import UserError
from tests.minigpt_flax.training import start


def symmetric(values, seed=0):
    """A matrix with these eigenvalues."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return jnp.asarray(basis @ np.diag(values) @ basis.T, jnp.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained run, small enough for its Hessian to be written out."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    assert start(path, width=8, keep=9, opt="adamw(weight_decay=0.1)", lr=1e-2) == 0
    return path


@pytest.fixture(scope="module")
def subject(folder):
    return load(folder, "last", 2, lambda *told: None)


def test_a_run_that_has_decayed_to_zero_is_looked_at_with_its_peak_rate(tmp_path, capsys):
    assert start(tmp_path / "over", width=8, steps=4, schedule="warmup_cosine(warmup=1, floor=0.0)", lr=1e-2) == 0
    assert main(["diagnose", str(tmp_path / "over"), "--only", "optimizer", "--json"]) == 0
    (found,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"study"' in line]
    assert found["lr"] == pytest.approx(1e-2)
    assert all(map(math.isfinite, found["update_cosine"]))
    assert main(["diagnose", str(tmp_path / "over"), "--only", "optimizer"]) == 0
    assert "its learning rate 0: steps are looked at with its peak rate" in capsys.readouterr().out


def test_the_ends_of_a_known_spectrum():
    values = np.concatenate([[-3.0, 40.0], np.linspace(0, 1, 78)])
    matrix, ticks = symmetric(values), []
    found = spectrum(lambda v: matrix @ v, 80, jax.random.key(0), depth=20, probes=4, tick=lambda: ticks.append(1))
    assert found.largest == pytest.approx(40, abs=1e-3)
    assert found.smallest == pytest.approx(-3, abs=1e-3)
    assert len(ticks) == 80
    vector = np.asarray(found.vectors[0])
    np.testing.assert_allclose(matrix @ vector, 40 * vector, atol=1e-3)
    grid = np.linspace(-6, 43, 2000)
    assert np.trapezoid(density(found.values, found.weights, grid, 0.5), grid) == pytest.approx(1, abs=1e-3)


def test_error_bounds_hold():
    values = np.sort(np.random.default_rng(1).normal(size=60))
    matrix = symmetric(values)
    run = lanczos(lambda v: matrix @ v, 12, lambda: None)(jnp.ones(60))
    nearest = np.abs(run.values[:, None] - values[None]).min(1)
    assert (nearest <= run.errors + 1e-5).all()
    assert run.weights.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_hutchinsons_trace(seed):
    values = np.random.default_rng(seed).normal(size=100) + 0.5
    matrix = symmetric(values, seed)
    found = spectrum(lambda v: matrix @ v, 100, jax.random.key(seed), depth=5, probes=12, tick=lambda: None)
    assert abs(found.trace - values.sum()) < 3 * found.trace_sem


@pytest.mark.slow
def test_the_hessian_of_a_network_against_dense_algebra(subject):
    product = flat(lambda v: subject.hessian_product(subject.params, v), subject.params)
    loss = lambda vector: subject.mean_loss(ravel_pytree(subject.params)[1](vector))
    dense = np.asarray(jax.jit(jax.hessian(loss))(ravel_pytree(subject.params)[0]), np.float64)
    some = jnp.asarray(np.random.default_rng(0).normal(size=subject.size), jnp.float32)
    np.testing.assert_allclose(jax.jit(product)(some), dense @ np.asarray(some), atol=1e-4)
    values = np.linalg.eigvalsh(dense)
    found = subject.spectrum
    assert found.largest == pytest.approx(values[-1], rel=1e-3)
    assert found.smallest == pytest.approx(values[0], rel=0.1)
    assert abs(found.trace - values.sum()) < 3 * found.trace_sem + 1e-3


def diverges(word, lr, steps=100):
    """Whether the optimizer swings wider and wider on a parabola of curvature 1, once it has warmed up."""
    name, words = keywords(word)
    tx = OPTIMIZERS[name](lr, **{k: v for k, v in words.items() if k != "learning_rate"})

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(params, state, params)  # the gradient of x^2 / 2
        params = apply_updates(params, updates)
        return (params, state), jnp.abs(params["x"][0])

    params = {"x": jnp.full(1, 1e-12)}
    _, sizes = jax.lax.scan(step, (params, tx.init(params)), length=steps)
    return sizes[-20:].max() > sizes[steps // 2 - 20 : steps // 2].max()


@pytest.mark.parametrize(
    "word",
    [
        "sgd",
        "sgd(momentum=0.9)",
        "sgd(momentum=0.9, nesterov=True)",
        "sgd(momentum=0.8, dampening=0.5)",
        "momentum(decay=0.8)",
        # With an eps that dwarfs the second moment, Adam divides by a constant, which the theory of its edge assumes.
        "adam(eps=1e12)",
        "adamw(eps=1e12, weight_decay=0.0)",
        "adam(eps=1e12, nesterov=True)",
    ],
)
def test_bounds_are_where_the_optimizers_diverge(word):
    rule, words = rule_of(word)
    lr = rule.factor(words) * (words.get("eps", 1.0) if rule.scale else 1.0)
    assert not diverges(word, 0.99 * lr)
    assert diverges(word, 1.01 * lr)


def test_every_bound_is_of_an_optimizer():
    assert RULES.keys() <= OPTIMIZERS.keys()
    assert rule_of("lion")[0] is None


def test_noise_and_signal_of_a_known_distribution():
    generator, tokens = np.random.default_rng(0), 10
    true, deviation, n = generator.normal(size=50), 0.7, 40
    results = []
    for _ in range(300):
        grads = true + deviation * generator.normal(size=(n, 50))
        mean = grads.mean(0)
        results.append(gradient_noise.parts((grads**2).sum(1), float(mean @ mean), tokens))
    spread, square = np.mean(results, axis=0)
    assert spread == pytest.approx(tokens * 50 * deviation**2, rel=0.01)
    assert square == pytest.approx(true @ true, rel=0.01)


def sums_of(grads):
    mean = grads.mean(0)
    return gradient_noise.Sums((grads**2).sum(1), grads @ mean, float(mean @ mean))


def test_leaving_a_batch_out():
    grads = np.random.default_rng(3).normal(size=(7, 5))
    squares, mean_square = sums_of(grads).without(2)
    rest = sums_of(np.delete(grads, 2, axis=0))
    np.testing.assert_allclose(squares, rest.squares)
    assert mean_square == pytest.approx(rest.mean_square)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator, true = np.random.default_rng(5), np.full(200, 0.5)
    truth, hits = 200 / (true @ true), 0
    for _ in range(200):
        _, low, high = gradient_noise.scale(sums_of(true + generator.normal(size=(24, 200))), 1)
        hits += low <= truth <= high
    assert 160 <= hits <= 197


def test_a_gradient_that_is_lost_in_noise_is_said_to_be():
    grads = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert gradient_noise.scale(sums_of(grads), 1) == (math.inf, 0.0, math.inf)


def test_filter_normalised_directions():
    params = {"w": jnp.ones((3, 5)) * jnp.arange(5.0)[None], "b": jnp.ones(5)}
    found = landscape.filter_normalised(jax.random.key(0), params, infer(params))
    np.testing.assert_allclose(jnp.linalg.norm(found["w"], axis=0), jnp.linalg.norm(params["w"], axis=0), rtol=1e-5)
    assert not found["b"].any()


def test_noise_on_one_parameter_of_a_quadratic():
    """The mean loss rises by half the noise's variance for each entry."""
    loss, params = lambda p: jnp.sum(p["a"] ** 2) / 2 + p["b"][0], {"a": jnp.zeros(1000), "b": jnp.zeros(1)}
    found = landscape.perturb(loss, params, "a", 0.1, 64, jax.random.key(0))
    assert found["mean"] == pytest.approx(1000 * 0.1**2 / 2, rel=0.02)
    assert found["min"] < found["mean"] < found["max"]
    assert found["unperturbed"] == 0 and not params["a"].any()
    with pytest.raises(UserError, match="no parameter is called 'c'.*there are: a, b"):
        landscape.perturb(loss, params, "c", 0.1, 4, jax.random.key(0))


def test_lines_pass_through_the_checkpoint():
    loss, params = lambda p: (p["x"][0] - 1) ** 2, {"x": jnp.zeros(1)}
    found = landscape.line(loss, params, {"x": jnp.ones(1)}, 2.0, 5)
    assert found == {"distance": [-2.0, -1.0, 0.0, 1.0, 2.0], "loss": [9.0, 4.0, 1.0, 0.0, 1.0]}


def test_muons_updates_are_seen_to_be_orthogonal():
    params = {"layer": {"kernel": jnp.zeros((16, 24))}}
    tx = muon(0.1)
    grad = {"layer": {"kernel": jax.random.normal(jax.random.key(0), (16, 24)) ** 3}}
    updates, _ = tx.update(grad, tx.init(params), params)
    plain, orthogonal = (optimizer_dynamics.singular_values(found, infer(params)) for found in (grad, updates))
    assert orthogonal[0] > 0.7 > plain[0]


def diagnose(folder, out, capsys, *studies):
    """Runs the command and looks at what it printed and wrote."""
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
    here = {found["loss"][middle] for found in lines["lines"].values()}
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
def test_mistakes(folder, tmp_path, capsys, arguments, said):
    assert main(["diagnose", str(folder), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert main(["diagnose", str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_the_subject_is_left_as_it_was(subject):
    before = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(subject.state)]
    subject.step(subject.state, subject.batches[0])
    assert before == [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(subject.state)]
    assert tree.norm(jax.jit(subject.gradient)(subject.params, subject.batches)) > 0
