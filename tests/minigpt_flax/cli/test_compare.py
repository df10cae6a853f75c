"""The command ``compare``: what it trains, what it doesn't train twice, and the errors in one line."""

import json
import os
import shutil
import signal
import sys

import jax
import numpy as np
import pytest

from minigpt_flax.__main__ import main
from minigpt_flax.compare import rate_search, runner, sweep, tables
from minigpt_flax.compare.collect import group_runs
from minigpt_flax.compare.statistics import summarize
from minigpt_flax.runs.records import read_run
from tests.minigpt_flax.made_runs import write
from tests.minigpt_flax.training import TINY, compiled, records, start

SHARED = {name: value for name, value in TINY.items() if name not in ("steps", "eval-every", "mesh")}
FLAGS = [f"--{name}={value}" for name, value in SHARED.items()]


@pytest.fixture(autouse=True, scope="module")
def cached():
    """What is compiled serves every test."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (compiled(), 0.1), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


def compare(*arguments):
    return main(["compare", *map(str, arguments)])


def train(out, *arguments, steps=16):
    return compare(*FLAGS, f"--steps={steps}", f"--out={out}", "--name=c", "--opt=adamw", "--opt=sgd", *arguments)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A comparison with a search."""
    out = tmp_path_factory.mktemp("searched")
    assert train(out, "--lr=auto", "--seeds=3") == 0
    return out / "c"


def runs_of(folder):
    return {str(p.parent.relative_to(folder)): p.parent for p in folder.glob("*/*/config.json")}


def losses_of(folder):
    return {name: [line.get("loss") for line in records(path)] for name, path in runs_of(folder).items()}


def one_line(capfd):
    said = capfd.readouterr().err
    assert said.startswith("minigpt_flax: ") and said.count("\n") == 1, said
    return said


def test_a_search_trains_the_announced_runs_and_compares(searched):
    lengths = sorted(read_run(path).config["steps"] for path in runs_of(searched).values())
    assert lengths.count(16) == 6 and lengths.count(8) == 6 and 6 <= lengths.count(2) <= 12
    assert len(lengths) <= 2 * len(rate_search.lengths(16)) + 6
    values = json.loads((searched / "results.json").read_text())
    assert {s["name"] for s in values["standings"]} == {"adamw", "sgd"}
    assert all(set(s["losses"]) == {"0", "1", "2"} for s in values["standings"])
    assert values["pairs"][0]["seeds"] == 3


def test_candidates_of_a_seed_have_the_same_weights(searched):
    first = {}
    for path in runs_of(searched).values():
        run = read_run(path)
        first.setdefault(run.config["seed"], set()).add(run.training[0]["loss"])
    assert {seed: len(losses) for seed, losses in first.items()} == {
        0: 1,
        1: 1,
        2: 1,
        3: 1,
    }  # step 1 sees no optimizer yet


def test_the_compared_runs_did_not_select_the_learning_rate(searched):
    seeds = {}
    for path in runs_of(searched).values():
        config = read_run(path).config
        seeds.setdefault(config["seed"], set()).add((config["opt"].split("(")[0], config["lr"]))
    assert all(len(rates) == 2 for seed, rates in seeds.items() if seed != 3)  # one of each candidate
    assert 10 <= len(seeds[3]) <= 18  # a rate may be tried at both lengths
    assert json.loads((searched / "results.json").read_text())["search_seed"] == 3
    assert (
        "learning rates selected by runs with seed 3, which are not compared" in (searched / "results.md").read_text()
    )


def test_a_run_equals_one_of_train_py(searched, tmp_path):
    path = next(p for name, p in runs_of(searched).items() if "adamw" in name and "steps16-seed1" in name)
    config = read_run(path).config
    assert start(tmp_path / "run", lr=config["lr"], seed=1, steps=16, eval_every=config["eval_every"]) == 0
    ours, theirs = records(path), records(tmp_path / "run")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for name in ("loss", "lr", "val_loss"):
        values = [[line[name] for line in lines if name in line] for lines in (ours, theirs)]
        np.testing.assert_allclose(*values, rtol=1e-5)


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(searched, monkeypatch, capfd):
    monkeypatch.setattr(sweep, "train_group", None)
    before = (searched / "results.json").read_text()
    assert train(searched.parent, "--lr=auto", "--seeds=3") == 0
    assert (searched / "results.json").read_text() == before
    assert compare(searched) == 0  # summarizes without training
    assert "Holm-corrected, 1 test" in capfd.readouterr().out


@pytest.mark.slow
def test_a_stopped_comparison_continues(searched, tmp_path, capfd, monkeypatch):
    original = sweep.Sweep.report

    def report(self, *arguments):
        original(self, *arguments)
        if self.progress.done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(sweep.Sweep, "report", report)
        assert train(tmp_path, "--lr=auto", "--seeds=3") == 128 + signal.SIGTERM
    assert "compare --resume" in capfd.readouterr().out
    done = {name: (path / "metrics.jsonl").stat().st_mtime_ns for name, path in runs_of(tmp_path / "c").items()}
    assert 2 <= len(done) <= 3
    assert compare("--resume", tmp_path / "c") == 0
    assert losses_of(tmp_path / "c") == losses_of(searched)
    finished = sorted(done)[:2]
    assert all((tmp_path / "c" / name / "metrics.jsonl").stat().st_mtime_ns == done[name] for name in finished)


@pytest.mark.slow
def test_trained_together_equals_trained_alone(searched, tmp_path):
    assert train(tmp_path, "--lr=auto", "--seeds=3", "--vmap") == 0
    ours, theirs = losses_of(tmp_path / "c"), losses_of(searched)
    assert ours.keys() == theirs.keys()
    for name, losses in ours.items():
        pairs = [(a, b) for a, b in zip(losses, theirs[name], strict=True) if a is not None]
        np.testing.assert_allclose(*zip(*pairs, strict=True), atol=1e-4)
    path = next(iter(runs_of(tmp_path / "c").values()))
    assert read_run(path).env["together"] >= 1


@pytest.mark.parametrize("more", [pytest.param((), marks=pytest.mark.slow), ("--vmap",)])
def test_a_diverging_rate_is_shown_and_the_others_continue(tmp_path, capfd, more):
    assert train(tmp_path, "--lr=1e-3,1e30", "--clip=none", "--seeds=3", *more, steps=8) == 0
    values = json.loads((tmp_path / "c" / "results.json").read_text())
    assert {s["name"]: (s["diverged"], s["lr"]) for s in values["standings"]} == {"adamw": (3, 1e-3), "sgd": (3, 1e-3)}
    assert "diverged" in capfd.readouterr().out
    (path,) = (tmp_path / "c" / "sgd").glob("lr1e+30-*-seed0")
    assert read_run(path).state == "diverged"


@pytest.mark.slow
def test_shares_are_the_whole(searched, tmp_path, capfd):
    for share in ("0/2", "1/2"):
        assert train(tmp_path, "--lr=auto", "--seeds=3", f"--share={share}") == 0
        assert f"share {share} is done" in capfd.readouterr().out
    assert losses_of(tmp_path / "c") == losses_of(searched)


@pytest.mark.slow
def test_jobs_are_the_whole_with_one_summary(searched, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", compiled())
    assert train(tmp_path, "--lr=auto", "--seeds=3", "--jobs=2") == 0
    said = capfd.readouterr().out
    assert said.count("Holm-corrected") == 1 and said.count("steps in all") == 1 and "is done" not in said
    ours, theirs = losses_of(tmp_path / "c"), losses_of(searched)
    assert ours.keys() == theirs.keys()
    for name, losses in ours.items():  # children see one device, this process eight
        pairs = [(a, b) for a, b in zip(losses, theirs[name], strict=True) if a is not None]
        np.testing.assert_allclose(*zip(*pairs, strict=True), atol=1e-4)


def test_a_job_that_fails_fails_the_whole(tmp_path, capfd, monkeypatch):
    for status in (-signal.SIGKILL, 1):
        code = f"import os; os.kill(os.getpid(), 9) if {status} < 0 else os._exit({status})"
        monkeypatch.setattr(runner, "command", lambda *_, code=code: [sys.executable, "-c", code])
        assert train(tmp_path, "--jobs=2") == (1 if status == 1 else 128 + signal.SIGKILL)
        assert capfd.readouterr().out.count("stopped; continue with: ") == (status < 0)


def test_finished_runs_are_compared_by_their_folders(tmp_path, capfd):
    for name, opt in (("a", "adamw"), ("b", "lion")):
        for seed in range(6):
            write(tmp_path / f"{name}{seed}", [4.0, 2.0 + 0.01 * seed + 0.1 * (name == "b")], opt=opt, seed=seed)
    runs = sorted(tmp_path.iterdir())
    assert compare(*runs, "--out", tmp_path) == 0
    assert "adamw beats lion by 0.1000" in capfd.readouterr().out
    assert compare(*runs, "--out", tmp_path, "--baseline=nope") == 2
    assert "--baseline 'nope' is no candidate: the candidates are adamw, lion" in one_line(capfd)


@pytest.mark.parametrize("form", tables.FORMATS)
def test_a_format_prints_the_table_alone(tmp_path, capfd, form):
    for name, opt in (("a", "adamw"), ("b", "lion")):
        write(tmp_path / name, [4.0, 2.0], opt=opt)
    summary = summarize(group_runs([read_run(tmp_path / name) for name in "ab"]))
    flags = (f"--format={form}", f"--out={tmp_path}", "--name=c", "--pictures=none")
    assert compare(tmp_path / "a", tmp_path / "b", *flags) == 0
    assert capfd.readouterr().out == tables.FORMATS[form](summary)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"results.json", "results.csv", "results.md"}
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b"), f"--format={form}"]) == 0
    assert capfd.readouterr().out == tables.FORMATS[form](summary)
    assert main(["report", str(tmp_path / "a"), f"--format={form}"]) == 2
    assert "needs two candidates" in one_line(capfd)


def test_the_progress_of_training_does_not_mix_with_the_table(searched, tmp_path, capfd):
    shutil.copytree(searched, tmp_path / "c")
    assert train(tmp_path, "--lr=auto", "--seeds=3", "--format=csv", "--pictures=none") == 0
    said = capfd.readouterr()
    assert said.out == (tmp_path / "c" / "results.csv").read_text() and "at most 24 runs" in said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--opt=adamw"], "two candidates"),
        (["--opt=adamw", "--opt=nope"], "no optimizer is called 'nope'"),
        (["--opt=adamw", "--opt=lion", "--seeds=2"], "--seeds must be at least 3, got 2"),
        (["--opt=adamw", "--opt=lion", "--baseline=sgd"], "--baseline 'sgd' is no candidate"),
        (["--opt=adamw", "--opt=lion", "--resolution=0"], "--resolution must be above 0"),
        (["--opt=adamw", "--opt=lion", "--seeds=auto"], "--seeds auto needs --resolution LOSS"),
        (["--opt=adamw", "--opt=lion", "--seeds=auto", "--resolution=0"], "--resolution must be above 0"),
        (["--opt=adamw", "--opt=lion", "--seeds=auto", "--resolution=1", "--max-seeds=5"], "must be at least 6 to"),
        (["--opt=adamw", "--opt=lion", "--seeds=auto", "--resolution=1", "--share=0/2"], "omit --share, or use --jobs"),
        (["--opt=adamw", "--opt=lion", "--max-seeds=9"], "--max-seeds limits --seeds auto"),
        (["--opt=adamw", "--opt=lion", "--seeds=many"], "expected a whole number"),
        (["--opt=adamw", "--opt=lion", "--lr=high"], "--lr takes auto, or numbers"),
        (["--opt=adamw", "--opt=lion", "--share=2/2"], "--share takes I/N"),
        (["--opt=adamw", "--opt=lion", "--jobs=0"], "--jobs must be at least 1"),
        (["--opt=adamw", "--opt=lion", "--vmap", "--on-nan=rollback"], "--vmap trains runs in lockstep"),
        (["--opt=adamw", "--opt=lion", "--preset=nanoo"], "did you mean 'nano'?"),
        (["--resume=nowhere"], "not the folder of a comparison"),
        (["nowhere", "there"], "not the folder of a run"),
        (["nowhere", "there", "--opt=adamw"], "only summarized"),
        *(
            (["nowhere", "there", flag], "only summarized")
            for flag in ("--seeds=3", "--jobs=1", "--vmap", "--share=0/2")
        ),
        *((["--resume=nowhere", flag], "omit --") for flag in ("--opt=lion", "--name=x", "--steps=3")),
        (["--opt=adamw", "--opt=lion", "--seed=-5"], "must be at least 0, got -5"),
        (["--opt=adamw", "--opt=lion", f"--seed={2**63 - 3}"], "must be at most"),
        (["--opt=adamw", "--opt=lion", "--lr=0.1,inf"], "--lr must be at most"),
        (["--opt=adamw", "--opt=lion(b1='x')"], "b1 takes a number"),
        (["--opt=adamw", "--opt=lion", "--vocab-size=1000000000"], "lower --vocab-size"),
        (["--opt=adamw", "--opt=lion", "--format=html"], "there are: latex, markdown, csv, json"),
        (["--opt=adamw", "--opt=lion", "--format=csv", "--json"], "--json and --format exclude each other"),
        (["--opt=adamw", "--opt=lion", "--pictures=png,gif"], "there are: png, svg, pdf"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capfd, arguments, said):
    flags = [] if arguments[0].startswith(("--resume", "nowhere")) else FLAGS
    assert compare(*flags, *arguments, *([f"--out={tmp_path}"] if flags else [])) == 2
    assert said in one_line(capfd)
    assert not list(tmp_path.iterdir())


def test_a_damaged_comparison_is_reported(searched, tmp_path, capfd):
    shutil.copytree(searched, tmp_path / "c")
    (tmp_path / "c" / "comparison.json").write_text("{")
    assert compare(tmp_path / "c") == 2
    assert "comparison.json is damaged" in one_line(capfd)


def test_how_seeds_are_chosen_stays(searched, tmp_path, capfd):
    shutil.copytree(searched, tmp_path / "c")
    assert compare("--resume", tmp_path / "c", "--seeds=auto") == 2
    assert "was started without --seeds auto, which can't change: omit --seeds" in one_line(capfd)
    path = tmp_path / "c" / "comparison.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_seeds": 20}))
    assert compare("--resume", tmp_path / "c", "--seeds=5") == 2
    assert "was started with --seeds auto, which can't change: omit --seeds" in one_line(capfd)
    assert train(tmp_path, "--lr=auto", "--seeds=3") == 2
    assert "max_seeds=20, not None: give another --name" in one_line(capfd)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--vmap",), ("--jobs=2",)])
def test_seeds_as_needed_are_those_of_a_fixed_number(tmp_path, capfd, monkeypatch, more):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", compiled())
    assert train(tmp_path, "--lr=0.01", "--seeds=auto", "--resolution=1e-9", "--max-seeds=8", *more, steps=8) == 0
    values = json.loads((tmp_path / "c" / "results.json").read_text())
    count = len(values["standings"][0]["losses"])
    assert values["looks"] == [6, 8] and count in (6, 8)
    assert "seeds added as needed, tests at 6, 8" in " ".join(capfd.readouterr().out.split())
    ours = losses_of(tmp_path / "c")
    shutil.rmtree(tmp_path / "c")
    assert train(tmp_path, "--lr=0.01", f"--seeds={count}", *more, steps=8) == 0
    theirs = losses_of(tmp_path / "c")
    assert ours.keys() == theirs.keys()
    for name, losses in ours.items():
        pairs = [(a, b) for a, b in zip(losses, theirs[name], strict=True) if a is not None]
        np.testing.assert_allclose(*zip(*pairs, strict=True), atol=1e-4 if more else 0)


def test_seeds_are_added_and_the_tests_of_a_comparison_stay(searched, tmp_path, capfd, monkeypatch):
    shutil.copytree(searched, tmp_path / "c")
    trained = []
    monkeypatch.setattr(sweep.Sweep, "train", lambda self, candidate, configs: trained.append(configs))
    monkeypatch.setattr(sweep, "final_loss", lambda path: 1.0)
    assert compare("--resume", tmp_path / "c", "--seeds=5") == 0
    assert {config.seed for configs in trained for config in configs if config.steps == 16} == {0, 1, 2, 4, 5}
    said = " ".join(capfd.readouterr().out.split())
    assert "5 seeds can't give a verdict, 6 can" in said and "adamw: unfinished with seed 4, 5" in said
    assert "no verdict: " in said and " has unfinished runs" in said
    assert compare(tmp_path / "c", "--baseline=sgd") == 2
    assert "were fixed before its first run: omit --baseline" in one_line(capfd)
