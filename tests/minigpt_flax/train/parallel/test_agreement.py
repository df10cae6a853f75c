"""Every difference between the processes of a run is detected and named."""

import dataclasses
import typing

import pytest

from minigpt_flax.spec import Spec
from minigpt_flax.train.config.run_config import RunConfig, flag_of
from minigpt_flax.train.parallel.agreement import (
    as_typed,
    difference,
    require_same,
    require_shared,
    typed as typed_fields,
    versions,
)
from minigpt_flax.train.parallel.multihost import report_failure
from tests.minigpt_flax.train.parallel.test_multihost import ended, free_port
from tests.minigpt_flax.training import flags, spawn


def other(name, value):
    """Another value of a field."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value, "another=sgd(lr=1)" if name == "group" else "another")
    if value is None:
        kinds = typing.get_args(typing.get_type_hints(RunConfig)[name])
        return {int: 7, float: 7.5, str: "another"}[kinds[0]]
    return "another" if isinstance(value, str | Spec) else value + 1


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(RunConfig)])
def test_every_field_of_a_configuration_is_compared(name):
    config = RunConfig()
    changed = dataclasses.replace(config, **{name: other(name, getattr(config, name))})
    message = difference({0: typed_fields(config), 1: typed_fields(config), 2: typed_fields(changed)}, "do this")
    theirs, ours = as_typed(name, getattr(changed, name)), as_typed(name, getattr(config, name))
    assert message == f"process 2 has {theirs}, process 0 has {ours}: do this"
    assert flag_of(name).removeprefix("--") in theirs


def test_equal_ones_do_not_differ():
    assert difference({0: typed_fields(RunConfig()), 1: typed_fields(RunConfig())}, "") is None
    assert difference({0: {"lr": "--lr 0.1"}}, "") is None


def test_a_number_is_compared_in_every_digit():
    assert as_typed("lr", 0.1) != as_typed("lr", 0.1 + 1e-17 * 2)


def test_what_only_one_has():
    one, none = {"jax": "jax 1"}, {}
    assert difference({0: one, 1: none}, "do this") == "process 1 has no jax, process 0 has jax 1: do this"
    assert difference({0: none, 1: one}, "do this") == "process 1 has jax 1, process 0 has no jax: do this"


def test_one_process_alone_agrees(tmp_path):
    require_same({"lr": "--lr 0.1"}, "")
    require_shared(tmp_path / "absent")
    report_failure(["--lr", "x"], "no number", 2)


def test_versions():
    names = {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "jaxopt-mini"}
    assert versions().keys() == names


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        ("versions = lambda: {**VERSIONS(), 'jax': '0.9.0'}", "process 1 has jax 0.9.0, process 0 has jax "),
        ("commit = lambda: 'abc'", "process 1 has commit abc, process 0 has commit "),
        ("source_hash = lambda: 'abc'", "process 1 has sources with the SHA-256 abc, process 0 has sources "),
    ],
)
def test_other_software_in_one_process(tmp_path, fake, message):
    code = f"from minigpt_flax.train.parallel import agreement; VERSIONS = agreement.versions; agreement.{fake}"
    meeting = f"--multihost=coordinator=127.0.0.1:{free_port()},processes=2,process="
    arguments = flags(out=tmp_path)
    ends = ended(spawn(*arguments, f"{meeting}0"), spawn(*arguments, f"{meeting}1", first=code))
    assert [(status, out, err.count("\n")) for status, out, err in ends] == [(2, "", 1)] * 2, ends
    assert all(message in err and "install the same versions" in err for _, _, err in ends), ends
