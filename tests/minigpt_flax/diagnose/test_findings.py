"""What a diagnosis concludes: each number beside dense linear algebra, each sentence where it is true and where not."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

from jaxopt_mini import OPTIMIZERS, apply_updates, tree
from jaxopt_mini.layout import infer
from minigpt_flax.__main__ import main
from minigpt_flax.cli import diagnose as command
from minigpt_flax.diagnose import curvature, gradient_noise, landscape, optimizer_dynamics
from minigpt_flax.diagnose.checkpoint_view import CheckpointView, load
from minigpt_flax.diagnose.edge_of_stability import BIAS_CORRECTED, optimizer_keywords, second_moment_roots
from minigpt_flax.diagnose.lanczos import Spectrum, spectrum
from minigpt_flax.diagnose.result import StudyResult
from minigpt_flax.errors import UserError
from minigpt_flax.runs.style import look
from minigpt_flax.spec import parse
from minigpt_flax.train.config.param_groups import ParamGroup
from minigpt_flax.train.optimizer import build_optimizer
from minigpt_flax.train.state import TrainState
from tests.minigpt_flax.training import start

SIZE, LR = 26, 0.01
MIXED = {
    "width": 8,
    "steps": 3,
    "schedule": "constant",
    "accum": 2,
    "clip": "clip_by_norm(0.01)",
    "dtype": "bfloat16(params='stochastic')",
    "dropout": 0.1,
    "group": "embedding=sgd(lr=0)",
    "wrap": "ema_params(decay=0.5)",
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A run with everything that a step has beside its optimizer; its embedding is frozen."""
    path = tmp_path_factory.mktemp("runs") / "mixed"
    assert start(path, **MIXED) == 0
    return path


@pytest.fixture(scope="module")
def view(mixed):
    return load(mixed, "last", 2, lambda *progress: None)


MATRIX = np.random.default_rng(0).normal(size=(SIZE, SIZE))
HESSIAN = (MATRIX + MATRIX.T).astype(np.float32)


class Quadratic(CheckpointView):
    """A view of the loss x H x / 2 + 1."""

    def loss(self, params, batch):
        x = ravel_pytree(params)[0]
        return x @ jnp.asarray(HESSIAN) @ x / 2 + 1


def quadratic(view, opt="adam", groups=(), clip="none", lr=LR, steps=3):
    """The checkpoint after some steps on the quadratic; ``groups`` maps patterns to (spec, learning rate)."""
    values = jax.random.normal(jax.random.key(0), (SIZE,))
    params = {"embedding": values[:12].reshape(4, 3), "kernel": values[12:24].reshape(3, 4), "scale": values[24:]}
    changes = {"opt": parse(opt, "optimizer"), "clip": parse(clip, "clip"), "wrap": (), "dropout": 0.0, "lr": lr}
    group = tuple(ParamGroup(where, parse(spec, "optimizer"), rate) for where, (spec, rate) in dict(groups).items())
    constant = {
        "schedule": parse("constant", "schedule"),
        "dtype": parse("float32", "dtype"),
        "on_nan": parse("stop", "policy"),
    }
    config = dataclasses.replace(view.run.config, group=group, **changes, **constant)
    schedule, tx = build_optimizer(config, infer(params))
    state = tx.init(params)
    for _ in range(steps):
        grads = jax.grad(lambda params: Quadratic.loss(None, params, None))(params)
        updates, state = tx.update(grads, state, params)
        params = apply_updates(params, updates)
    model = dataclasses.replace(view.run.model, dtype="float32")
    run = dataclasses.replace(view.run, config=config, layout=infer(params), schedule=schedule, model=model)
    return Quadratic(run, TrainState(jnp.int32(steps), params, state), view.batches, view.folder, view.report)


def largest(scale):
    """Largest eigenvalue of D^-1/2 H D^-1/2, dense; infinite entries of D leave a parameter out."""
    root = 1 / np.sqrt(scale)
    return np.linalg.eigvalsh(root[:, None] * HESSIAN.astype(np.float64) * root)[-1]


@pytest.mark.parametrize(
    ("opt", "groups", "clip"),
    [
        ("sgd", {}, "clip_by_norm(0.5)"),
        ("adam(eps=0.1)", {}, "none"),
        ("adamw(b2=0.9)", {}, "clip_by_norm(0.5)"),
        ("adamw(b2=0.9)", {"embedding": ("adam(eps=0.3)", 0.1), "scale": ("lion", 0.1)}, "none"),
        ("sgd", {"kernel": ("adamw(b2=0.5)", 0.02), "embedding": ("sgd", 0.0)}, "clip_by_norm(1.0)"),
    ],
)
def test_the_curvature_that_each_group_meets_is_the_dense_one(view, opt, groups, clip):
    subject = quadratic(view, opt, groups, clip)
    norm = float(tree.norm(subject.params))
    factor = float(jax.tree.leaves(subject.state.opt_state[0])[1]) if clip != "none" else 1.0
    assert subject.clip_factor == factor and (clip == "none") == (factor == 1.0) and norm > 0
    places = {"embedding": slice(0, 12), "kernel": slice(12, 24), "scale": slice(24, 26)}
    for group in subject.groups:
        name, keywords = optimizer_keywords(group.optimizer)
        margin = curvature.margin_of(subject, group)
        if name == "lion" or group.lr == 0:
            assert margin.bound is None and margin.reason
            continue
        scale, roots = np.full(SIZE, np.inf), second_moment_roots(group.state, {"b2": 0.0, **keywords})
        for parameter in group.layers:
            scale[places[parameter]] = np.asarray(roots[parameter]).ravel() + keywords["eps"] if roots else 1.0
        assert margin.curvature == pytest.approx(factor * largest(scale), rel=1e-4)
        assert margin.bound == pytest.approx((38 if name != "sgd" else 2) / group.lr)
    assert {name for group in subject.groups for name in group.layers} == places.keys()


def test_the_curvature_of_some_layers_is_the_dense_one(view):
    entries, scale = np.linspace(0.5, 2.0, 8).reshape(2, 4).astype(np.float32), np.full(SIZE, np.inf)
    scale[12:24].reshape(3, 4)[[0, 2]] = entries
    found, _ = curvature.preconditioned_curvature(quadratic(view), {"kernel": jnp.asarray(entries)}, {"kernel": (0, 2)})
    assert found == pytest.approx(largest(scale), rel=1e-4)


@pytest.mark.parametrize("name", sorted(BIAS_CORRECTED))
def test_second_moments_are_corrected_as_in_the_step(name):
    """Of a constant gradient, the corrected second moment is its square."""
    tx, params = OPTIMIZERS[name](0.01), {"w": jnp.ones(2)}
    state = tx.init(params)
    assert second_moment_roots(state, optimizer_keywords(name)[1]) == {}
    for _ in range(2):
        _, state = tx.update({"w": jnp.full(2, 0.5)}, state, params)
    np.testing.assert_allclose(second_moment_roots(state, optimizer_keywords(name)[1])["w"], 0.5, rtol=1e-3)


def test_the_share_of_entries_below_eps_is_that_of_their_group(view):
    subject = quadratic(view, "adam(eps=1e6)", {"embedding": ("adam(eps=1e-9)", 0.1), "scale": ("lion", 0.1)})
    assert optimizer_dynamics.eps_share(subject) == {"embedding": 0.0, "head": 1.0}
    assert optimizer_dynamics.eps_share(quadratic(view, "sgd")) is None


@pytest.mark.parametrize(
    ("opt", "changes", "named", "not_named"),
    [
        ("sgd", {}, ["minibatches."], ["decay", "wrapper", "clip", "dropout", "bfloat16"]),
        ("adamw", {"clip": "clip_by_norm(1.0)"}, ["weight decay"], ["clip"]),
        (
            "adam",
            {"clip": "clip_by_value(1.0)", "wrap": "lookahead(sync_period=2)"},
            ["clip_by_value", "lookahead"],
            ["decay"],
        ),
        ("adam", {"dropout": 0.1}, ["dropout"], ["decay", "wrapper"]),
    ],
)
def test_the_bound_names_what_it_leaves_out(view, opt, changes, named, not_named):
    subject = quadratic(view, opt)
    specs = {"clip": lambda text: parse(text, "clip"), "wrap": lambda text: (parse(text, "wrapper"),)}
    values = {name: specs.get(name, lambda value: value)(value) for name, value in changes.items()}
    config = dataclasses.replace(subject.run.config, **values)
    said = curvature._left_out(dataclasses.replace(subject, run=dataclasses.replace(subject.run, config=config)))
    assert all(word in said for word in named) and not any(word in said for word in not_named)


def spectrum_between(smallest, largest):
    none = np.zeros(1)
    return Spectrum(largest, smallest, (1e-3, 1e-3), 0.0, 0.0, 0.0, none, none, jnp.zeros((1, 1)))


@pytest.mark.parametrize(
    ("smallest", "stationary", "said", "not_said"),
    [
        (-1.0, True, "saddle point", "minimum"),
        (-1.0, False, "negative in some directions", "saddle"),
        (2.0, True, "looks like a minimum", "saddle"),
        (2.0, False, "no stationary point", "minimum"),
        (-5e-4, True, "looks like a minimum", "saddle"),
    ],
)
def test_only_a_stationary_point_is_a_saddle_or_a_minimum(smallest, stationary, said, not_said):
    text = " ".join(curvature._describe(spectrum_between(smallest, 10.0), 100, 0.1, stationary))
    assert said in text and not_said not in text


def test_a_point_is_stationary_where_its_gradient_is_small(view):
    subject = quadratic(view, "sgd")
    at = lambda factor: dataclasses.replace(
        subject, state=subject.state._replace(params=jax.tree.map(lambda leaf: leaf * factor, subject.params))
    )
    assert "saddle" not in curvature.study(at(1.0)).sentences[1]
    assert "saddle" in curvature.study(at(1e-4)).sentences[1]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.2, "below"),
        (0.9, 1.0, "at the"),
        (1.2, 9.0, "beyond"),
        (0.7, 0.9, "cannot tell"),
        (1.0, 2.0, "cannot tell"),
    ],
)
def test_verdicts_of_the_stability_bound(low, high, said):
    assert said in curvature.verdict(low, high)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (300.0, 900.0, "a larger batch"),
        (10.0, 60.0, "a smaller batch"),
        (70.0, 250.0, "it fits"),
        (200.0, 300.0, "includes twice this size"),
        (30.0, 70.0, "includes half this size"),
        (0.0, math.inf, "includes half and twice this size"),
    ],
)
def test_advice_on_the_batch_follows_the_interval(low, high, said):
    assert said in gradient_noise.advice(low, high, 128)


def test_a_gradient_without_noise_needs_no_larger_batch():
    grads = np.tile([3.0, 4.0], (6, 1)) + np.eye(6, 2) * 1e-12
    squares = (grads**2).sum(1)
    sums = gradient_noise.GradientSums(squares, squares, float(squares.mean()))
    assert gradient_noise.noise_scale(sums, 1)[0] < 1e-6


@pytest.mark.parametrize(
    ("cosine", "said"), [(0.9, "keep their direction"), (0.2, "share part"), (-0.3, "oppose each other")]
)
def test_motion_of_updates(cosine, said):
    assert said in optimizer_dynamics._describe_motion(cosine)


def test_updates_of_zero_have_no_cosine():
    zero, one = {"w": jnp.zeros(3)}, {"w": jnp.ones(3)}
    assert optimizer_dynamics._cosine(zero, one) is None
    assert optimizer_dynamics._cosine(one, one) == pytest.approx(1)
    numbers = {"effective_lr": {"matrix": None}, "update_cosine": [None], "eps_share": None, "singular_values": []}
    assert optimizer_dynamics._sentences(numbers) == ["The updates are zero."]


@pytest.mark.parametrize(
    "values",
    [
        np.full(40, 3.0),
        np.zeros(40),
        np.r_[5.0, -2.0, np.zeros(38)],
        np.r_[np.ones(20), 2 * np.ones(20)],
        -np.repeat([1.0, 3.0, 4.0, 9.0], 10),
        np.linspace(-1e30, 2e30, 40),
        np.linspace(-1e-30, 2e-30, 40),
    ],
    ids=["3 I", "zero", "rank 2", "two values", "negative", "1e30", "1e-30"],
)
def test_lanczos_of_degenerate_huge_and_tiny_matrices(values):
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))
    matrix = jnp.asarray(basis * values @ basis.T, jnp.float32)
    found = spectrum(lambda v: matrix @ v, 40, jax.random.key(0), depth=40, probes=3, tick=lambda: None)
    size = np.abs(values).max()
    assert abs(found.largest - values.max()) <= 1e-5 * size
    assert abs(found.smallest - values.min()) <= 1e-5 * size
    assert abs(found.trace - values.sum()) <= max(found.trace_error, 1e-4 * size)
    assert found.trace_error == pytest.approx(4.3027 * found.trace_sem, rel=1e-4)


def test_lanczos_refuses_a_curvature_that_is_not_finite():
    with pytest.raises(UserError, match="not finite"):
        spectrum(lambda v: v * jnp.inf, 4, jax.random.key(0), depth=2, probes=2, tick=lambda: None)


def test_units_of_an_embedding_are_its_rows():
    params = {"embedding": jnp.arange(1.0, 13.0).reshape(4, 3), "kernel": jnp.arange(1.0, 13.0).reshape(3, 4)}
    found = landscape.filter_normalized(jax.random.key(0), params, infer(params))
    for name, axis in (("embedding", 1), ("kernel", 0)):
        lengths = [np.linalg.norm(values[name], axis=axis) for values in (found, params)]
        np.testing.assert_allclose(*lengths, rtol=1e-5)


def test_lines_are_described_in_parameter_norms():
    line = {"distance": [-1.0, 0.0, 1.0], "loss": [1.0, 2.0, 5.0], "length": 0.5}
    assert landscape._describe_line("random", line, 2.0) == (
        "Along the random direction it rises by 3 within 0.5 times the parameter norm; the minimum is 1 lower, at -0.5."
    )
    assert "non-finite" in landscape._describe_line("random", line | {"loss": [1.0, 2.0, math.nan]}, 2.0)
    assert not tree.norm(landscape.scaled({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}))


def test_a_view_takes_whole_steps_in_float32_without_dropout(view):
    assert view.tokens == view.run.config.step_tokens == 2 * 4 * 8
    assert {leaf.dtype for leaf in jax.tree.leaves(view.params)} == {jnp.dtype("float32")}
    halves = view.batches[0].reshape(2, 4, -1)
    losses = [float(view.loss(view.params, part)) for part in (view.batches[0], halves, *halves)]
    assert losses[0] == losses[1] == pytest.approx(sum(losses[2:]) / 2, rel=1e-6)
    said = " ".join(view.notes)
    assert all(word in said for word in ("bfloat16", "without dropout", "not the average"))


def test_the_loss_of_a_diverged_run_is_not_finite(view):
    broken = view.state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, view.state.params))
    diverged = dataclasses.replace(view, state=broken)
    with pytest.raises(UserError, match="the loss here is not finite"):
        diverged.require_finite()


def test_the_optimizer_of_a_run_with_everything(mixed, tmp_path, capsys):
    assert main(["diagnose", str(mixed), "--batches", "2", "--out", str(tmp_path / "out"), "--only", "optimizer"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "over 2 batches of 64 tokens" in said and "without dropout; the run trains with 0.1" in said


@pytest.mark.slow
def test_a_run_with_everything(mixed, tmp_path, capsys):
    assert main(["diagnose", str(mixed), "--batches", "2", "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "embedding: at learning rate 0 no step moves the parameters" in said
    assert "the other parameters: at learning rate 0.0" in said and "scaled by the last clip, 0.0" in said
    assert "weight decay, the coupling of the groups, the wrapper ema_params(decay=0.5), dropout and rounding" in said
    assert "the run's batch has 64 tokens" in said


@pytest.mark.slow
def test_a_learning_rate_of_zero(tmp_path, capsys):
    assert start(tmp_path / "zero", width=8, steps=2, lr=0.0, schedule="constant") == 0
    assert main(["diagnose", str(tmp_path / "zero"), "--only", "optimizer", "--only", "landscape"]) == 0
    said = capsys.readouterr().out
    assert "The updates are zero." in said and "peak value" not in said and "The update direction is zero." in said
    text = (tmp_path / "zero" / "diagnosis" / "optimizer.json").read_text()
    assert json.loads(text)["update_cosine"] == [None] * 7


def test_numbers_that_are_not_finite_are_null_in_a_file(tmp_path):
    finding = StudyResult([], {"bound": math.inf, "cosines": [math.nan, 0.5]}, lambda figure: None)
    command.write_study("curvature", finding, tmp_path)
    text = (tmp_path / "curvature.json").read_text()
    assert json.loads(text) == {"bound": None, "cosines": [None, 0.5]} and "NaN" not in text


def test_no_bound_exists_at_a_learning_rate_of_zero(view):
    found = curvature.study(quadratic(view, "sgd", lr=0.0))
    assert "no step moves the parameters" in found.sentences[-1] and found.numbers["stability_bound"] is None


def test_directions_differ_in_color_and_levels_stay_within_the_axes():
    at, axes = np.linspace(-1, 1, 15), Figure().subplots()
    heights = 2 + at[:, None] ** 2 + 3 * at**2
    landscape._contours(axes, {"x": at, "y": at, "loss": heights}, "a plane")
    places = np.array([text.get_position() for text in axes.texts])
    assert len(places) >= 2 and np.abs(places).max() < 0.9
    assert len({look(i)["color"] for i in landscape.LOOKS}) == len(landscape.DIRECTIONS) == len(landscape.SPAN)


@pytest.mark.filterwarnings("ignore:No contour levels")
def test_a_flat_plane_has_no_levels_to_label():
    axes = Figure().subplots()
    landscape._contours(axes, {"x": [0, 1], "y": [0, 1], "loss": np.ones((2, 2))}, "flat")
    assert not axes.texts
