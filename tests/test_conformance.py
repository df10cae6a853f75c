"""The conformance kit: its recordings, its rules in NumPy, its explanations, its command, its tables."""

import ast
import contextlib
import dataclasses
import io
import json
import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import optax
import pytest
from jaxopt_conformance import check, compare, from_optax, from_torch, libraries, load, names, recordings, replay
from jaxopt_conformance.__main__ import main
from jaxopt_conformance.explaining import explained
from jaxopt_conformance.rules import ALTERNATIVES, RULES, NumPyOptimizer, sgd

from docs.conformance_page import KIT, SHOWN, WITHOUT_ROW
from tests.goldens import FOLDER, index
from tests.harness import permissive

TABLES = [libraries.load(name) for name in libraries.names()]
RESULTS = {path.stem: json.loads(path.read_text("utf-8")) for path in (KIT / "results").glob("*.json")}
README = (KIT / "README.md").read_text("utf-8")


def variant(name, **changes):
    """The rule of a recording in NumPy, with other conventions, and the report on it."""
    rule, recording = RULES[name], load(name)
    return check(name, lambda h: NumPyOptimizer(rule.function, **{**rule.keywords(h), **changes})), recording


def test_every_recording_of_the_repository_is_there():
    assert recordings.folder() == FOLDER
    assert names() == [name for name in index() if (FOLDER / f"{name}.npz").is_file()]


@pytest.mark.parametrize("name", RULES)
def test_rule_reproduces_its_recording(name):
    report, _ = variant(name)
    assert report.agrees, str(report)


@pytest.mark.parametrize(("short", "name"), [("adamw", "torch_adamw"), ("muon", "muon_f32"), ("lion", "lion")])
def test_a_short_name_stands_for_a_recording(short, name):
    assert load(short).name == name


def test_an_unknown_recording_is_an_error_with_the_nearest():
    with pytest.raises(KeyError, match="no recording 'torch_admw'; nearest: torch_adamw"):
        load("torch_admw")


@pytest.mark.parametrize(
    ("name", "change", "first", "text"),
    [
        ("torch_adamw", {"decay": "coupled"}, 1, "weight decay is added to the gradient"),
        ("torch_adamw", {"eps_place": "inside"}, 1, "eps is inside the root"),
        ("torch_adamw", {"correct": "neither"}, 1, "no bias correction"),
        ("torch_sgd_wd", {"decay": "decoupled"}, 1, "weight decay acts on the parameters"),
        ("torch_sgd_dampening", {"damp_first": True}, 1, "the first gradient is dampened too"),
        ("torch_amsgrad", {"maximum": "after"}, 2, "the maximum is that of bias-corrected second moments"),
        ("muon_f32", {"debias": True}, 2, "the Nesterov mixture is bias-corrected"),
        ("torch_rprop", {"applied": "previous"}, 1, "each call applies the step of the previous call"),
        ("adopt", {"clip_step": "next"}, 2, "the clip of step k is"),
    ],
)
def test_a_wrong_convention_is_found_at_its_step(name, change, first, text):
    report, _ = variant(name, **change)
    assert not report.agrees
    assert report.first_step == first
    assert report.explanation.startswith(text)


def test_two_wrong_conventions_are_found_together():
    report, _ = variant("torch_adamw", decay="late", correct="first")
    assert set(report.explanation.split("; ")) == {
        "weight decay comes after the step",
        "only the first moment is bias-corrected",
    }


def test_an_unknown_fault_has_a_step_and_no_explanation():
    class Stumbles(NumPyOptimizer):
        def step(self, params, grads, state):
            new, (t, inner, memory) = super().step(params, grads, state)
            inner["dense/bias"] = inner["dense/bias"] + (0.1 if t == 7 else 0.0)
            return new, (t, inner, memory)

    report = check("torch_sgd", lambda h: Stumbles(sgd, lr=h.lr))
    assert (report.first_step, report.leaf, report.explanation) == (7, "dense/bias", "")


def test_a_non_finite_step_is_a_departure():
    recording = load("torch_sgd")
    path = {name: array.copy() for name, array in recording.trajectory.items()}
    path["dense/bias"][5:] = np.nan
    report = compare(recording, path)
    assert (report.first_step, report.deviation, report.leaf) == (5, np.inf, "dense/bias")
    assert explained(report, recording, path).explanation == ""


def test_every_alternative_is_a_convention_of_its_rule():
    for function, conventions in ALTERNATIVES.items():
        for name, values in conventions.items():
            assert name in (function.__kwdefaults__ or {})
            assert len(set(values.values())) == len(values)


@pytest.mark.parametrize("name", ["torch_adamw", "lion_wd", "torch_muon_plain_f32", "torch_sgd_nesterov"])
def test_optax_agrees(name):
    with permissive():
        (result,) = _run("optax", name)
    assert result.verdict == "agrees", result


@pytest.mark.parametrize("name", ["adan", "torch_rprop", "torch_rmsprop"])
def test_optax_departs_as_the_committed_results_say(name):
    with permissive():
        (result,) = _run("optax", name)
    (row,) = [row for row in RESULTS["optax"]["results"] if row["recording"] == name]
    assert (result.verdict, result.first_step, result.explanation) == ("departs", row["first_step"], row["explanation"])
    assert result.deviation == pytest.approx(row["deviation"], rel=0.01)


def _run(library, *wanted):
    from jaxopt_conformance.running import run

    return list(run(libraries.load(library), wanted))


def test_the_example_of_the_readme_reports_what_it_says(capsys):
    (example,) = re.findall(r"^```py\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    (said,) = re.findall(r"^```text\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    exec(example, {})
    assert capsys.readouterr().out == said


def test_an_optimizer_of_optax_is_checked():
    with permissive():
        assert check("adamw", lambda h: from_optax(optax.adamw(h.lr, *h.betas, weight_decay=h.weight_decay))).agrees


# Numbers that a library has no keyword for; it uses the same one, except for NAdam and Keras's schedule-free AdamW,
# which depart.
NO_KEYWORD = {
    ("heavyball", "ns_steps"),
    ("keras", "momentum_decay"),
    ("keras", "weight_lr_power"),
    ("optax", "momentum_decay"),
}
NO_EFFECT = {"muon_rowfloor_cwd_f32": {"SOAP_BETA2", "SOAP_PRECONDITION_FREQUENCY", "SOAP_DENOM_POWER"}}  # in its role
# -1: the second beta; part of the recorded learning rates; the norm of the recorded start.
INHERITED = {"shampoo_beta", "warmup", "hyperball_radius"}


def test_an_optimizer_of_torch_is_checked():
    torch = pytest.importorskip("torch")
    assert check("adamw", lambda h: from_torch(torch.optim.AdamW, **h)).deviation == 0


def test_a_recorded_schedule_reaches_a_torch_optimizer():
    torch = pytest.importorskip("torch")
    recording = load("torch_sgd")
    build = lambda leaves: torch.optim.SGD(list(leaves.values()), lr=1.0)
    path = replay(from_torch.from_leaves(build, rates=[0.5, 0.25]), recording)
    steps = {name: [0.5, 0.25, 0.25] * -grads[:3].T for name, grads in recording.grads.items()}
    for name, step in steps.items():
        np.testing.assert_allclose(np.diff(path[name][:4], axis=0).T, step, atol=1e-6)


def test_a_schedule_is_part_of_its_recording():
    rates = load("adamc").rates
    assert rates is not None
    assert rates.shape == (40,)
    assert load("adamw").rates is None


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_calls_name_every_number(table):
    # A flag or a word is expressed by the choice of the function or of the chain, where there is no keyword.
    allowed = INHERITED | {keyword for library, keyword in NO_KEYWORD if library == table.name}
    for name, call in table.calls.items():
        given = index()[name]["hyperparameters"]
        numbers = {key for key, value in given.items() if type(value) in (int, float) and value}
        used = set(given) if "**h" in call else set(re.findall(r"\bh\.(\w+)", call))
        assert numbers - used - NO_EFFECT.get(name, set()) <= allowed, call
        ast.parse(call.strip(), mode="eval")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_speaks_of_its_calls(table):
    assert {*table.alternatives, *table.documented, *table.float64} <= {*table.calls} <= {*names()}
    assert {row["recording"] for row in RESULTS[table.name]["results"]} == {*table.calls}


def test_every_recording_has_a_row_or_a_reason():
    covered = {row["recording"] for result in RESULTS.values() for row in result["results"]}
    reasons = [name for names in WITHOUT_ROW.values() for name in names]
    assert sorted(reasons) == sorted({*names()} - covered)


@pytest.mark.parametrize("library", sorted(RESULTS))
def test_committed_results_are_whole(library):
    for row in RESULTS[library]["results"]:
        assert row["verdict"] in ("agrees", "departs")
        assert (row["first_step"] is None) == (row["verdict"] == "agrees")
    assert len(RESULTS) >= 6


@pytest.mark.parametrize("name", SHOWN)
def test_a_reproduction_is_short_and_its_row_departs(name):
    source = (KIT / "departures" / f"{name}.py").read_text("utf-8")
    code = [line for line in source.split('"""', 2)[2].splitlines() if line and not line.startswith(("import", "os."))]
    assert len(code) <= 10
    library, *rows = SHOWN[name]
    verdicts = {row["recording"]: row["verdict"] for row in RESULTS[library]["results"]}
    assert {verdicts[row] for row in rows} == ({"departs"} if rows else set())


@pytest.mark.parametrize("name", SHOWN)
def test_a_reproduction_prints_what_it_says(name):
    library = SHOWN[name][0]
    if not find_spec(library):
        pytest.skip(f"{library} isn't installed")
    script, printed = (KIT / "departures" / f"{name}.py").read_text("utf-8"), io.StringIO()
    (said,) = re.findall(r"^Prints (.*?)\n\n", script, re.DOTALL | re.MULTILINE)
    with permissive(), contextlib.redirect_stdout(printed):
        exec(script, {})
    numbers = lambda text: [float(n) for n in re.findall(r"-?\d+\.\d*", text)]
    np.testing.assert_allclose(numbers(printed.getvalue()), numbers(said), atol=1e-4)


def test_the_command_prints_a_table(capsys):
    with permissive():
        assert main(["optax", "torch_sgd", "adan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"optax {optax.__version__}, jax ")
    assert [line.split()[:2] for line in lines[3:5]] == [["torch_sgd", "agrees"], ["adan", "departs"]]
    assert lines[-1] == "2 recordings: 1 agrees, 1 departs"


@pytest.mark.parametrize(("name", "status"), [("torch_sgd", 0), ("adan", 1)])
def test_strict_is_an_exit_status(name, status, capsys):
    with permissive():
        assert main(["optax", name, "--strict", "--format", "json"]) == status
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert row["recording"] == name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optx"], "no library 'optx'; there are "),
        (["optax", "torch_asgd"], "optax has no call for 'torch_asgd'; it has "),
        (["optax", "addan"], "no recording 'addan'; nearest: adan"),
    ],
)
def test_a_mistake_is_one_line(words, said, capsys):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"jaxopt_conformance: {said}")
    assert err.count("\n") == 1


def test_a_library_that_raises_is_a_row():
    table = dataclasses.replace(libraries.load("optax"), calls={"torch_sgd": "optax.no_such(h.lr)"})
    from jaxopt_conformance.running import run

    (result,) = run(table)
    assert (result.verdict, result.deviation) == ("fails", None)
    assert result.error.startswith("AttributeError: ")


@pytest.mark.slow
def test_the_wheel_has_the_recordings(tmp_path):
    pytest.importorskip("build")
    command = [sys.executable, "-m", "build", "--no-isolation", "-o", str(tmp_path), str(KIT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.whl")  # made from the source distribution
    inside = {Path(name).name for name in zipfile.ZipFile(path).namelist() if "/recordings/" in name}
    assert inside == {path.name for path in FOLDER.iterdir()}
