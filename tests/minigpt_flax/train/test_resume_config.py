"""An extended run equals one planned to be as long, bit for bit; where that can't be, one line says why."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from jaxopt_mini import WRAPPERS, ParamLayout
from minigpt_flax.errors import UserError
from minigpt_flax.model.config import Architecture
from minigpt_flax.train import resume_config
from minigpt_flax.train.carry_over import carried
from minigpt_flax.train.config.run_config import FIELDS, FIXED, RunConfig
from minigpt_flax.train.optimizer import build_optimizer
from minigpt_flax.train.reporter import Reporter
from minigpt_flax.train.restore import restore
from minigpt_flax.train.session import RunOptions, Session
from minigpt_flax.train.stop import Stop
from tests.minigpt_flax.training import last_state, records, resume, start

OPTIONS = {f.name for f in dataclasses.fields(Architecture)}
CLASSES = {
    "at every resume": FIELDS.keys() - FIXED,
    "at every resume, recorded": set(resume_config.FREE),
    "with --change": {*resume_config.CHANGEABLE, *resume_config.SAME_STATE},
    "in some cases": set(resume_config.CONDITIONAL),
    "never": resume_config.FIXED_BECAUSE.keys() | ((OPTIONS & FIXED) - set(resume_config.CHANGEABLE)),
}


def losses(path):
    return [(record["step"], record["loss"], record["lr"]) for record in records(path) if "loss" in record]


EXTENSIBLE = {
    "constant": ("constant", ()),
    "inverse_sqrt": ("inverse_sqrt(warmup=4)", ()),
    "warmup_constant": ("warmup_constant(warmup=4)", ()),
    "wsd before its cool-down": ("wsd(warmup=2, cooldown=10)", ("--stop-after=10",)),
    "schedule-free": ("constant", ("--wrap=schedule_free",)),
    "accumulated": ("constant", ("--wrap=accumulate(steps=3)",)),
}


QUICK = ("constant",)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow) for case in EXTENSIBLE]
)
def test_an_extended_run_equals_a_long_one(case, tmp_path):
    schedule, more = EXTENSIBLE[case]
    assert start(tmp_path / "short", *more, schedule=schedule, steps=24) == 0
    assert resume(tmp_path / "short", "--steps=48") == 0
    longer = [flag for flag in more if "stop" not in flag]
    assert start(tmp_path / "long", *longer, schedule=schedule, steps=48) == 0
    assert losses(tmp_path / "short") == losses(tmp_path / "long")
    assert last_state(tmp_path / "short") == last_state(tmp_path / "long")
    assert json.loads((tmp_path / "short" / "config.json").read_text())["steps"] == 48


def test_a_warmup_that_is_a_fraction_keeps_its_steps(tmp_path):
    assert start(tmp_path / "run", schedule="inverse_sqrt(warmup=0.25)", steps=24) == 0
    assert resume(tmp_path / "run", "--steps=48") == 0
    assert start(tmp_path / "long", schedule="inverse_sqrt(warmup=6)", steps=48) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "long")
    assert "warmup=6" in json.loads((tmp_path / "run" / "config.json").read_text())["schedule"]


@pytest.mark.parametrize("schedule", ["warmup_cosine(warmup=4)", "linear", "wsd(warmup=2, cooldown=10)"])
def test_where_the_past_would_have_been_different_one_line_says_why(schedule, tmp_path, capfd):
    path = tmp_path / "run"
    assert start(path, schedule=schedule) == 0
    before = (path / "config.json").read_bytes()
    capfd.readouterr()
    assert resume(path, "--steps=48") == 2
    said = capfd.readouterr().err
    assert "can't be extended to --steps 48" in said and "constant, inverse_sqrt, and wsd" in said
    assert said.count("\n") == 1 and (path / "config.json").read_bytes() == before


def test_a_run_is_not_shortened(tmp_path, capfd):
    assert start(tmp_path / "run", schedule="constant") == 0
    assert resume(tmp_path / "run", "--steps=12") == 2
    assert "can be extended, not shortened" in capfd.readouterr().err


def test_what_changes_the_numbers_changes_on_request_and_is_recorded(tmp_path, capfd):
    path = tmp_path / "run"
    assert start(path, lr=0.01, steps=2, eval_every=2, schedule="warmup_cosine(warmup=1)") == 0
    flags = ("--lr=0.001", "--clip=clip_by_value(0.5)", "--steps=4")
    for flag in flags[:2]:
        capfd.readouterr()
        assert resume(path, flag) == 2
        said = capfd.readouterr().err
        assert "add --change to change it from here on" in said and said.count("\n") == 1
    assert resume(path, "--change", "--opt=adamw(nesterov=True)", "--wrap=ema_params") == 2
    assert "was started with wrap=none, not ema_params: omit the flag, or start another run" in capfd.readouterr().err
    assert resume(path, "--change", *flags, "--schedule=constant", "--on-nan=skip", "--probe=clip") == 0
    said = capfd.readouterr().out
    assert "changed after step 2: steps 2 -> 4, on_nan stop -> skip, probe none -> clip, lr 0.01 -> 0.001" in said
    assert [lr for _, _, lr in losses(path)][2:] == pytest.approx([0.001] * 2)
    config = json.loads((path / "config.json").read_text())
    assert (config["lr"], config["clip"]) == (0.001, "clip_by_value(0.5)")
    (change,) = map(json.loads, (path / "changes.jsonl").read_text().splitlines())
    schedule = ["warmup_cosine(warmup=1, floor=0.1)", "constant"]
    clip = ["clip_by_norm(1.0)", "clip_by_value(0.5)"]
    expected = {"step": 2, "steps": [2, 4], "lr": [0.01, 0.001], "schedule": schedule, "clip": clip}
    assert change == expected | {"on_nan": ["stop", "skip"], "probe": [[], ["clip"]]}
    assert [restore(path, step).step for step in ("2", "4")] == [2, 4]  # either structure is read


@pytest.mark.slow
def test_what_leaves_the_numbers_alone_changes_freely(tmp_path, capfd):
    whole, other = tmp_path / "whole", tmp_path / "other"
    assert start(whole, schedule="constant", steps=4, eval_every=4) == 0
    assert start(other, schedule="constant", steps=4, eval_every=4, stop_after=2) == 0
    assert resume(other, "--remat=full", "--loss-chunk=8", "--batch-size=2", "--accum=2", "--eval-every=1") == 0
    for ours, theirs in zip(losses(other), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert json.loads((other / "config.json").read_text())["accum"] == 2
    assert resume(other, "--batch-size=4") == 2
    assert "was started with batch_size=2, not 4" in capfd.readouterr().err


@pytest.mark.parametrize("field", FIELDS)
def test_every_flag_is_in_one_class_and_obeys_it(field):
    (own,) = [name for name, fields in CLASSES.items() if field in fields]
    config = RunConfig(preset="nano", parametrization="completep", wrap=("ema_params",))
    for change in (False, True):
        session = Session({field: other(field, config)}, None, RunOptions(change=change), Reporter(), Stop())
        allowed = own.startswith("at every") or (change and own == "with --change") or field in ("steps", "data")
        if allowed:
            changed = resume_config.check_resume_flags(session, "run", config)
            assert getattr(changed, field) != getattr(config, field)
            continue
        with pytest.raises(UserError) as error:
            resume_config.check_resume_flags(session, "run", config)
        said = str(error.value)
        assert f"was started with {field}=" in said and "omit the flag, or" in said
        assert ("add --change" in said) is (own == "with --change")
        assert said.endswith("from here on") or len(said.rpartition("another run; ")[2]) > 20  # the reason


TEXTS = {
    "opt": "adamw(weight_decay=0.5)",
    "wrap": ("ema_params(decay=0.5)",),
    "group": ("head=sgd",),
    "parametrization": "mup",
    "dtype": "bfloat16",
    "tokenizer": "byte",
    "on_nan": "skip",
    "schedule": "constant",
    "clip": "none",
    "log": ("tensorboard",),
    "probe": ("clip",),
    "data": ("other",),
    "mesh": "data=1",
    "parallel": "pmap",
    "init": "gpt2",
    "tuned_at": "batch=2,steps=10",
    "mix": "1",
}


def other(field, config):
    """Another value of a field."""
    value = getattr(config, field)
    names = FIELDS[field].metadata.get("names")
    if field in TEXTS:
        return TEXTS[field]
    if names:
        return next(name for name in names if name != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "plain"
    return {"dropout": 0.5, "rope_base": 5.0}.get(field, 2 * (value or 1) + (field == "seed"))


QUICK_ONE = "accumulate"
REQUIRED = {"accumulate": "(steps=2)"}
CHANGES = {
    "clip": ({"clip": "none"}, {"clip": "clip_by_norm(1.0)"}),
    "policy": ({}, {"on_nan": "skip"}),
    "probes": ({}, {"probe": ("cosine", "clip")}),
    "all": ({"clip": "clip_by_value(1.0)"}, {"clip": "clip_by_norm(1.0)", "on_nan": "rollback", "probe": ("clip",)}),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "wrapper",
    [None, *(pytest.param(name, marks=[] if name == "accumulate" else pytest.mark.slow) for name in WRAPPERS)],
)
def test_a_change_of_clip_policy_or_probes_keeps_the_state(wrapper, change):
    wrap = () if wrapper is None else (wrapper + REQUIRED.get(wrapper, ""),)
    params = {"w": jnp.ones((2, 2, 3)), "b": jnp.ones((2, 3))}
    layout = {"w": ParamLayout("matrix", (0,), (1,), (2,)), "b": ParamLayout("vector", (0,), (), (1,))}

    def state(fields):
        config = RunConfig(preset="nano", wrap=wrap, **fields)
        return build_optimizer(config, layout)[1].init(params)

    less, more = map(state, CHANGES[change])
    mark = lambda tree: jax.tree.map(lambda leaf: jnp.full(leaf.shape, 7).astype(leaf.dtype), tree)
    kept = lambda tree: sum(bool((leaf == 7).all()) for leaf in jax.tree.leaves(tree))
    grown, shrunk = carried(mark(less), more), carried(mark(more), less)
    assert jax.tree.structure(grown) == jax.tree.structure(more) and kept(grown) == len(jax.tree.leaves(less))
    assert jax.tree.structure(shrunk) == jax.tree.structure(less) and kept(shrunk) == len(jax.tree.leaves(less))


@pytest.mark.slow
def test_what_a_changed_run_does_not_use_leaves_its_numbers_alone(tmp_path):
    whole, path = tmp_path / "whole", tmp_path / "changed"
    sizes = {"steps": 12, "eval_every": 4, "schedule": "constant", "clip": "none"}
    assert start(whole, **sizes) == 0
    assert start(path, **sizes, stop_after=4) == 0
    changes = ("--change", "--clip=clip_by_norm(1e9)", "--on-nan=rollback", "--probe=clip")
    assert resume(path, *changes, "--stop-after=4") == 0  # and ends before it saves the new structure
    assert resume(path, "--stop-after=8") == 0
    assert resume(path, "--on-nan=stop", "--probe=cosine") == 0
    for ours, theirs in zip(losses(path), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.slow
def test_a_keyword_that_changes_the_state_is_refused_by_its_array(tmp_path, capfd):
    path = tmp_path / "run"
    assert start(path, "--opt=sgd", steps=4, eval_every=4, schedule="constant") == 0
    assert resume(path, "--change", "--opt=sgd(momentum=0.5)", "--steps=8") == 2
    said = capfd.readouterr().err
    assert "whose state has another opt_state/" in said and said.count("\n") == 1
