"""The grammar of the keywords to search."""

import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.tune.axes import LIST, SCALES, TO, distinct, parse

RANGES = ["lr=1e-4..1e-2", "b2=0.9..0.999", "warmup=0..0.2", "x=-1..1", "lr=1e-4..1e-2:log:9", "b=0.5..0.8:linear:3"]


@pytest.mark.parametrize("text", RANGES)
def test_a_range_is_evenly_spaced_on_its_scale_and_extends_with_the_same_distance(text):
    axis = parse(text)
    place = TO[axis.scale]
    ends = [float(end) for end in text.partition("=")[2].split(":")[0].split("..")]
    assert [axis.values[0], axis.values[-1]] == ends
    places = [place(value) for i in range(-1, len(axis.values) + 1) if (value := axis.value(i)) is not None]
    gaps = [b - a for a, b in zip(places, places[1:], strict=False)]
    assert max(gaps) - min(gaps) < 0.06 * max(gaps)  # the values have few digits
    assert len(places) >= len(axis.values) + 1


def test_the_scale_follows_from_the_default():
    assert parse("b=0.6..0.8", default=0.9).scale == "1-x"
    assert parse("b=0.6..0.8", default=0.1).scale == "log"
    assert parse("b=0.6..0.95").scale == "1-x"
    assert parse("lr=0.1..0.95").scale == "log"
    assert {parse(f"v=0.1..0.9:{scale}").scale for scale in SCALES} == set(SCALES)


def test_no_value_beyond_what_a_scale_has():
    fractions = parse("v=0..0.2")
    assert fractions.value(-1) is None and fractions.value(5) == 0.25
    averages = parse("b2=0..0.99:1-x:3")
    assert averages.value(-1) is None and averages.value(3) == 0.999
    assert [parse("momentum=0.8..0.99:1-x:4").value(index) for index in (-1, -2, -3)] == [0.46, 0.0, None]


def test_a_list_is_sorted_and_does_not_extend():
    axis = parse("weight_decay=0.3,0.1,0.1,1e-2")
    assert axis.values == (0.01, 0.1, 0.3) and axis.scale == LIST
    assert axis.value(3) is axis.value(-1) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("lr=1e-2..1e-4", "reversed: write lr=0.0001..0.01"),
        ("lr=1e-2..1e-2", "one value only"),
        ("lr=0.1", "one value only"),
        ("lr=0.1,0.1", "one value only"),
        ("lr=", "takes NAME=LOW..HIGH"),
        ("lr", "takes NAME=LOW..HIGH"),
        ("=1..2", "takes NAME=LOW..HIGH"),
        ("lr=1e-3..", "takes LOW..HIGH"),
        ("lr=..1", "takes LOW..HIGH"),
        ("lr=1..2..3", "takes numbers"),
        ("lr=a..b", "takes LOW..HIGH"),
        ("lr=1-2..3", "takes numbers"),
        ("lr=True,False", "takes numbers"),
        ("lr=1,,2", "takes numbers"),
        ("lr=nan,1", "finite"),
        ("lr=1,inf", "finite"),
        ("lr=0..1:log", "log scale needs values above 0"),
        ("b=0.5..1.5:1-x", "1-x scale takes values from 0"),
        ("lr=1e-3..1e-2:lg", "did you mean 'log'"),
        ("lr=1e-3..1e-2:log:1", "2 to 33 values"),
        ("lr=1e-3..1e-2:log:999", "2 to 33 values"),
    ],
)
def test_what_is_no_range_is_refused_in_one_line(text, problem):
    with pytest.raises(UserError) as error:
        parse(text)
    assert problem in str(error.value) and "\n" not in str(error.value)


def test_a_keyword_is_given_once():
    with pytest.raises(UserError, match="--over lr is given twice"):
        distinct([parse("lr=1..2"), parse("lr=3,4")])
    with pytest.raises(UserError, match="none is given"):
        distinct([])
