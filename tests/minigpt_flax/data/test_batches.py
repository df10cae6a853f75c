"""Batches: pure in (seed, step), every window once per epoch, every target evaluated once."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from minigpt_flax.data import Batches, evaluation_windows, split
from minigpt_flax.errors import UserError

few = settings(deadline=None, max_examples=40)
sizes = st.tuples(st.integers(2, 200), st.integers(1, 40), st.integers(1, 9)).filter(
    lambda size: size[0] > size[1]
)  # tokens, context, batch_size


def epoch_starts(batches: Batches, epochs: int) -> np.ndarray:
    """First tokens of the windows of the first epochs, [epochs, windows], for tokens 0, 1, 2..."""
    visits = epochs * batches.windows_per_epoch
    steps = range(-(-visits // batches.batch_size))
    starts = np.concatenate([batches(step)[:, 0] for step in steps])
    return starts[:visits].reshape(epochs, -1)


def test_batches_match_recorded_ones():
    # A run resumes on another machine and another NumPy: these numbers must never change.
    batches = Batches(np.arange(1000), batch_size=4, context=8, seed=1337)
    assert batches(0)[:, 0].tolist() == [777, 369, 345, 913]
    assert batches(10**9)[:, 0].tolist() == [428, 940, 548, 724]


@given(sizes, st.integers(0, 2**64 - 1))
@few
def test_a_batch_is_consecutive_tokens_of_the_split(size, seed):
    tokens, context, batch_size = size
    batches = Batches(np.arange(tokens), batch_size, context, seed)
    for step in (0, 1, 10**6):
        batch = batches(step)
        assert batch.shape == (batch_size, context + 1) and batch.dtype == np.int32
        assert (np.diff(batch) == 1).all() and batch.min() >= 0 and batch.max() < tokens


@given(sizes, st.permutations(range(12)))
@few
def test_the_order_of_steps_is_irrelevant(size, order):
    tokens, context, batch_size = size
    jumping = Batches(np.arange(tokens), batch_size, context, seed=3)
    walking = Batches(np.arange(tokens), batch_size, context, seed=3)
    walked = [walking(step) for step in range(12)]
    for step in order:
        np.testing.assert_array_equal(jumping(step), walked[step])


@given(sizes, st.integers(0, 10**6), st.integers(0, 9), st.integers(0, 9))
@few
def test_rows_are_those_of_the_batch(size, step, start, stop):
    batches = Batches(np.arange(size[0]), size[2], size[1], seed=5)
    rows = slice(start, stop)
    np.testing.assert_array_equal(batches(step, rows), batches(step)[rows])


@given(sizes, st.integers(0, 99))
@few
def test_every_window_once_per_epoch_across_epochs(size, seed):
    tokens, context, batch_size = size
    batches = Batches(np.arange(tokens), batch_size, context, seed)
    for starts in epoch_starts(batches, 3):
        cuts = np.sort(starts)
        assert (np.diff(cuts) == context).all()  # no gap, no overlap, nothing twice
        assert cuts[0] + tokens - 1 - (cuts[-1] + context) < 2 * context  # left out at both ends


def test_epochs_have_other_windows_and_order():
    starts = epoch_starts(Batches(np.arange(1000), batch_size=7, context=10, seed=0), 30)
    assert set(starts.min(axis=1)) == set(range(10))  # from every offset
    assert len({tuple(np.argsort(row)) for row in starts}) == 30
    assert abs(np.corrcoef(np.arange(starts.shape[1]), starts[0])[0, 1]) < 0.3


def test_in_the_long_run_every_token_is_predicted():
    batches = Batches(np.arange(100), batch_size=9, context=10, seed=0)
    targets = np.concatenate([batches(step)[:, 1:].ravel() for step in range(200)])
    assert set(targets) == set(range(1, 100))


def test_seeds_differ():
    first = [Batches(np.arange(500), 4, 8, seed)(0)[:, 0].tolist() for seed in range(20)]
    assert len({tuple(starts) for starts in first}) == 20


def test_training_and_validation_share_no_token():
    tokens = np.arange(1003)
    training, validation = split(tokens)
    assert training.size == int(0.9 * 1003)
    np.testing.assert_array_equal(np.concatenate([training, validation]), tokens)
    assert np.shares_memory(training, tokens) and np.shares_memory(validation, tokens)
    seen = np.unique([Batches(training, 4, 16, 0)(step) for step in range(200)])
    evaluated = [w for x, y, _ in evaluation_windows(validation, 16, 4) for w in (x, y)]
    assert not np.intersect1d(seen, np.concatenate(evaluated)).size


@given(st.integers(2, 200), st.integers(1, 40), st.integers(1, 9))
@few
def test_evaluation_predicts_every_target_once(tokens, context, batch_size):
    targets = []
    for x, y, mask in evaluation_windows(np.arange(tokens), context, batch_size):
        assert x.shape == y.shape == mask.shape == (batch_size, context)
        assert x.dtype == y.dtype == np.int32 and mask.dtype == bool
        assert mask.any() and (y == x + 1).all()
        assert (np.diff(x)[mask[:, 1:]] == 1).all()  # what comes before a target is its context
        targets.append(y[mask])
    assert np.concatenate(targets).tolist() == list(range(1, tokens))


def test_memory_mapped_tokens_are_not_loaded(tmp_path):
    path = tmp_path / "train.bin"
    with path.open("wb") as file:
        file.truncate(64 << 20)  # sparse: takes no room on most disks
    tokens = np.memmap(path, "<u2", "r")
    tracemalloc.start()
    try:
        training, validation = split(tokens)
        batch = Batches(training, 4, 1024, seed=0)(0)
        windows = next(iter(evaluation_windows(validation, 1024, 4)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(training, np.memmap) and isinstance(validation, np.memmap)
    assert {type(array) for array in (batch, *windows)} == {np.ndarray}
    assert peak < 4 << 20


def test_a_batch_takes_less_than_a_millisecond():
    batches = Batches(np.zeros(1_000_000, np.uint16), batch_size=64, context=256, seed=0)
    batches(0)
    times = []
    for step in range(1, 30):
        start = time.perf_counter()
        batches(step)
        times.append(time.perf_counter() - start)
    assert np.median(times) < 1e-3


BAD_SHAPES = {
    "batch": ((100, 0, 8), "batch_size must be at least 1, not 0"),
    "context": ((100, 4, 0), "context must be at least 1, not 0"),
    "short": ((60, 4, 64), "context 64 is too long.* 65 tokens .* only 60, 5 too few"),
    "equal": ((64, 4, 64), "context 64 is too long.* only 64, 1 too few"),
}


@pytest.mark.parametrize("case", BAD_SHAPES)
def test_bad_shapes(case):
    (tokens, batch_size, context), message = BAD_SHAPES[case]
    with pytest.raises(UserError, match=message):
        Batches(np.arange(tokens), batch_size, context, seed=0)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_bad_seed(seed):
    with pytest.raises(UserError, match=f"seed must be .*, not {seed}"):
        Batches(np.arange(10), 1, 1, seed)


@pytest.mark.parametrize(
    ("tokens", "context", "batch_size", "message"),
    [(1, 4, 4, "has 1 tokens"), (9, 0, 4, "context must"), (9, 4, 0, "batch_size must")],
)
def test_bad_evaluation_is_refused_before_the_first_window(tokens, context, batch_size, message):
    with pytest.raises(UserError, match=message):
        evaluation_windows(np.arange(tokens), context, batch_size)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_bad_fraction(fraction):
    with pytest.raises(UserError, match="between 0 and 1"):
        split(np.arange(100), fraction)


@pytest.mark.parametrize("tokens", [0, 1])
def test_too_few_tokens_to_split(tokens):
    with pytest.raises(UserError, match=f"{tokens} tokens are too few"):
        split(np.arange(tokens))
