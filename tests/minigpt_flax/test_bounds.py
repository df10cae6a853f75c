"""Every number of the command line has a range, and flags that are repeated, empty or not text are answered."""

import argparse
import dataclasses
import math
import typing

import pytest

from minigpt_flax.__main__ import COMMANDS, parser
from minigpt_flax.bounds import Bound, BoundOrWord
from minigpt_flax.cli import parser as cli
from minigpt_flax.errors import UserError
from minigpt_flax.train.config.run_config import BOUND_OF, RunConfig, check, flag_of

TYPES = typing.get_type_hints(RunConfig)
NUMBERS = [name for name, kind in TYPES.items() if {int, float} & {kind, *typing.get_args(kind)}]


def commands():
    """(command, argument) of every command, that of train.py too."""
    found = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in (*found.choices.items(), ("train.py", cli.parser())):
        for action in command._actions:
            yield name, action


BOUNDED = {
    f"{name} {action.option_strings[0]}": action.type for name, action in commands() if isinstance(action.type, Bound)
}


def wrong(bound):
    below = [bound.low if bound.above else bound.low - 1]
    above = [bound.high if bound.below else bound.high + 1 if bound.whole else bound.high * 2]
    return [*below, *above, 10**30 if bound.whole else 1e300, *([] if bound.whole else [math.inf, math.nan])]


def test_every_number_of_a_configuration_has_a_bound():
    assert set(BOUND_OF) == set(NUMBERS)
    assert all(BOUND_OF[name].whole == (float not in {TYPES[name], *typing.get_args(TYPES[name])}) for name in NUMBERS)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_range_is_refused_by_its_flag(name):
    bound = BOUND_OF[name]
    for value in wrong(bound):
        with pytest.raises(UserError) as error:
            check({**vars(RunConfig()), name: value if bound.whole else float(value)})
        assert str(error.value).startswith(f"{flag_of(name)} must be") and "\n" not in str(error.value)
        with pytest.raises(UserError, match=f"^{flag_of(name)} "):
            RunConfig(**{name: value if bound.whole else float(value)})
    assert all(bound.problem(value) for value in ("x", True, 1j, None, [1], *([0.5] if bound.whole else [])))
    assert bound.above or bound.problem(bound.low) is None
    assert bound.below or bound.problem(bound.high) is None


def test_every_argument_with_a_number_has_a_bound():
    fields = {f.name for f in dataclasses.fields(RunConfig)}
    without = [
        (name, action.dest)
        for name, action in commands()
        if action.type not in (None, str)
        and not isinstance(action.type, Bound | BoundOrWord)
        and action.dest not in fields
    ]
    assert not without and len(BOUNDED) >= 12


@pytest.mark.parametrize("argument", BOUNDED)
def test_an_argument_out_of_range_is_refused(argument):
    for value in (*wrong(BOUNDED[argument]), "x", "", "9" * 5000, "1e"):
        with pytest.raises(argparse.ArgumentTypeError) as error:
            BOUNDED[argument](str(value))
        assert len(str(error.value)) < 120


def test_out_of_range_is_one_line():
    with pytest.raises(UserError, match=r"^--num must be at least 1, got 0; see --help$"):
        parser().parse(["sample", "RUN", "--num", "0"])


@pytest.mark.parametrize("command", COMMANDS)
def test_empty_and_undecodable_values_are_refused(command):
    for name, action in commands():
        if name == command and action.option_strings and action.nargs != 0 and action.type in (None, str):
            with pytest.raises(UserError, match="not UTF-8"):
                parser().parse([command, f"{action.option_strings[0]}=\udcff"])
            if action.metavar != cli.FREE:
                with pytest.raises(UserError, match="is empty"):
                    parser().parse([command, f"{action.option_strings[0]}="])


def test_a_flag_given_twice_is_reported_unless_it_collects(capsys):
    build = cli.parser()
    assert build.parse(["--steps", "1", "--bias", "--steps=2", "--no-bias"])["steps"] == 2
    build.report_repeated()
    said = capsys.readouterr().err
    assert "--steps is given twice" in said and "--bias/--no-bias is given twice" in said
    assert build.parse(["--wrap", "cautious", "--wrap", "sam"])["wrap"] == ["cautious", "sam"]
    build.report_repeated()
    assert not capsys.readouterr().err


def test_a_run_has_at_most_2_to_the_62_sequences():
    with pytest.raises(UserError, match="lower --steps, --batch-size or --accum"):
        RunConfig(steps=10**9, batch_size=10**6, accum=10**6)


@pytest.mark.parametrize("clip", ["clip_by_norm(0)", "clip_by_value(threshold=0.0)", "adaptive_clip(0)"])
def test_a_clip_that_blocks_every_gradient_is_refused(clip):
    with pytest.raises(UserError, match="--clip none"):
        RunConfig(clip=clip)
