"""The figures of a comparison: their data, read back from the axes, and line styles that differ without color."""

import itertools
import warnings

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from benchmarks.reference import OPTS
from jaxopt_mini import OPTIMIZERS
from minigpt_flax.compare import figures
from minigpt_flax.compare.results import PICTURES, RESULTS
from minigpt_flax.compare.statistics import CandidateRuns, summarize
from minigpt_flax.runs import style
from minigpt_flax.runs.plots import fonts_for, save
from minigpt_flax.runs.style import line_styles, looks
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
    (axes,) = figures.losses(results_of(entry("one", [2.0, 2.2]), entry("two", [1.0, 1.5]))).axes
    assert axes.get_xlabel() == "step (32 tokens each)"
    np.testing.assert_allclose(lines_of(axes)["one"].get_ydata(), [4.0, 3.5, 2.1])
    np.testing.assert_allclose(lines_of(axes)["one"].get_xdata(), [6, 13, 20])
    band = axes.collections[1].get_paths()[0].vertices
    assert (band[band[:, 0] == 20][:, 1].min(), band[band[:, 0] == 20][:, 1].max()) == (1.0, 1.5)


def test_curves_of_different_length_end_where_their_runs_end():
    (axes,) = figures.losses(results_of(entry("short", [2.0]), entry("long", [1.0], steps=60))).axes
    assert axes.get_xlabel() == "step (32 tokens each)"
    ends = {name: line.get_xdata()[-1] for name, line in lines_of(axes).items() if name in ("short", "long")}
    assert ends == {"short": 20, "long": 60}
    (axes,) = figures.losses(results_of(entry("small", [2.0]), entry("large", [1.0], batch_size=16))).axes
    assert axes.get_xlabel() == "tokens"
    ends = {name: line.get_xdata()[-1] for name, line in lines_of(axes).items() if name in ("small", "large")}
    assert ends == {"small": 20 * 32, "large": 20 * 128}


def test_a_diverged_or_unfinished_seed_does_not_cut_the_mean_of_the_others():
    runs = [run([4.0, 3.0, 2.0], 0), run([4.0, 3.0, 2.2], 1), run([4.0, 9.0, None], 2), run([4.0, 3.0, 2.6], 3)]
    del runs[3].records[2]
    (axes,) = figures.losses(results_of(CandidateRuns("one", runs), entry("two", [1.0] * 4))).axes
    np.testing.assert_allclose(lines_of(axes)["one"].get_ydata(), [4.0, 3.0, 2.1])
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert cross.get_xdata()[0] == 13 and 4.0 < cross.get_ydata()[0] == axes.get_ylim()[1] < 9.0
    assert sum(len(line.get_xdata()) == 2 for line in axes.lines) == 2  # the other seeds, as far as they came
    assert "\u00d7: diverged" in axes.get_title()


def test_times_are_drawn_with_their_range_or_not_at_all():
    one = entry("one", [2.0, 2.2])
    assert figures.times(results_of(CandidateRuns("one", one.runs[:1], (0,)), CandidateRuns("two", [], (0,)))) is None
    slow = [run([4.0, 3.5, 2.0], seed, opt="slow") for seed in (0, 1)]
    for record in slow[1].records:
        record["seconds"] *= 3
    (axes,) = figures.times(results_of(one, CandidateRuns("two", slow))).axes
    assert lines_of(axes)["one"].get_xdata()[-1] == pytest.approx(20 * 0.1)
    assert lines_of(axes)["two"].get_xdata()[-1] == pytest.approx(20 * 0.2)  # steps take 0.1 and 0.3 s
    bars = [container.lines[2][0].get_segments()[0][:, 0] for container in axes.containers]
    np.testing.assert_allclose(bars, [[2, 2], [2, 6]])


def test_the_final_loss_of_every_seed_is_shown_with_the_interval():
    rows = results_of(entry("one", [2.0, 2.2, 2.4]), CandidateRuns("two", [run([1.0], 0), run([None], 1)], (0, 1, 2)))
    (axes,) = figures.finals(rows).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["two", "one"]
    assert [text.get_text() for text in axes.texts] == ["1.0000, 1 diverged", "2.2000"]
    (interval,) = [line for line in axes.lines if line.get_marker() == "None"]
    np.testing.assert_allclose(
        interval.get_xdata(), [2.2 - 4.3027 * 0.2 / 3**0.5, 2.2 + 4.3027 * 0.2 / 3**0.5], rtol=1e-4
    )


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


def test_lines_of_the_same_learning_rates_share_a_label():
    runs = {name: [with_training(run([4.0, 3.0], 0, opt=name))] for name in ("one", "two", "three")}
    runs["three"][0].training[0]["lr"] = 0.5
    mine = results_of(*(CandidateRuns(name, members) for name, members in runs.items()))
    assert list(lines_of(figures.schedules(mine).axes[0])) == ["one\ntwo", "three"]


def test_candidates_differ_without_color():
    styles = [(str(style["linestyle"]), style["marker"]) for style in looks([f"candidate {i}" for i in range(35)])]
    assert len(set(styles)) == 35
    colors = [style["color"] for style in looks([f"candidate {i}" for i in range(12)])]
    assert len(set(colors)) == 12
    assert len({str(style) for style in looks([f"candidate {i}" for i in range(100)])}) == 100


def test_an_optimizer_has_the_same_line_in_every_comparison():
    first, second = looks(["muon", "adamw(b2=0.99)", "mine"]), looks(["adamw", "adamw(b1=0.8)", "muon"])
    assert (first[0], first[1]) == (second[2], second[0])
    assert second[1] not in (second[0], second[2]) and first[2] not in first[:2]
    twelve = looks(OPTS)
    assert len({line["color"] for line in twelve}) == len(OPTS) == 12
    assert len({(str(line["linestyle"]), line["marker"]) for line in twelve}) == 12
    alone = {name: looks([name])[0] for name in OPTIMIZERS}
    for pair in itertools.combinations(OPTIMIZERS, 2):
        both = dict(zip(pair, looks(pair), strict=True))
        assert len({(line["color"], line["marker"], str(line["linestyle"])) for line in both.values()}) == 2
        assert all(both[name] == alone[name] for name in pair if name in style.OPTIMIZERS)


def test_a_candidate_has_the_line_of_its_optimizer_whatever_its_name():
    adamw, muon = looks(["adamw", "muon"])
    assert line_styles({"base": "adamw(b2=0.99)", "my try": "muon"}) == {"base": adamw, "my try": muon}
    same = line_styles({"adamw": "adamw(b2=0.99)", "adamw(b2=0.9)": "adamw(b2=0.9)", "no runs": ""})
    assert same["adamw"] == adamw and len({str(line) for line in same.values()}) == 3


def test_labels_are_short_and_differ():
    rest = " warmup_cosine(warmup=0.1, floor=0.0) lr 0.003"
    names = ["adamw(b2=0.99, weight_decay=0.1)" + rest, "muon" + rest]
    assert list(figures.short_names(names).values()) == ["adamw", "muon"]
    names = ["adamw(b2=0.99, weight_decay=0.1, b1=0.8, eps=1e-9)", "adamw(b2=0.95)", "adamw(b2=0.9)"]
    labels = list(figures.short_names(names).values())
    assert len(set(labels)) == 3 and max(len(line) for label in labels for line in label.split("\n")) <= figures.WIDEST


LONG = [f"adamw(weight_decay={i / 10}, b2=0.99)" for i in range(12)]


def boxes_of(figure):
    """Bounding boxes of titles and labels, without their leaders."""
    texts = [text for axes in figure.axes for text in (*axes.texts, axes.title, axes._left_title)]
    return [Text.get_window_extent(text) for text in texts if text.get_text()]


@pytest.mark.parametrize(
    ("draw", "names"),
    [
        ("losses", OPTS[:6]),
        ("losses", LONG),
        ("losses", ["\u5b9e\u9a8c" * 12, "one"]),
        ("rates", LONG[:6]),
        ("rates", OPTS),
    ],
)
def test_labels_and_titles_are_inside_the_figure_and_apart(names, draw):
    runs = {name: [run([4.0, 2.0], 0, lr=lr) for lr in RATES] for name in names}
    entries = [CandidateRuns(name, members) for name, members in runs.items()]
    with fonts_for(*names):
        figure = figures.rates(entries) if draw == "rates" else figures.losses(results_of(*entries))
        figure.draw_without_rendering()
    boxes = boxes_of(figure)
    assert len(figure.axes) == (1 if len(names) <= 6 else 12) and len(boxes) >= len(names)
    assert not any(one.shrunk(0.9, 0.9).overlaps(two) for one, two in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)


@pytest.mark.parametrize("form", PICTURES)
def test_any_name_is_drawn_in_every_format_and_gives_the_same_file_again(tmp_path, form):
    names = ["\u5b9e\u9a8c\u4e00 cost$x_$y", "\U000103a0", "\u202ea\x1b"]
    results = results_of(*(entry(name, [2.0, 2.1]) for name in names))
    for path in (tmp_path / f"a.{form}", tmp_path / f"b.{form}"):
        with fonts_for(*names), warnings.catch_warnings():
            warnings.simplefilter("error")
            save(figures.finals(results), path)
    assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes()
    assert b"/Type3" not in (tmp_path / f"a.{form}").read_bytes()


@pytest.mark.parametrize("losses", [[None, None], []])
def test_a_candidate_without_finished_runs_does_not_prevent_figures(tmp_path, losses):
    entries = [searched(), CandidateRuns("two", [run([loss], seed) for seed, loss in enumerate(losses)], (0, 1))]
    names = figures.save_figures(entries, summarize(entries), tmp_path)
    assert {"loss.png", "rates.png", "target.png"} <= set(names) == {path.name for path in tmp_path.iterdir()}
    assert set(names) <= RESULTS
    assert all(imread(tmp_path / name)[..., :3].std() > 0.01 for name in names)  # not blank
