"""``--mesh``: its meaning, and every mesh that is refused."""

import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.train.config.mesh import check_tensor, choose_mesh
from minigpt_flax.train.config.run_config import resolve


@pytest.mark.parametrize(
    ("text", "batch", "devices", "processes", "message"),
    [
        ("data=4", 12, 2, 1, "needs 4 devices, but there are 2"),
        ("data=2", 12, 4, 2, "uses 2 of 4 devices, but 2 processes must use them all"),
        (
            "data=8",
            12,
            8,
            1,
            "--batch-size 12 is not a multiple of the 8 shards of --mesh data=8: use 8 or 16",
        ),
        ("data=2,fsdp=4", 4, 8, 1, "of the 8 shards of --mesh data=2,fsdp=4: use 8$"),
        (None, 12, 8, 2, "--batch-size 12 is not a multiple of the 8 shards of --mesh data=8: use 8 or 16"),
    ],
)
def test_a_mesh_that_does_not_fit(text, batch, devices, processes, message):
    with pytest.raises(UserError, match=message):
        choose_mesh(text, batch, devices, processes)


def test_the_mesh_that_is_chosen():
    assert choose_mesh(None, 12, 8) == {"data": 6}  # the largest number that divides the batch
    assert choose_mesh(None, 7, 4) == {"data": 1}
    assert choose_mesh(None, 12, 1) == {"data": 1}
    assert choose_mesh("data=2", 12, 8) == {"data": 2}
    assert choose_mesh("tensor=2, zero=4", 4, 8) == {"tensor": 2, "zero": 4}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mesh": "date=2"}, r"no axis is called 'date' \(did you mean 'data'\?\); there are: data shards the batch;"),
        ({"mesh": "data=2,data=2"}, "with each axis once"),
        ({"mesh": "data"}, "is not AXIS=DEVICES"),
        ({"mesh": "data=0"}, "is not AXIS=DEVICES"),
        ({"parallel": "pmpa"}, r"--parallel 'pmpa' is not one of: jit, pmap \(did you mean 'pmap'\?\)"),
        (
            {"parallel": "pmap", "mesh": "data=2,fsdp=2"},
            "pmap replicates everything except the batch and has no axis 'fsdp'",
        ),
        ({"accum": 0}, "--accum must be at least 1"),
        ({"tokens_per_step": 1000}, "1,000 is not a multiple of 768 = 12 x 64 .* give 768 or 1,536"),
        ({"tokens_per_step": 100}, "give 768$"),
        ({"tokens_per_step": 1536, "accum": 3}, "1,536 is not 2,304 = 3 x 12 x 64"),
    ],
)
def test_mistakes_are_refused_before_devices_are_counted(given, message):
    with pytest.raises(UserError, match=message) as error:
        resolve(given, "nano")
    assert "\n" not in str(error.value)


def test_accumulation_follows_from_the_tokens_of_a_step():
    sizes = {"batch_size": 32, "context": 1024}
    assert resolve({"tokens_per_step": 65_536, **sizes}, "nano").accum == 2
    assert resolve({"accum": 3, **sizes}, "nano").tokens_per_step == 3 * 32 * 1024
    assert resolve(sizes, "nano").accum == 1


def test_a_head_is_never_cut_in_two():
    check_tensor(2, heads=4, kv_heads=2)
    with pytest.raises(UserError, match="tensor=4 does not divide kv_heads=2: possible sizes are 1, 2"):
        check_tensor(4, heads=4, kv_heads=2)
