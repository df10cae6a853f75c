"""The committed defaults of every optimizer, and the search that finds them."""

import inspect
import json
import math

import pytest

from benchmarks.defaults import PLAIN
from benchmarks.diagnosis import rows, size_claims, wilson
from benchmarks.rates import best, climb, keep, kept, tried
from benchmarks.results import RESULTS
from jaxopt_mini import OPTIMIZERS
from minigpt_flax.diagnose.gradient_noise import advice
from minigpt_flax.spec import parse
from minigpt_flax.train.config.run_config import RATES, default_of

NAMES = [line.partition("(")[0] for line in RATES.read_text().splitlines()]
DEFAULTS = {name: default_of(name) for name in NAMES}


def test_every_default_is_an_optimizers():
    """An optimizer that the sweep hasn't seen yet gets the preset's rate, so that adding one stays three edits."""
    assert DEFAULTS.keys() <= OPTIMIZERS.keys()
    for name, spec in DEFAULTS.items():
        assert spec.without("lr").keywords.keys() <= inspect.signature(OPTIMIZERS[name]).parameters.keys()


def test_rates_are_positive_and_in_order():
    assert all(math.isfinite(spec.keywords["lr"]) and spec.keywords["lr"] > 0 for spec in DEFAULTS.values())
    assert NAMES == sorted(NAMES)


def test_defaults_were_found_by_the_committed_sweep():
    swept = [
        (text, float(rate))
        for path in RESULTS.glob("*.json")
        for section, found in json.loads(path.read_text()).items()
        if section.startswith("rates,")
        for text, losses in found["losses"].items()
        for rate in losses
    ]
    for spec in DEFAULTS.values():
        assert (str(spec.without("lr")), spec.keywords["lr"]) in swept


def test_data_by_name_names_optimizers():
    assert {spec.name for spec in tried().values()} | PLAIN <= OPTIMIZERS.keys()


@pytest.mark.parametrize("start", [1e-3, 0.1, 1.0])
def test_search_finds_the_best_rate_beside_worse_ones(start):
    losses = climb(lambda rate: abs(math.log10(rate / 0.03)), start)
    assert min(losses, key=losses.__getitem__) == 0.03
    assert {0.01, 0.03, 0.1} <= losses.keys()


def test_search_turns_back_where_training_diverges():
    losses = climb(lambda rate: math.inf if rate > 0.05 else -rate, 1.0)
    assert min(losses, key=losses.__getitem__) == 0.03


def test_the_best_spec_of_all_that_were_kept(tmp_path):
    path = tmp_path / "results.json"
    for text, rate, loss in [
        ("sm3", 0.1, 2.9),
        ("sm3(momentum=0.5)", 0.01, 2.3),
        ("sm3(momentum=0.5)", 0.1, math.inf),
        ("sgd", 1.0, 1.0),
    ]:
        keep(path, "rates", text, rate, loss)
    assert best(kept(path, "rates"), "sm3") == parse("sm3(momentum=0.5, lr=0.01)", "optimizer")
    assert best(kept(path, "rates"), "lion") is None


@pytest.mark.parametrize(("low", "high"), [(10.0, 20.0), (300.0, 400.0), (90.0, 110.0)])
def test_every_advice_on_the_batch_size_has_claims_to_check(low, high):
    progress = {"same": 1.0, "twice": 1.4, "half": 0.7, "twice, fewer": 0.7, "half, more": 1.1}
    said = advice(low, high, 100).partition(", with a learning rate")[0]
    claims = size_claims(said, progress)
    assert all(text.startswith(said.replace("it fits", "the batch fits")) for text, _ in claims)
    assert all(right for _, right in claims)
    worse = {"same": 1.0, "twice": 1.2, "half": 0.5, "twice, fewer": 0.5, "half, more": 0.9}
    if said == "it fits":
        worse |= {"twice": 1.8, "half": 0.9}
    assert not any(right for _, right in size_claims(said, worse))


def test_outcomes_are_counted_with_an_interval():
    found = [("a run", ("a claim", right)) for right in (True, True, True, False)]
    assert rows(found) == [{"verdict, and what was done": "a claim", "right": 3, "of": 4, "share": "75% (30% to 95%)"}]
    assert (wilson(0, 3)[0], wilson(3, 3)[1]) == pytest.approx((0, 1))
