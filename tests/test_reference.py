"""The script of the reference comparison, on synthetic runs: its cost, the page it writes, and what it refuses."""

import re

import pytest

from benchmarks import reference
from jaxopt_mini import OPTIMIZERS
from minigpt_flax.compare.collect import collect_runs
from minigpt_flax.compare.statistics import summarize
from tests.minigpt_flax.made_runs import write


@pytest.fixture
def finished(tmp_path):
    """A part of which every run is there."""
    (part,) = reference.parts(("adamw", "lion"), (), 40, None)
    for i, candidate in enumerate(part.comparison.candidates):
        for seed in part.comparison.seeds:
            config = part.comparison.config(candidate, seed=seed)
            losses = [4.0, 3.0 + 0.1 * i + 0.01 * seed]
            write(
                part.comparison.path(tmp_path, candidate, config),
                losses,
                seed=seed,
                lr=config.lr,
                steps=40,
                opt=str(config.opt),
            )
    return part, tmp_path


def test_the_optimizers_are_there_and_enough():
    assert set(reference.OPTS) | set(reference.FEW) <= set(OPTIMIZERS)
    assert len(set(reference.OPTS)) >= 12 and {"adamw", "nadamw", "lion", "muon", "soap"} <= set(reference.FEW)
    assert len(reference.parts(reference.OPTS, reference.FEW, 1000, "x.txt")) == 2


def test_the_budget_is_the_steps_of_the_comparison():
    (part,) = reference.parts(("adamw", "lion"), (), 1000, None)
    assert 2 * reference.seconds(part.comparison, 1.0, 0.0) == part.comparison.budget
    assert reference.seconds(part.comparison, 0.0, 1.0) == 9 + 3 * reference.POINTS  # the search's runs once


def test_paces_are_measured_once(tmp_path, monkeypatch):
    (part,) = reference.parts(("adamw", "lion"), (), 40, None)
    monkeypatch.setattr(reference, "pace", lambda comparison, candidate: (0.1, 1.0))
    assert reference.budget(part, tmp_path) == pytest.approx(
        0.1 * part.comparison.budget + 2 * (9 + 3 * reference.POINTS)
    )
    monkeypatch.setattr(reference, "pace", None)
    assert set(reference.paces(part, tmp_path / "pydocs-pace.json")) == {"adamw", "lion"}


def test_what_takes_too_long_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(reference, "pace", lambda comparison, candidate: (0.1, 1.0))
    assert reference.main(["--opt=adamw", "--opt=lion", "--hours=0.1", f"--out={tmp_path}"]) == 2
    assert "over --hours 0.1" in capfd.readouterr().err
    assert not (tmp_path / "pydocs").exists()


@pytest.mark.slow
def test_the_page_has_table_pictures_and_what_it_took(finished, tmp_path):
    part, folder = finished
    entries = collect_runs(part.comparison, folder)
    docs = tmp_path / "docs"
    facts = {"machine": "here", "date": "now", "expected": "1:00", "took": "1:15"}
    text = reference.section(part, entries, summarize(entries), facts, docs)
    said = reference.write({"pydocs": text}, 40, docs).read_text()
    assert "20 runs in 1:15 (estimated: 1:00). Machine: here, now." in said
    assert "| adamw | 3.0100 +-0.0248 |" in said
    for name in re.findall(r"\]\(\.\./pictures/(.+?)\)", said):
        assert 3_000 < (docs / "pictures" / name).stat().st_size < 60_000
    assert "reference-pydocs-loss.svg" in said


def test_curves_are_over_the_seeds(finished):
    part, folder = finished
    values = reference.with_curves(summarize(collect_runs(part.comparison, folder)))
    curves = {standing["name"]: standing["curve"] for standing in values["standings"]}
    assert curves["lion"]["mean"][-1] == pytest.approx(3.11) and curves["lion"]["step"][-1] == 40
    assert (curves["adamw"]["min"][-1], curves["adamw"]["max"][-1]) == (3.0, 3.02)


def test_a_part_is_written_anew_and_the_other_stays(tmp_path):
    reference.write({"pydocs": "## One\n\nold text\n"}, 40, tmp_path)
    reference.write({"shakespeare": "## Two\n\nother\n"}, 40, tmp_path)
    before = reference.write({"pydocs": "## One\n\nagain\n"}, 40, tmp_path).read_text()
    assert "old text" not in before and before.index("again") < before.index("## Two")
    assert reference.write({"shakespeare": "## Two\n\nother\n"}, 40, tmp_path).read_text() == before


def test_a_part_that_is_not_there_is_refused(tmp_path, capfd):
    assert reference.main(["--only=shakespeare", f"--out={tmp_path}"]) == 2
    assert "the parts are pydocs; --shakespeare FILE adds one" in capfd.readouterr().err


def test_the_seconds_of_sittings_add_up(tmp_path):
    for _ in range(2):
        with reference.clocked(tmp_path / "seconds.json"):
            pass
    first = reference.spent(tmp_path / "seconds.json")
    with pytest.raises(KeyboardInterrupt), reference.clocked(tmp_path / "seconds.json"):
        raise KeyboardInterrupt
    assert reference.spent(tmp_path / "seconds.json") > first > 0
