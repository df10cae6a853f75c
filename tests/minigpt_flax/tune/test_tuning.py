"""The specification of a tuning: which keywords it takes, the runs that they give, and what it stores."""

import dataclasses
import json
import shlex

import pytest

from minigpt_flax.cli.parser import given_fields, parser
from minigpt_flax.errors import UserError
from minigpt_flax.train.config.run_config import as_text, resolve
from minigpt_flax.tune.tuning import Tuning, check, load, save

SMALL = {"layers": 1, "heads": 2, "width": 16, "context": 8, "batch_size": 4, "steps": 80}


def tuning(*over, given=SMALL, **more):
    """A checked tuning."""
    return check(Tuning(**{"preset": "nano", "given": given, "over": over, "seeds": (0,), "judging_seeds": 2, **more}))


def test_the_command_trains_with_the_values():
    one = tuning("lr=1e-4..1e-2", "b2=0.9..0.999", "warmup=5,20")
    values = {"lr": 0.0032, "b2": 0.968, "warmup": 20}
    words = shlex.split(one.command(values).partition("train")[2].partition("--")[2].join(["--", ""]))
    typed = parser().parse(words)
    config = resolve(given_fields(typed), typed["preset"])
    expected = one.config(values)
    same = dataclasses.replace(
        expected, **{name: getattr(config, name) for name in ("eval_every", "sample_tokens", "mesh")}
    )
    assert as_text(config) == as_text(same)
    assert (config.lr, config.opt.keywords["b2"], config.schedule.keywords["warmup"]) == (0.0032, 0.968, 20)


def test_a_shorter_run_has_the_same_shape_of_schedule_and_a_traced_keyword():
    one = tuning("warmup=8,16", "b2=0.9,0.99")
    config = one.config({"warmup": 8, "b2": 0.9}, steps=40, seed=5, traced=["b2"])
    assert (config.steps, config.seed, config.eval_every) == (40, 5, 40)
    assert config.schedule.keywords["warmup"] == 4 and config.opt.keywords["b2"] == [(0, 0.9)]


def test_the_start_is_the_optimizers_own():
    assert tuning("lr=1e-4..1e-2", "b1=0.8,0.9", "warmup=0..0.2").start == {"lr": 0.003, "b1": 0.9, "warmup": 0.05}
    assert tuning("momentum=0.8,0.9", given={**SMALL, "opt": "sgd"}).start.keys() == {"momentum"}


def test_the_judging_seeds_are_no_search_seeds():
    one = tuning("lr=1e-4..1e-2", seeds=(3, 4), judging_seeds=3)
    assert one.judged == (5, 6, 7)


@pytest.mark.parametrize(
    ("over", "given", "problem"),
    [
        (["b3=0.1,0.2"], {}, "neither optimizer 'adamw' nor schedule"),
        (["weigth_decay=0.1,0.2"], {}, "did you mean 'weight_decay'"),
        (["nesterov=0,1"], {}, "numeric keyword"),
        (["mask=0,1"], {}, "numeric keyword"),
        (["steps=10,20"], {}, "numeric keyword"),
        (["ns_steps=3..9"], {"opt": "muon"}, "whole number"),
        (["lr=0,1"], {}, "--over lr must be above 0"),
        (["lr=1,2"], {"lr": 0.1}, "exclude each other"),
        (["dropout=0..0.5"], {"dropout": 0.1}, "--dropout and --over dropout exclude each other"),
        (["lr=1,2"], {"eval_every": 5}, "omit --eval-every"),
        (["warmup=0.5,20"], {}, "mixes fractions"),
        (["lr=1,2", "lr=3,4"], {}, "given twice"),
        ([], {}, "none is given"),
    ],
)
def test_mistakes_are_refused_in_one_line(over, given, problem):
    with pytest.raises(UserError, match=problem) as error:
        tuning(*over, given={**SMALL, **given})
    assert "\n" not in str(error.value)


def test_a_budget_that_is_too_small():
    with pytest.raises(UserError, match="--budget must be at least 10 full runs to search 2 keywords, got 3"):
        tuning("lr=1e-4..1e-2", "b2=0.9..0.999", budget=3.0)
    assert tuning("lr=1,2,3", budget=3.0).plan.is_exhaustive


def test_a_tuning_is_stored_and_read_back(tmp_path):
    one = tuning("lr=1e-4..1e-2", "b2=0.9..0.999", budget=12.0)
    save(one, tmp_path / "t")
    assert load(tmp_path / "t", trust=True) == one
    save(dataclasses.replace(one, judging_seeds=5), tmp_path / "t")  # more seeds judge the same search
    with pytest.raises(UserError, match="over=.*give another --name"):
        save(tuning("lr=1e-4..1e-1", "b2=0.9..0.999", budget=12.0), tmp_path / "t")
    with pytest.raises(UserError, match="not the folder of a tuning"):
        load(tmp_path)
    (tmp_path / "other").write_text("")
    with pytest.raises(UserError, match="is no tuning"):
        save(one, tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"version": 99}, {"over": ["lr=2..1"]}, {"over": "lr=1..2"}, {"seeds": []}, {"budget": -1.0}, {"more": 1}],
)
def test_a_damaged_file_is_refused(tmp_path, change):
    save(tuning("lr=1e-4..1e-2"), tmp_path / "t")
    path = tmp_path / "t" / "tuning.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError):
        load(tmp_path / "t")


def test_a_proxy_is_the_base_of_the_model():
    one = tuning("lr=1e-3,1e-2", given={**SMALL, "width": 64, "heads": 8, "hidden": 96}, proxy_width=16)
    config = one.config({"lr": 0.01})
    assert (config.width, config.heads, config.hidden, config.base_width) == (16, 2, 24, 16)
    words = shlex.split(one.command({"lr": 0.01}))
    typed = parser().parse(words[words.index("--preset") :])
    found = resolve(given_fields(typed), typed["preset"])
    assert (found.width, found.heads, found.hidden, found.base_width) == (64, 8, 96, 16)
    assert str(found.parametrization) == "mup" and found.lr == 0.01 and one.width == 64


def test_clip_and_dropout_are_keywords_of_the_run():
    one = tuning("clip=0.5,1,2", "dropout=0..0.2")
    assert one.start == {"clip": 1.0, "dropout": 0.0}
    config = one.config({"clip": 2.0, "dropout": 0.1})
    assert str(config.clip) == "clip_by_norm(threshold=2.0)" and config.dropout == 0.1
    assert "--dropout 0.1 --clip 'clip_by_norm(threshold=2.0)'" in one.command({"clip": 2.0, "dropout": 0.1})
    with pytest.raises(UserError, match="there are: lr, dropout"):
        tuning("clip=1,2", given={**SMALL, "clip": "none"})


@pytest.mark.parametrize(
    ("given", "width", "problem"),
    [
        ({}, 16, "--proxy-width must be below --width 16, got 16"),
        ({"parametrization": "standard"}, 8, "give --parametrization mup or completep"),
        ({"base_width": 8}, 8, "omit --base-width"),
        ({"heads": 1}, 8, "--proxy-width 8: 1 of --heads at width 16 would be 0.5 at width 8"),
        ({}, 0, "--proxy-width must be at least 1"),
    ],
)
def test_an_impossible_proxy_is_refused(given, width, problem):
    with pytest.raises(UserError, match=problem):
        tuning("lr=1e-3,1e-2", given={**SMALL, **given}, proxy_width=width)
