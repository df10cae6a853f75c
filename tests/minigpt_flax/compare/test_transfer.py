"""Comparisons over widths: candidates, best learning rates, shift and regret, and what is refused."""

import json
import math

import pytest
from matplotlib.figure import Figure

import minigpt_flax as mg
from minigpt_flax.__main__ import main
from minigpt_flax.compare import comparison as comparisons, sweep, transfer_tables
from minigpt_flax.compare.collect import collect_runs, summarize_comparison
from minigpt_flax.compare.comparison import Comparison
from minigpt_flax.compare.progress import ComparisonProgress
from minigpt_flax.compare.rate_search import lengths
from minigpt_flax.compare.transfer import optimum_of, transfer_of
from minigpt_flax.compare.transfer_figure import draw
from minigpt_flax.errors import UserError
from tests.minigpt_flax.made_runs import write

RATES = tuple(2.0**k for k in range(-12, -5))
OPTIMA = {("standard", 64): -8.5, ("standard", 128): -9.25, ("standard", 256): -10.5, ("mup", 64): -8.5}


def comparison(**changes):
    values = {
        "preset": "nano",
        "given": {"steps": 20},
        "opts": ("adamw",),
        "schedules": (),
        "lr": RATES,
        "search": False,
        "seeds": (0, 1),
        "widths": (64, 128, 256),
        "parametrizations": ("standard", "mup"),
    }
    return Comparison(**values | changes)


def made(folder, asked, loss):
    """A comparison whose runs have the losses ``loss(candidate's fields, learning rate, seed)``."""
    comparisons.save(asked, folder)
    for candidate in asked.candidates:
        for lr in asked.rates(candidate):
            for seed in asked.seeds:
                path = asked.path(folder, candidate, asked.config(candidate, lr, None, seed))
                found = loss(candidate.given, lr, seed)
                write(path, [4.0, 4.0 if found == math.inf else found], lr=lr, seed=seed, steps=20)
                if found == math.inf:
                    line = json.dumps({"step": 21, "tokens": 1, "seconds": 3.0, "loss": None})
                    (path / "metrics.jsonl").write_text(line + "\n")
    return folder


def parabola(given, lr, seed):
    best = OPTIMA.get((given["parametrization"], given["width"]), -8.5) + 0.25 * seed
    return 2.0 + 0.1 * (math.log2(lr) - best) ** 2


def test_candidates_are_models_of_all_widths_with_heads_of_one_size():
    asked = comparison(given={"steps": 20, "heads": 2, "hidden": 96}, widths=(64, 128))
    configs = [asked.config(candidate) for candidate in asked.candidates]
    assert [candidate.name for candidate in asked.candidates] == [
        "standard width 64",
        "standard width 128",
        "mup width 64",
        "mup width 128",
    ]
    sizes = [(c.width, c.heads, c.hidden, c.parametrization.name, c.base_width) for c in configs]
    assert sizes == [
        (64, 2, 96, "standard", None),
        (128, 4, 192, "standard", None),
        (64, 2, 96, "mup", 64),
        (128, 4, 192, "mup", 64),
    ]
    assert {config.eval_every for config in configs} == {20}


def test_shift_and_regret_of_known_curves(tmp_path):
    asked = comparison()
    transfer = transfer_of(asked, collect_runs(asked, made(tmp_path / "c", asked, parabola)))
    standard, mup = transfer.families
    shifts = [[standard.shift(curve) for curve in standard.curves], [mup.shift(curve) for curve in mup.curves]]
    assert shifts[0] == pytest.approx([0, -0.75, -2], abs=1e-9) and shifts[1] == pytest.approx([0, 0, 0], abs=1e-9)
    assert standard.shifts(standard.curves[2]) == pytest.approx([-2, -2], abs=1e-9)
    best = standard.curves[0].optimum
    assert best is not None and math.log2(best.lr) == pytest.approx(-8.375)
    assert best.loss == pytest.approx(2.0 + 0.1 * 0.125**2)
    # The base's best tried rate is 2 ** -8; at width 256 the lowest mean is at 2 ** -10, with the optimum at -10.375.
    assert standard.regret(standard.curves[2]) == pytest.approx(0.1 * (2.375**2 - 0.375**2))
    assert mup.regret(mup.curves[2]) == 0
    said = transfer_tables.text(transfer)
    shifted = "standard: the best lr changes by -2.00 octaves from width 64 to 256 (by seed: -2.00, -2.00)"
    assert shifted in " ".join(said.split()) and max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda given, lr, seed: -math.log(lr), "at width 64 the highest lr, 0.015625, is the best: give higher ones"),
        (lambda given, lr, seed: lr, "at width 64 the lowest lr, 0.000244141, is the best: give lower ones"),
        (lambda given, lr, seed: math.inf, "every run at width 64 diverged"),
    ],
)
def test_an_undecided_optimum_has_no_shift(tmp_path, changed, said):
    asked = comparison(widths=(64, 128), parametrizations=("mup",))
    transfer = transfer_of(asked, collect_runs(asked, made(tmp_path / "c", asked, changed)))
    (family,) = transfer.families
    assert family.shift(family.curves[1]) is None and family.regret(family.curves[1]) is None
    draw(Figure(), transfer)
    assert f"{family.name}: not decided: {said}" in " ".join(transfer_tables.text(transfer).split())


def test_runs_that_have_not_ended_are_counted(tmp_path):
    asked = comparison(widths=(64, 128), parametrizations=("mup",))
    transfer = transfer_of(asked, collect_runs(asked, tmp_path))
    assert "14 runs at width 64 have not ended; 14 runs at width 128" in transfer_tables.findings(transfer)[0]


def test_a_diverged_neighbor_leaves_the_best_rate_tried():
    assert optimum_of({1.0: 3.0, 2.0: 2.0, 4.0: math.inf}) == (2.0, 2.0)
    assert optimum_of({1.0: math.inf, 2.0: math.inf, 4.0: math.inf}) is None


def test_the_command_shows_and_writes_the_result(tmp_path, capfd):
    asked = comparison()
    folder = made(tmp_path / "c", asked, parabola)
    assert main(["compare", str(folder)]) == 0
    assert "regret" in capfd.readouterr().out
    values = json.loads((folder / "results.json").read_text())
    assert [row["width"] for row in values["widths"]] == [64, 128, 256] * 2
    assert values["widths"][2]["shift"] == pytest.approx(-2) and set(values["widths"][0]["losses"]) == {"0", "1"}
    assert {path.suffix for path in folder.glob("widths.*")} == {".png", ".svg"}
    for form, written in transfer_tables.FORMATS.items():
        assert main(["compare", str(folder), f"--format={form}", "--pictures=none"]) == 0
        assert capfd.readouterr().out == written(transfer_of(asked, collect_runs(asked, folder)))

    assert main(["report", str(folder), f"--out={tmp_path / 'r.html'}"]) == 0
    page = (tmp_path / "r.html").read_text()
    assert '<section id="widths">' in page and "best lr changes by -2.00 octaves" in page and " beats " not in page
    summary = summarize_comparison(asked, collect_runs(asked, folder))
    assert not summary.tests and len(summary.results) == 6


@pytest.mark.parametrize("processes", [1, 2])
def test_a_search_at_the_narrowest_width_selects_the_rates_of_all(tmp_path, monkeypatch, processes):
    changes = {"opts": ("adamw", "lion"), "widths": (64, 128), "seeds": (0,), "given": {"steps": 160}}
    asked, trained = comparison(lr=(), search=True, **changes), []

    def train(program, group, stop, callback):
        for path, config in group.items():
            given = {"parametrization": config.parametrization.name, "width": config.width}
            loss = parabola(given, config.lr, config.seed)
            trained.append(write(path, [4.0, loss], lr=config.lr, seed=config.seed, steps=config.steps))

    monkeypatch.setattr(sweep, "train_group", train)
    monkeypatch.setattr(sweep.Sweep, "program", lambda self, candidate: None)
    for index in [*range(processes)] * (1 + (processes > 1)):
        progress = ComparisonProgress(asked.budget, shown=False)
        sweep.Sweep(asked, tmp_path, lambda: False, progress, share=(index, processes)).run()
    first = [path for path in trained if f"seed{asked.search_seed}" in path.name]
    assert processes == 1 or first == trained[: len(first)]
    assert {path.parent.name for path in first} == {"adamw-standard-width-64", "lion-standard-width-64"}
    assert len(trained) - len(first) == 8 * 6 == asked.runs - 2 * len(lengths(160))
    transfer = transfer_of(asked, collect_runs(asked, tmp_path))
    assert [family.shift(family.curves[1]) for family in transfer.families] == pytest.approx([-0.75, 0] * 2)
    curves = [curve for family in transfer.families for curve in family.curves]
    assert len({tuple(curve.losses) for curve in curves}) == 2 and not any(curve.missing for curve in curves)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": (1e-3, 2e-3)}, "give at least 3 with --lr"),
        ({"lr": ()}, "give at least 3 with --lr, such as 1e-3,2e-3,4e-3,8e-3, or --lr auto"),
        ({"widths": (64,)}, "ascending widths such as 64,128,256, got 64"),
        ({"widths": (128, 64)}, "ascending widths"),
        ({"widths": (64, 100)}, "4 of --heads at width 64 would be 6.25 at width 100"),
        ({"baseline": "standard"}, "tests nothing: omit --baseline"),
        ({"pairs": True}, "tests nothing: omit --pairs"),
        ({"target": 2.0}, "tests nothing: omit --target"),
        ({"max_seeds": 9}, "tests nothing: omit --seeds auto"),
        ({"given": {"steps": 20, "width": 64}}, "omit --width$"),
        ({"given": {"steps": 20, "base_width": 64}}, "omit --base-width"),
        ({"seeds": ()}, "--seeds must be at least 1"),
    ],
)
def test_what_widths_refuse(changes, message):
    with pytest.raises(UserError, match=message):
        comparisons.check(comparison(**changes))


def test_a_stored_comparison_over_widths_is_the_same(tmp_path):
    comparisons.save(comparison(), tmp_path / "c")
    assert comparisons.load(tmp_path / "c") == comparison()


@pytest.mark.slow
def test_a_base_is_the_same_model_in_every_parametrization(tmp_path, capfd):
    flags = ["--context=8", "--batch-size=4", "--layers=1", "--heads=2", "--steps=4", "--val-tokens=512", "--seeds=1"]
    words = ["compare", "--opt=adamw", "--widths=16,32", "--lr=1e-3,4e-3,1.6e-2", f"--out={tmp_path}", "--name=c"]
    assert main([*words, *flags, "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["widths"]
    assert rows[0]["losses"] == rows[2]["losses"] and rows[1]["losses"] != rows[3]["losses"]
    sizes = {"context": 8, "batch_size": 4, "layers": 1, "heads": 2, "steps": 4, "val_tokens": 512}
    where = {"out": tmp_path, "name": "c", "quiet": True}
    result = mg.compare(opt=["adamw"], widths=(16, 32), lr=(1e-3, 4e-3, 1.6e-2), seeds=1, **sizes, **where)
    assert [row["width"] for row in result.rows] == [16, 32, 16, 32] and "regret" in str(result)
