"""The figures of a comparison: their data, read back from the axes, and line styles that differ without color."""

import itertools

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks.reference import OPTS
from minigpt_flax.compare import figures
from minigpt_flax.compare.statistics import CandidateRuns, summarize
from minigpt_flax.runs.style import looks
from tests.minigpt_flax.made_runs import run

RATES = (0.001, 0.01)


def entry(name, finals, lr=0.001, **config):
    return CandidateRuns(name, [run([4.0, 3.5, loss], seed, lr=lr, **config) for seed, loss in enumerate(finals)])


def results_of(*entries):
    by_name = {result.name: result for result in summarize(entries).results}
    return [by_name[each.name] for each in entries]


def with_training(record, **values):
    """The run with a training record added at every validation."""
    lines = [{"step": r["step"], "tokens": r["tokens"], "seconds": r["seconds"], "loss": 3.0} for r in record.records]
    record.records.extend(line | {"lr": 1e-3 / line["step"], **values} for line in lines)
    record.records.sort(key=lambda line: line["step"])
    return record


def searched():
    """A search over two learning rates with seed 2 at half length, then two compared seeds at the better rate."""
    search = [run([3.0 + lr], 2, lr=lr, steps=10) for lr in RATES]
    full = [run([4.0, 3.0, 2.0 + 0.1 * seed], seed, lr=RATES[0]) for seed in (0, 1)]
    return CandidateRuns("adamw", [*search, *full], (0, 1), RATES, 2)


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def test_losses_are_the_mean_over_seeds_with_a_band_from_minimum_to_maximum():
    axes = figures.losses(results_of(entry("one", [2.0, 2.2]), entry("two", [1.0, 1.5]))).axes
    assert [each.get_xlabel() for each in axes] == ["steps", "tokens", "seconds of training"]
    np.testing.assert_allclose(lines_of(axes[0])["one"].get_ydata(), [4.0, 3.5, 2.1])
    np.testing.assert_allclose(lines_of(axes[1])["two"].get_xdata(), 32 * lines_of(axes[0])["two"].get_xdata())
    band = axes[0].collections[1].get_paths()[0].vertices
    assert (band[band[:, 0] == 20][:, 1].min(), band[band[:, 0] == 20][:, 1].max()) == (1.0, 1.5)


def test_curve_over_rates_averages_common_seeds():
    alone = run([1.0], 7, lr=0.01)  # a seed of this rate only
    both = [run([2.0 + seed + lr], seed, lr=lr) for lr in RATES for seed in (0, 1)]
    assert {r.config["seed"] for r in figures.with_common_seeds([*both, alone])} == {0, 1}
    (line,) = figures.rates([CandidateRuns("one", [*both, alone])]).axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), [2.501, 2.51])


def test_runs_of_the_search_are_drawn_thin():
    axes = figures.rates([searched()]).axes[0]
    thin, thick = sorted(axes.lines, key=lambda line: line.get_markersize())
    np.testing.assert_allclose(thin.get_ydata(), [3.001, 3.01])
    np.testing.assert_allclose((thick.get_xdata()[0], thick.get_ydata()[0]), (RATES[0], 2.05))


def test_diverged_rates_are_crosses_at_the_top():
    runs = [run([2.0], 0, lr=0.001), run([None], 0, lr=0.01)]
    lines = figures.rates([CandidateRuns("one", runs)]).axes[0].lines
    (cross,) = [line for line in lines if line.get_marker() == "x"]
    assert list(cross.get_xdata()) == [0.01] and cross.get_ydata()[0] > 0.9


def test_a_single_rate_has_no_figure():
    assert figures.rates([entry("one", [2.0, 2.1])]) is None


def test_target_figure_labels_candidates_that_did_not_reach_it():
    summary = summarize([entry("slow", [3.0, 3.1]), entry("fast", [1.0, 1.1]), entry("never", [3.4, 3.4])])
    axes = figures.target(summary.results, summary).axes[0]
    labels = {text.get_text() for text in axes.texts}
    assert "not reached" in labels and "20" in labels  # the baseline reaches its own final loss at its last step
    assert axes.get_xlabel() == "steps to the final loss of slow"


def test_schedules_and_ratios_come_from_training_records():
    ratio = {"update_ratio/layer_0": 1e-3, "update_ratio/layer_1": 0.0}
    runs = [with_training(run([4.0, 3.0], seed), **ratio) for seed in (0, 1)]
    mine = results_of(CandidateRuns("one", runs), entry("two", [2.0, 2.1]))
    np.testing.assert_allclose(lines_of(figures.schedules(mine).axes[0])["one"].get_ydata(), [1e-4, 5e-5])
    axes = figures.ratios(mine).axes
    assert [each.get_title() for each in axes] == ["one"]
    assert list(lines_of(axes[0])) == ["layer_0"]  # a logarithmic axis can't show zero
    assert figures.ratios(results_of(entry("one", [2.0, 2.1]), entry("two", [2.0, 2.1]))) is None


def test_candidates_differ_without_color():
    styles = [(style["linestyle"], style["marker"]) for style in looks([f"candidate {i}" for i in range(28)])]
    assert len(set(styles)) == 28
    neighbours = [a[0] != b[0] and a[1] != b[1] for a, b in itertools.pairwise(styles)]
    assert all(neighbours)


def test_an_optimizer_has_the_same_line_in_every_comparison():
    first, second = looks(["muon", "adamw(b2=0.99)", "mine"]), looks(["adamw", "adamw(b1=0.8)", "muon"])
    assert (first[0], first[1]) == (second[2], second[0])
    assert second[1] not in (second[0], second[2]) and first[2] not in first[:2]
    twelve = [line["color"] for line in looks(OPTS)]
    assert len(set(twelve)) == len(OPTS) == 12


def test_labels_are_short_and_differ():
    rest = " warmup_cosine(warmup=0.1, floor=0.0) lr 0.003"
    names = ["adamw(b2=0.99, weight_decay=0.1)" + rest, "muon" + rest]
    assert list(figures.short_names(names).values()) == ["adamw", "muon"]
    names = ["adamw(b2=0.99, weight_decay=0.1, b1=0.8, eps=1e-9)", "adamw(b2=0.95)", "adamw(b2=0.9)"]
    labels = list(figures.short_names(names).values())
    assert len(set(labels)) == 3 and max(len(line) for label in labels for line in label.split("\n")) <= figures.WIDEST


@pytest.mark.parametrize("names", [OPTS, [f"adamw(weight_decay={i / 10}, b2=0.99)" for i in range(12)]])
def test_the_legend_of_twelve_candidates_fits_in_the_figure(names):
    entries = [CandidateRuns(name, [run([2.0], 0, lr=lr) for lr in RATES]) for name in names]
    figure = figures.rates(entries)
    figure.draw_without_rendering()
    (box,) = (legend.get_window_extent() for legend in figure.legends)
    assert len(figure.legends[0].texts) == 12
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0


@pytest.mark.parametrize("losses", [[None, None], []])
def test_a_candidate_without_finished_runs_does_not_prevent_figures(tmp_path, losses):
    entries = [searched(), CandidateRuns("two", [run([loss], seed) for seed, loss in enumerate(losses)], (0, 1))]
    names = figures.save_figures(entries, summarize(entries), tmp_path)
    assert {"loss.png", "rates.png", "target.png"} <= set(names) == {path.name for path in tmp_path.iterdir()}
    assert all(imread(tmp_path / name)[..., :3].std() > 0.01 for name in names)  # not blank
