"""Sizes of a batch that change during a run: the position in the data is exact, and wrong sizes are refused."""

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minigpt_flax.data import PhaseBatches
from minigpt_flax.data.batches import Batches
from minigpt_flax.data.mixture import mix
from minigpt_flax.errors import UserError
from minigpt_flax.phases import Stepwise, batch_number, parse_size, phases_of
from minigpt_flax.train.config.run_config import RunConfig, as_text, changed, resolve
from minigpt_flax.train.config.stored import from_json, to_json
from minigpt_flax.train.resume_config import extended

SCHEDULES = {
    "batch size": {"batch_size": "[(0, 2), (5, 6), (9, 4)]"},
    "accumulation": {"accum": "[(0, 1), (0.25, 3)]"},
    "sequence length": {"seq_len": "[(0, 2), (8, 4), (10, 8)]"},
    "back and forth": {"seq_len": "[(0, 8), (2, 4), (6, 8)]", "batch_size": "[(0, 4), (4, 2)]"},
    "all": {"batch_size": "[(3, 2), (8, 4)]", "accum": "[(0, 2), (12, 1)]", "seq_len": "[(0, 4), (8, 8)]"},
}
TOKENS = np.arange(301)
SOURCES = {"one source": [TOKENS], "a mixture": [TOKENS[:201], TOKENS[201:]]}


def config_of(**sizes):
    return resolve({"steps": 20, "context": 8, "batch_size": 2, **sizes}, "nano")


def windows_of(sources, count):
    weights = [Fraction(1, len(sources))] * len(sources)
    return mix(sources, weights, count, 8, 0)


@pytest.mark.parametrize("sources", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("sizes", SCHEDULES.values(), ids=SCHEDULES)
def test_every_window_is_read_as_often_as_with_a_constant_batch(sizes, sources):
    phases = config_of(**sizes).phases
    assert len(phases) > 1
    batches, targets = windows_of(sources, 1), []
    for step in range(20):
        phase = phases.at(step)
        rows = PhaseBatches(batches, phase)(step)
        assert rows.shape == (phase.step_sequences, phase.seq_len + 1)
        targets += rows[:, 1:].ravel().tolist()
    assert len(targets) == phases.tokens_after(20)
    constant = np.concatenate([batches(t) for t in range(-(-len(targets) // 8))])[:, 1:].ravel()
    assert sorted(targets) == sorted(constant[: len(targets)].tolist())


@pytest.mark.parametrize("skipped", [(0,), (4, 5), (5,), (2, 8, 9, 10), tuple(range(3, 21))])
@pytest.mark.parametrize("sizes", SCHEDULES.values(), ids=SCHEDULES)
def test_skipped_batches_leave_the_changes_at_their_steps(sizes, skipped):
    phases = config_of(**sizes).phases
    of_batches, numbers = phases.of_batches(skipped), [batch_number(step, skipped) for step in range(20)]
    shape = lambda phase: (phase.accum, phase.batch_size, phase.seq_len)
    assert [shape(of_batches.at(number)) for number in numbers] == [shape(phases.at(step)) for step in range(20)]
    in_order: Any = SimpleNamespace(context=8, windows=lambda rows: np.int32(8 * rows[:, None] + np.arange(9)))
    rows = [tuple(row) for n in range(numbers[-1] + 1) for row in PhaseBatches(in_order, of_batches.at(n))(n)]
    windows = {row[0] // 8 for row in rows}
    assert len(set(rows)) == len(rows)  # nothing is read twice
    assert windows == set(range(len(windows)))  # and no window is left out


def test_a_batch_depends_on_its_step_only_and_a_constant_one_stays():
    batches = Batches(TOKENS, 6, 8, 0)
    (phase,) = config_of(batch_size=3, accum=2).phases
    for step in (7, 0, 3):
        np.testing.assert_array_equal(PhaseBatches(batches, phase)(step), batches(step))
    np.testing.assert_array_equal(PhaseBatches(batches, phase)(3, np.array([4, 1])), batches(3)[[4, 1]])


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"batch_size": "many"}, "--batch-size takes a whole number, or points"),
        ({"batch_size": []}, "--batch-size takes a whole number, or points"),
        ({"batch_size": [(0, 2.5)]}, "takes a whole number, or points"),
        ({"batch_size": True}, "takes a whole number, or points"),
        ({"accum": [(-1, 2)]}, "--accum takes a whole number, or points"),
        ({"batch_size": [(0.0, 2), (1.5, 4)]}, "fractions of the run from 0.0 to 1.0"),
        ({"batch_size": [(4, 2), (0, 4)]}, r"--batch-size \[\(4, 2\), \(0, 4\)\]: the times must increase"),
        ({"batch_size": [(0, 2), (0.5, 4), (10, 6)]}, "the times don't increase"),
        ({"batch_size": [(0, 2), (4, 0)]}, "--batch-size must be at least 1, got 0"),
        ({"seq_len": 16}, "--seq-len 16 is more than the model's context of 8"),
        ({"seq_len": [(0, 4), (4, 16)]}, "--seq-len 16 is more than the model's context of 8"),
        ({"seq_len": [(0, 3), (4, 8)]}, "--seq-len 3 does not divide the longest sequence of 8 .* 1, 2, 4, 8"),
        ({"seq_len": [(0, 2), (6, 8)]}, "in the middle of windows of 8 .* change them at step 4 or 8"),
        ({"batch_size": [(0, 2), (4, 4)], "tokens_per_step": 32}, "give --accum, a number or points"),
        ({"batch_size": 3, "seq_len": 4, "tokens_per_step": 32}, "not a multiple of 12 = 3 x 4 of .* and --seq-len"),
    ],
)
def test_wrong_sizes_are_refused(sizes, said):
    with pytest.raises(UserError, match=said) as error:
        config_of(**sizes)
    assert "\n" not in str(error.value)


def test_python_text_and_json_give_the_same_sizes():
    points = [(0, 8), (0.5, 16)]
    config = config_of(batch_size=points, seq_len="4")
    assert config.batch_size == parse_size(str(points), "") == Stepwise(((0, 8), (0.5, 16)))
    assert (config.seq_len, config.tokens_per_step) == (4, None)
    assert as_text(config)["batch_size"] == "[(0, 8), (0.5, 16)]"
    assert from_json(to_json(config), "config.json").config == config
    assert RunConfig(**vars(config)) == config


def test_a_longer_run_keeps_the_steps_of_its_batch_sizes():
    began = config_of(batch_size="[(0, 2), (0.5, 4)]", schedule="constant")
    longer = extended(began, changed(began, steps=40), 20, "run")
    assert longer.batch_size == Stepwise(((0, 2), (10, 4)))
    assert longer.phases == began.phases


def test_tokens_count_every_phase():
    phases = phases_of(10, Stepwise(((0, 2), (4, 6))), 1, 8)
    assert [phases.tokens_after(steps) for steps in (0, 1, 4, 4.5, 5, 10)] == [0, 16, 64, 88, 112, 352]
    assert phases.largest.step_sequences == 6
