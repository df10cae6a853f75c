"""The pages that are written from measurements, from made-up ones: every number finds its place, and the right one."""

import json
import re

import numpy as np
import pytest

from benchmarks.answers import decay, edge, geometry, page, schedules
from benchmarks.answers.judged import SEARCH_SEEDS, SEEDS, against, best_rate
from benchmarks.answers.small import Kept
from jaxopt_mini import SCHEDULES


def decays():
    best = {"AdamW": 1.0, "Adam + L2": 1e-3}
    found = {
        decay.key(kind, rate, d, seed): 2.0
        + abs(np.log10(rate / 3e-3))
        + 0.1 * (d != best[kind])
        + 0.01 * (seed % 7) * (1 + i)
        + 0.2 * i
        for i, (kind, sizes) in enumerate(decay.DECAYS.items())
        for d in sizes
        for rate in decay.RATES
        for seed in (*SEARCH_SEEDS, *SEEDS)
    }
    return found | {f"shrink {kind}": [[1.0, 0.5, 0.25], [1.0, 0.9, 0.75]] for kind in decay.DECAYS}


def schedule_runs():
    order = {name: i for i, name in enumerate(SCHEDULES)}
    runs = {
        f"{size.steps} {name} {rate:g} {seed}": 2.0
        + 0.1 * order[name]
        + (rate != 3e-3)
        + 0.01 * (seed % 7) * order[name]
        for size in (schedules.LONG, schedules.SHORT)
        for name in SCHEDULES
        for rate in schedules.RATES
        for seed in (*SEARCH_SEEDS, *SEEDS)
    }
    return runs | {f"rates {name}": [0.5, 1.0, 0.1] for name in SCHEDULES}


def surfaces():
    trail = np.linspace((-1.0, 1.0), (0.5, 0.2), 20).tolist()
    steps = list(range(30, 3030, 30))
    found = {
        f"{name} {surface}": {"rate": 0.1, "steps": 100 * (i + 1) if i else geometry.LIMIT, "trail": trail}
        for surface in geometry.SURFACES
        for i, name in enumerate(geometry.OPTIMIZERS)
    }
    found["convex"] = {"steps": [1, 10, 100], "gap": [0.5, 0.05, 0.001], "bound": [1.0, 0.1, 0.01]}
    for opt in ("sgd", "adamw"):
        found[f"curvature {opt}"] = {
            "step": [0, 50, 99],
            "top": [2.0, 8.0, 5.0],
            "bottom": [-1.0, -0.5, 0.1],
            "bound": [9e9, 20.0, 20.0],
        }
    for name, (_, _, rates) in edge.RUNS.items():
        for lr in rates:
            factor = {"gradient descent": 2, "Adam": 38}[name]
            found[f"edge {name} {lr:g}"] = {"step": steps, "loss": [1.0] * 100, "curvature": [0.9 * factor / lr] * 100}
    return found


CASES = {
    "decay": (
        decay,
        decays,
        [
            "| AdamW | 0.003 | 1 | 2.024 |  |  |  |",
            "| Adam + L2 | 0.003 | 0.001 | 2.248 | +0.224 | +0.209 to +0.239 | **0.0039** |",
            "AdamW is\n+0.224 nats (95 % interval +0.209 to +0.239, p = 0.0039), significant",
            "its grid for neither",
            "0.75",
        ],
    ),
    "schedules": (
        schedules,
        schedule_runs,
        [
            f"with `{next(iter(SCHEDULES))}`, the lowest mean",
            "| `warmup_cosine` | 0.003 |",
            "`warmup_cosine` beyond the noise, and `constant`",
        ],
    ),
    "geometry": (
        geometry,
        surfaces,
        [
            "not in 20,000",
            "at most 0.50 of it",
            "below zero in 4 of 6 measurements",
            "its median is 5, where 2 / learning rate is 20",
            "at 0.05: 0.90",
        ],
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "decay" else [pytest.mark.slow]) for name in CASES]
)
def test_a_page_has_every_number_and_picture(tmp_path, name):
    module, made, said = CASES[name]
    (tmp_path / "kept.json").write_text(json.dumps(made() | {"seconds": 61.0}))
    pictures, facts = module.answer(Kept(tmp_path / "kept.json"))
    text = page.write(tmp_path, name, pictures, {**facts, "seconds": "61", "machine": "here"}).read_text()
    assert "$" not in text and all(words in text for words in [*said, "61 s of CPU time on here"]), text
    drawn = re.findall(r"\]\((.+?\.svg)\)", text)
    for picture in drawn:
        svg = (tmp_path / picture).read_text(encoding="utf-8")
        assert svg.count("</text>") > 5 and len(re.findall("<path|<use|<image", svg)) > 20
    assert len(drawn) == len(re.findall(r"!\[", text)) == len(pictures)


def test_what_is_measured_is_not_measured_again(tmp_path):
    calls = []
    for _ in range(2):
        kept = Kept(tmp_path / "kept.json")
        assert kept.get("one", lambda: calls.append(1) or [1.0]) == [1.0]
    assert calls == [1] and kept.seconds > 0


def test_the_quickest_rate_on_a_round_bowl_is_one_over_its_curvature(monkeypatch):
    monkeypatch.setitem(geometry.SURFACES, "bowl", (lambda x, y: 2 * (x**2 + y**2), (1.0, 1.0), 1e-3))
    monkeypatch.setattr(geometry, "GRID", np.array([0.05, 0.25, 0.6]))
    monkeypatch.setattr(geometry, "LIMIT", 200)
    found = geometry.quickest("sgd", "bowl")
    assert (found["rate"], found["steps"]) == (0.25, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", edge.RUNS)
def test_the_curvature_is_followed(name, monkeypatch):
    monkeypatch.setattr(edge, "STEPS", 2 * edge.EVERY)
    found = edge.follow(name, 1e-4)
    assert found["step"] == [edge.EVERY, 2 * edge.EVERY]
    assert np.all(np.isfinite(found["loss"])) and np.all(np.array(found["curvature"]) > 0)


def test_a_grid_is_extended_until_its_best_rate_has_neighbors():
    tried = []
    score = lambda rate: tried.append(rate) or abs(np.log10(rate / 0.1))
    assert best_rate((1e-3, 3e-3, 1e-2), score) == (0.1, True) and max(tried) == pytest.approx(0.3, rel=0.1)
    assert best_rate((1e-3, 3e-3, 1e-2), lambda rate: -rate) == (pytest.approx(0.32, rel=0.05), False)
    assert best_rate((1.0, 2.0, 3.0), lambda rate: float("inf"))[1] is False


def test_a_broken_run_is_the_worst_outcome():
    losses = {"a": [1.0, 1.1] * 5, "b": [None] * 10, "c": [1.0, 1.1] * 5}
    tests = against("a", losses)
    assert tests["b"].significant and tests["b"].better == "a" and not tests["c"].significant
