"""``--tuned-at``: hyperparameters are rescaled once, to the run's own batch size and length."""

import pytest

from minigpt_flax.compare.comparison import shared_fields
from minigpt_flax.errors import UserError
from minigpt_flax.train.config.run_config import RunConfig, resolve
from minigpt_flax.train.config.stored import from_json, to_json
from minigpt_flax.train.reporter import Reporter
from minigpt_flax.train.resume_config import check_resume_flags
from minigpt_flax.train.scaling import read_reference, rescaled
from minigpt_flax.train.session import RunOptions, Session
from minigpt_flax.train.stop import Stop

SIZES = {"batch_size": 24, "accum": 2, "steps": 50, "lr": 1e-3}
TUNED = {**SIZES, "tuned_at": "batch=12,steps=200"}


def test_the_learning_rate_and_the_keywords_follow():
    config = resolve({**TUNED, "group": ("vector=sgd(lr=0.1)", "head=frozen")}, "nano")
    assert config.lr == pytest.approx(2e-3)
    assert {k: round(v, 6) for k, v in config.opt.keywords.items()} == {
        "b2": 0.960596,
        "weight_decay": 0.2,
        "eps": 0.0,
    }
    assert [group.lr for group in config.group] == [pytest.approx(0.4), 2e-3 / 2]


def test_lines_say_what_changes_and_why():
    before = {**vars(resolve(SIZES, "nano")), "tuned_at": TUNED["tuned_at"]}
    _, (header, *lines) = rescaled(before)
    assert header == "batch x 4, steps x 0.25, tokens x 1"
    assert lines[0] == "lr 0.001 -> 0.002: x 4^0.5, square-root rule (Malladi et al. 2022)"
    assert [line.split()[0] for line in lines] == ["lr", "b2", "eps", "weight_decay", "warmup"]
    assert rescaled({**before, "tuned_at": "batch=48,steps=50"})[1][1:] == ["nothing changes"]
    _, lines = rescaled({**before, "opt": resolve({"opt": "prodigy"}, "nano").opt})
    assert lines[1].startswith("lr 0.001: unchanged, as this optimizer estimates its learning rate")


def test_a_shorter_run_has_as_many_warmup_steps():
    config = resolve({**TUNED, "group": ("vector=sgd(lr=0.1, schedule='warmup_linear(warmup=0.3)')",)}, "nano")
    assert config.schedule.keywords["warmup"] == pytest.approx(0.2)  # 10 of 50 steps, as 0.05 of 200
    assert config.group[0].schedule.keywords["warmup"] == 0.5  # at most
    for schedule in ("warmup_cosine(warmup=7)", "constant", "wsd(warmup=0)"):
        new, old = (resolve({**given, "schedule": schedule}, "nano").schedule for given in (TUNED, SIZES))
        assert new == old
    assert resolve({**TUNED, "steps": 400}, "nano").schedule == resolve({}, "nano").schedule


def folder_of(path, **fields):
    """The folder of a finished run that was not trained."""
    config = resolve({**SIZES, "batch_size": 12, "accum": 1, "steps": 200, **fields}, "nano")
    path.mkdir()
    (path / "config.json").write_text(to_json(config))
    (path / "metrics.jsonl").write_text('{"step": 200, "tokens": 1, "seconds": 1.0, "val_loss": 2.0}\n')
    return str(path)


def test_the_folder_of_a_run_is_a_reference(tmp_path):
    folder = folder_of(tmp_path / "tuned")
    config = resolve({**SIZES, "tuned_at": folder}, "nano")
    assert config == resolve(TUNED, "nano") and config.tuned_at == "batch=12,steps=200"
    assert resumed(config, {**SIZES, "tuned_at": folder}) == config


def test_a_folder_that_is_no_reference_is_refused(tmp_path):
    tuned, changing = folder_of(tmp_path / "a"), folder_of(tmp_path / "b", batch_size=[(0, 4), (5, 8)])
    for fields, said in (
        ({"tuned_at": tuned, "lr": 2e-3}, "was trained with lr=0.001, and not with 0.002: give both runs the same"),
        ({"tuned_at": tuned, "opt": "lion"}, "was trained with opt=adamw"),
        ({"tuned_at": changing}, "the batch of this run changes"),
        ({"tuned_at": str(tmp_path)}, "is not the folder of a run"),
    ):
        with pytest.raises(UserError, match=said):
            resolve({**SIZES, **fields}, "nano")
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="this run is unfinished: name a finished one"):
        resolve({**SIZES, "tuned_at": tuned}, "nano")


def test_a_stored_configuration_is_not_rescaled_again():
    config = resolve(TUNED, "nano")
    assert RunConfig(**vars(config)) == config == from_json(to_json(config), "config.json").config


def resumed(config, given, restarted=True):
    session = Session(given, "nano", RunOptions(), Reporter(), Stop())
    return check_resume_flags(session, "runs/x", config, restarted)


def test_the_command_that_started_a_run_resumes_it():
    config = resolve(TUNED, "nano")
    assert resumed(config, TUNED) == config
    with pytest.raises(UserError, match="was started with tuned_at='batch=12,steps=200', not 'batch=6,steps=200'"):
        resumed(config, {"tuned_at": "batch=6,steps=200"})
    with pytest.raises(UserError, match="was started with lr=0.002, not 0.003"):
        resumed(config, {**TUNED, "lr": 1.5e-3})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch=12", "steps is missing: add steps=N"),
        ("batch=0,steps=5", "batch must be a whole number above 0, got '0'"),
        ("batch=12,steps=-5", "steps must be a whole number above 0, got '-5'"),
        ("batch=1.5,steps=5", "batch must be a whole number above 0, got '1.5'"),
        ("batch=12,step=5", "no key 'step'.*'steps'"),
        ("batch=12,batch=12", "batch is given twice"),
        ("12", "no key '12'"),
    ],
)
def test_a_wrong_reference_is_refused_in_one_line(text, said):
    with pytest.raises(UserError, match=said) as error:
        read_reference(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"opt": "adagrad"}, "no rule is known for optimizer 'adagrad'"),
        ({"opt": "optax:adam"}, "no rule is known for optimizer 'optax:adam'"),
        ({"group": ("vector=adafactor",)}, "no rule is known for optimizer 'adafactor'"),
        ({"batch_size": [(0, 4), (5, 8)]}, "needs a batch of one size, but --batch-size changes"),
    ],
)
def test_runs_without_a_rule_are_refused(more, said):
    with pytest.raises(UserError, match=said):
        resolve({**TUNED, **more}, "nano")


def test_a_search_does_not_rescale():
    with pytest.raises(UserError, match="tuned_at is for a single run"):
        shared_fields(TUNED)
