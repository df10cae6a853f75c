"""``config.json``: every field of a version has its type, or the error names the field."""

import json

import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.train.config.run_config import FIELDS as FIELD_OF, RunConfig, parsed
from minigpt_flax.train.config.stored import ADDED, IN_EVERY_VERSION, VERSION, from_json, to_json

FIELDS = list(FIELD_OF)


def stored(**changes):
    return {**json.loads(to_json(RunConfig())), **changes}


def test_a_config_reads_back():
    found = from_json(to_json(RunConfig(lr=0.5, wrap=("cautious",))), "config.json")
    assert (found.config, found.version, found.assumed) == (RunConfig(lr=0.5, wrap=("cautious",)), VERSION, "")


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_missing_is_named_and_never_assumed(name):
    values = stored()
    del values[name]
    with pytest.raises(UserError, match=f"config.json has no field '{name}'"):
        from_json(json.dumps(values), "config.json")


@pytest.mark.parametrize("name", FIELDS)
def test_an_old_config_may_lack_what_was_added_later_and_says_what_is_assumed(name):
    values = stored()
    del values["version"], values[name]
    if name in IN_EVERY_VERSION:
        with pytest.raises(UserError, match=f"has no field '{name}'"):
            from_json(json.dumps(values), "config.json")
    else:
        found = from_json(json.dumps(values), "config.json")
        assert found.version == 1
        assert found.assumed == ("" if name in ADDED else f"{name}={FIELD_OF[name].default!r}")


@pytest.mark.parametrize("name", ADDED)
def test_a_field_of_a_later_version_has_its_default_in_an_earlier_one(name):
    values = stored(version=ADDED[name] - 1)
    del values[name]
    found = from_json(json.dumps(values), "config.json")
    assert getattr(found.config, name) == parsed(name, FIELD_OF[name].default) and found.assumed == ""


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [{"a": 1}, [[1]], "\x1b[31m", True, -1, 10**30, float("nan")], ids=str)
def test_a_field_of_another_type_is_refused_or_is_a_value_of_that_type(name, value):
    try:
        found = from_json(json.dumps(stored(**{name: value})), "config.json")
    except UserError as error:
        assert str(error).startswith("config.json") and "\n" not in str(error)
    else:
        assert type(getattr(found.config, name)) in (type(value), float, tuple)


@pytest.mark.parametrize("version", [0, VERSION + 1, -1, "2", None, 2.0, True])
def test_a_later_version_is_refused(version):
    with pytest.raises(UserError, match="version"):
        from_json(json.dumps(stored(version=version)), "config.json")


def test_an_unknown_field_is_named():
    with pytest.raises(UserError, match=r"unknown field 'lerning_rate'"):
        from_json(json.dumps(stored(lerning_rate=1.0)), "config.json")
