"""The coordinate check: slopes of known powers, and small models that pass with a parametrization and fail without."""

import json

import numpy as np
import pytest

from minigpt_flax.__main__ import main
from minigpt_flax.diagnose.coordinates import PARTS, Slope, _passed, _sentences, sizes_of, slopes
from minigpt_flax.train.config.run_config import resolve

FLAGS = ["--context=8", "--batch-size=4", "--layers=1", "--heads=2", "--steps=2", "--lr=0.01"]


@pytest.fixture
def check(tmp_path, capfd):
    """Runs the command on a short text; returns the exit status and the records."""

    def check(*flags):
        text = tmp_path / "text.txt"
        text.write_text("abcdefgh ijkl mnop " * 200)
        status = main(
            ["diagnose", "coordinates", f"--data={text}", f"--out={tmp_path / 'out'}", "--json", *FLAGS, *flags]
        )
        said = capfd.readouterr()
        return status, [json.loads(line) for line in said.out.splitlines()], said.err

    return check


def test_slopes_of_powers_and_their_errors():
    sizes, steps = [16, 32, 64], np.arange(4)
    grown = np.array([[size ** (0.25 * steps) for _ in range(2)] for size in sizes])
    noisy = np.array([[[1.0, size**0.1], [1.0, size**0.3]] for size in sizes])
    still = np.array([[[5.0, 0.0, size**0.5]] for size in sizes])  # the first step changes nothing
    found = slopes(sizes, {"a": grown, "b": noisy, "c": still})
    assert found["a"] == (pytest.approx(0.75), pytest.approx(0, abs=1e-9), 3)
    assert found["b"] == (pytest.approx(0.2), pytest.approx(0.1), 1)
    assert found["c"] == (pytest.approx(0.5), pytest.approx(0, abs=1e-9), 2)


def test_a_slope_near_the_limit_is_not_decided():
    """The error is that of the fit too: activations that follow no power of the size leave the slope open."""
    sizes = [16, 32, 64, 128]
    bent = np.array([[[1.0, value]] for value in (1.0, 1.4, 1.2, 1.5)])
    (found,) = slopes(sizes, {"a": bent}).values()
    line = np.polyfit(np.log(sizes), np.log(bent[:, 0, 1]), 1, cov=True)
    assert found.value == pytest.approx(line[0][0]) and found.error == pytest.approx(line[1][0, 0] ** 0.5)
    assert [found.is_within(limit) for limit in (0.05, 0.2, 0.3)] == [False, None, True]
    assert Slope(-0.25, 0.0, 1).is_within(0.2) is False and Slope(0.2, 0.0, 1).is_within(0.2)


@pytest.mark.parametrize(("errors", "passed"), [((0.0, 0.0), False), ((0.1, 0.0), None), ((0.1, 0.5), None)])
def test_the_last_sentence_says_what_is_decided(errors, passed):
    found = {"logits": Slope(0.25, errors[0], 1), "mlp": Slope(0.1, errors[1], 1)}
    numbers = {"axis": "width", "tolerance": 0.2, "parametrization": "mup", "passed": passed}
    assert _passed([slope.is_within(0.2) for slope in found.values()]) is passed
    *_, last = _sentences({**numbers, "slopes": {name: slope._asdict() for name, slope in found.items()}})
    assert last.startswith("Not decided" if passed is None else "A slope is beyond 0.2")


def test_the_smallest_size_is_the_base_and_heads_keep_their_size():
    config = resolve({"width": 16, "heads": 2, "layers": 3, "parametrization": "mup"})
    runs = sizes_of(config, "width", [16, 32])
    sizes = lambda runs: [(run.width, run.heads, run.layers, run.base_width, run.base_layers) for run in runs]
    assert sizes(runs) == [(16, 2, 3, 16, 3), (32, 4, 3, 16, 3)]
    runs = sizes_of(config, "depth", [3, 6])
    assert [(run.layers, run.width, run.base_width, run.base_layers) for run in runs] == [
        (3, 16, 16, 3),
        (6, 16, 16, 3),
    ]
    plain = resolve({"width": 16, "heads": 2})
    assert [run.base_width for run in sizes_of(plain, "width", [16, 32])] == [None, None]


def test_a_standard_model_fails_and_names_the_parts(check, tmp_path):
    status, (record,), _ = check("--widths=16,64", "--seeds=1", "--parametrization=standard")
    assert status == 1 and not record["passed"]
    assert record["slopes"].keys() == PARTS.keys() and max(s["value"] for s in record["slopes"].values()) > 0.5
    assert json.loads((tmp_path / "out" / "widths.json").read_text())["sizes"] == [16, 64]
    assert (tmp_path / "out" / "widths.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_parametrized_model_passes_a_tolerance(check):
    status, (width, depth), _ = check("--widths=16,64", "--depths=1,2", "--seeds=1", "--tolerance=0.5", "--opt=lion")
    assert status == 0 and width["passed"] and depth["passed"]
    assert (width["axis"], depth["axis"], width["parametrization"]) == ("width", "depth", "completep")
    assert len(width["activations"]["mlp"]) == 3 and width["seeds"] == 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--widths=64"], "--widths expects ascending sizes such as 64,128,256, got '64'"),
        (["--widths=64,32"], "expects ascending sizes"),
        (["--opt=schedule_free_plus"], "'schedule_free_plus' have no rule for other widths: it estimates"),
        (["--depths=0,2"], "--depths: each size must be at least 1"),
        (["--base-width=8"], "unknown argument '--base-width"),
        (["--seeds=0"], "--seeds must be at least 1"),
    ],
    ids=str,
)
def test_mistakes_end_in_one_line(check, flags, says):
    status, records, said = check(*flags)
    assert status == 2 and not records
    assert says in said and said.count("\n") == 1
