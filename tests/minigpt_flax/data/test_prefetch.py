"""Prefetching: the same batches, some in advance, errors at the right request, no leftover thread, no deadlock."""

import random
import threading
import time

import pytest

from minigpt_flax.data import Prefetch
from minigpt_flax.errors import UserError


def running():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_any_order_gives_the_same_batches():
    order = random.Random(0)
    steps = [*range(20), *(order.randrange(30) for _ in range(200)), 5, 5, 4, 40, 41]
    with Prefetch(lambda step: step * step, first=0, stop=25) as batches:
        assert [batches(step) for step in steps] == [step * step for step in steps]
    assert not running()


def test_next_batches_are_prepared_in_advance():
    made = []
    with Prefetch(made.append, first=3, stop=6, depth=2, put=lambda batch: batch) as batches:
        batches(3)
        deadline = time.monotonic() + 10
        while made != [3, 4, 5] and time.monotonic() < deadline:
            time.sleep(0.001)
        assert made == [3, 4, 5]
        time.sleep(0.02)
        assert made == [3, 4, 5]  # no further than the end
    assert not running()


def test_at_most_depth_batches_are_ready():
    made = []
    with Prefetch(made.append, first=0, stop=100, depth=3):
        time.sleep(0.1)
        assert len(made) == 3
    assert not running()


def test_an_error_is_raised_where_its_batch_is_requested():
    def make(step):
        if step == 2:
            raise UserError("token 60 in a.bin")
        return step

    with pytest.raises(UserError, match="token 60 in a.bin"), Prefetch(make, first=0, stop=9) as batches:
        assert [batches(0), batches(1)] == [0, 1]
        batches(2)
    assert not running()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_leaving_early_leaves_no_thread(error):
    with pytest.raises(error), Prefetch(lambda step: time.sleep(0.01), first=0, stop=10**9):
        raise error
    assert not running()


def test_put_runs_in_the_thread():
    with Prefetch(lambda step: step, first=0, stop=2, put=lambda b: (b, threading.current_thread().name)) as batches:
        assert batches(0) == (0, "prefetch")
