"""Checkpoints: exact, the right ones kept, and damage of any kind is detected."""

import itertools
import logging
import shutil
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import adamw, chain, clip_by_norm, masked
from minigpt_flax.errors import CheckpointError, Diverged, Failed, UserError
from minigpt_flax.train.checkpoint import Checkpoints, first_nonfinite
from minigpt_flax.train.restore import chosen_checkpoint
from minigpt_flax.train.state import TrainState, init_state
from tests.cases import CASES
from tests.cases_wrappers import WRAPPED

UNSIGNED = ("_CHECKPOINT_METADATA", "commit_success.txt")  # Orbax writes them last, and needs neither to read
TX = masked(chain(clip_by_norm(1.0), adamw(1e-3)), {"half": True, "matrix": True, "vector": False})


def state_of(seed=0, width=8):
    generator = np.random.default_rng(seed)
    params = {
        "half": jnp.asarray(generator.standard_normal(5), jnp.bfloat16),
        "matrix": jnp.asarray(generator.standard_normal((3, width)), jnp.float32),
        "vector": jnp.asarray(generator.standard_normal(4), jnp.float32),
    }
    return init_state(params, TX)._replace(step=jnp.int32(seed))


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape and x.weak_type == y.weak_type
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def nothing(line):
    raise AssertionError(line)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    with Checkpoints(folder, 2) as checkpoints:
        checkpoints.save(state_of(1))
        checkpoints.save(state_of(2))
    return folder


@pytest.fixture
def damaged(two, tmp_path):
    return shutil.copytree(two, tmp_path / "checkpoints")


def test_types_dtypes_and_bits_come_back(two):
    like = jax.eval_shape(lambda: state_of(0))
    with Checkpoints(two, 2) as checkpoints:
        assert_same(checkpoints.restore(like, nothing), state_of(2))
        assert_same(checkpoints.read(1, state_of(0)), state_of(1))


def check_comes_back(makers, folder):
    """Also arrays without entries, which Orbax does not save."""
    params = state_of().params | {"vector": jnp.ones(0)}
    state = TrainState(jnp.int32(0), params, {name: tx.init(params) for name, tx in makers.items()})
    with Checkpoints(folder, 1) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        assert_same(checkpoints.restore(jax.eval_shape(lambda: state), nothing), state)


def test_arrays_without_entries_come_back(tmp_path):
    check_comes_back({"galore": CASES["galore"].make()}, tmp_path / "c")


@pytest.mark.slow
def test_the_states_of_every_optimizer_and_wrapper_come_back(tmp_path):
    makers = {name: case.make() for name, case in CASES.items()}
    makers |= {name: case.wrapper(CASES["soap"].make(), **case.keywords) for name, case in WRAPPED.items()}
    check_comes_back(makers, tmp_path / "c")


def test_a_save_is_not_touched_by_the_step_that_takes_its_buffers(tmp_path):
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = TrainState(jnp.int32(0), {str(i): jnp.full((512, 512), i, jnp.float32) for i in range(12)}, ())
    with Checkpoints(tmp_path / "c", 9) as checkpoints:
        for _ in range(4):
            checkpoints.save(state)
            state = advance(advance(state))
        for step in (0, 2, 4, 6):
            found = checkpoints.read(step, jax.eval_shape(lambda: state)).params
            assert all(np.all(np.asarray(found[str(i)]) == i + step) for i in range(12))


def test_the_last_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path / "c", 2) as checkpoints:
        for step, loss in [(1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 1.5)]:
            checkpoints.save(state_of(step), loss)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5]
        assert checkpoints.best() == 2


def test_every_so_many_steps_one_stays(tmp_path):
    with Checkpoints(tmp_path / "c", 1, keep_every=4) as checkpoints:
        for step in (0, 3, 4, 5, 8, 10, 11):
            checkpoints.save(state_of(step))
        checkpoints.wait()
        assert checkpoints.steps() == [4, 8, 11]


def test_a_save_costs_the_loop_only_a_copy(tmp_path, monkeypatch):
    """Orbax works while the loop continues."""
    with Checkpoints(tmp_path / "c", 1) as checkpoints:
        begun, proceed = threading.Event(), threading.Event()
        save = checkpoints._checkpointer.save

        def slow(*args, **kwargs):
            begun.set()
            assert proceed.wait(30)
            return save(*args, **kwargs)

        monkeypatch.setattr(checkpoints._checkpointer, "save", slow)
        checkpoints.save(state_of(1))
        assert begun.wait(30) and checkpoints.steps() == []
        proceed.set()
        checkpoints.wait()
        assert checkpoints.steps() == [1]


def test_a_step_is_saved_once(tmp_path):
    with Checkpoints(tmp_path / "c", 2) as checkpoints:
        checkpoints.save(state_of(3))
        checkpoints.wait()
        inode = (tmp_path / "c" / "3").stat().st_ino
        checkpoints.save(state_of(3), 1.0)
        checkpoints.wait()
        assert (tmp_path / "c" / "3").stat().st_ino == inode
        assert checkpoints.best() == 3


def test_leftovers_of_a_killed_process_are_removed(damaged):
    for name in ("9.orbax-checkpoint-tmp-1", "7.removed"):
        (damaged / name).mkdir()
    (damaged / "notes").write_text("mine")
    with Checkpoints(damaged, 2) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        checkpoints.save(state_of(3))
    assert sorted(path.name for path in damaged.iterdir()) == ["2", "3", "notes"]


def test_checkpoints_of_an_abandoned_future_stay_until_a_new_one_is_whole(damaged):
    with Checkpoints(damaged, 1) as checkpoints:
        (damaged / "2" / "_METADATA").unlink()
        lines = []
        state = checkpoints.restore(state_of(0), lines.append)
        assert int(state.step) == 1 and len(lines) == 1 and "continuing from step 1" in lines[0]
        assert checkpoints.steps() == [1, 2]
        checkpoints.save(state._replace(step=jnp.int32(2)))  # over the damaged one
        checkpoints.wait()
        assert checkpoints.steps() == [2]
        assert int(checkpoints.read(2, state).step) == 2


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_every_flipped_cut_or_missing_file_is_detected(damaged):
    like = jax.eval_shape(lambda: state_of(0))
    generator = np.random.default_rng(0)
    with Checkpoints(damaged, 2) as checkpoints:
        for path in files(damaged / "2"):
            whole = path.read_bytes()
            flipped = bytearray(whole or b"x")
            flipped[generator.integers(len(flipped))] ^= 1 << int(generator.integers(8))
            for content in (bytes(flipped), whole[: len(whole) // 2], None):
                path.unlink(missing_ok=True)
                if content is not None:
                    path.write_bytes(content)
                if content != whole and path.name in UNSIGNED:
                    assert_same(checkpoints.read(2, like), state_of(2))
                elif content != whole:
                    with pytest.raises(UserError) as error:
                        checkpoints.read(2, like)
                    assert "\n" not in str(error.value) and len(str(error.value)) < 300
            path.write_bytes(whole)
        assert_same(checkpoints.read(2, like), state_of(2))


def test_damage_is_reported_and_the_previous_checkpoint_is_used(damaged):
    for path in files(damaged / "2"):
        path.write_bytes(path.read_bytes()[:-7])
    lines = []
    with Checkpoints(damaged, 2) as checkpoints:
        assert_same(checkpoints.restore(state_of(0), lines.append), state_of(1))
        assert len(lines) == 1 and "\n" not in lines[0] and "2 can't be used" in lines[0]
        for path in files(damaged / "1"):
            path.write_bytes(b"")
        with pytest.raises(UserError, match=r"2 can't be used .*, nor can any other: start a new run"):
            checkpoints.restore(state_of(0), nothing)


def test_a_damaged_checkpoint_is_refused_with_the_others(damaged):
    for path in files(damaged / "2"):
        path.write_bytes(b"")
    with Checkpoints(damaged, 2) as checkpoints:
        with pytest.raises(UserError, match=r"2 can't be used .*; other checkpoints, for --step: 1$"):
            with chosen_checkpoint(checkpoints, "last") as number:
                checkpoints.read(number, state_of(0))
        with chosen_checkpoint(checkpoints, "1") as number:
            assert_same(checkpoints.read(number, state_of(0)), state_of(1))


def test_no_checkpoint_at_all(tmp_path):
    with Checkpoints(tmp_path / "c", 2) as checkpoints:
        assert checkpoints.steps() == [] and checkpoints.best() is None
        with pytest.raises(UserError, match="has no checkpoint"):
            checkpoints.restore(state_of(0), nothing)
        with pytest.raises(UserError, match="5 can't be used"):
            checkpoints.read(5, state_of(0))


def other_models():
    state = state_of(0)
    yield state_of(0, width=9), r"matrix is float32\[3, 8\] in it and float32\[3, 9\] by the configuration"
    half = state.params["vector"].astype(jnp.bfloat16)
    yield state._replace(params=state.params | {"vector": half}), r"params/vector is float32\[4\] in it and bfloat16"
    yield state._replace(params=state.params | {"extra": half}), "it has no params/extra"
    yield state._replace(opt_state=()), "it also has opt_state"


@pytest.mark.parametrize("case", range(4))
def test_a_checkpoint_of_another_model_names_the_first_tensor(two, case):
    like, message = next(itertools.islice(other_models(), case, None))
    with Checkpoints(two, 2) as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.restore(like, nothing)


def test_a_checkpoint_under_the_wrong_number(damaged):
    shutil.move(damaged / "2", damaged / "7")
    with Checkpoints(damaged, 2) as checkpoints, pytest.raises(UserError, match="it is of step 2"):
        checkpoints.read(7, state_of(0))


def broken_states():
    state = state_of(3)
    params = state.params | {"matrix": state.params["matrix"].at[1, 2].set(jnp.inf)}
    yield state._replace(params=params), "params/matrix is not finite after step 3"
    moments = jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.ndim == 2 else leaf, state.opt_state)
    yield state._replace(opt_state=moments), r"opt_state/.*mu/matrix is not finite after step 3"


@pytest.mark.parametrize("case", range(2))
def test_a_state_that_is_broken_is_never_written(damaged, case):
    state, message = next(itertools.islice(broken_states(), case, None))
    assert first_nonfinite(state_of(3)) is None
    with Checkpoints(damaged, 1) as checkpoints:
        with pytest.raises(Diverged, match=message):
            checkpoints.save(state)
            checkpoints.wait()
        assert checkpoints.steps() == [1, 2]
        checkpoints.save(state_of(3))
        checkpoints.wait()
        assert checkpoints.steps() == [3]


def test_an_infinity_of_the_optimizer_may_be_meant(tmp_path):
    state = state_of(3)._replace(opt_state={"best": jnp.float32(jnp.inf)})
    with Checkpoints(tmp_path / "c", 1) as checkpoints:
        checkpoints.save(state)
    assert Checkpoints(tmp_path / "c", 1).steps() == [3]


def test_a_place_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(Failed, match="can't save the checkpoint of step 1: .*file is a file"),
        Checkpoints(tmp_path / "file" / "c", 1) as checkpoints,
    ):
        checkpoints.save(state_of(1))


def test_only_checkpoints_are_removed_or_replaced(tmp_path):
    folder = tmp_path / "checkpoints"
    for name in ("2", "2023", "2024.raw"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.jpg").write_text("precious")
    (folder / "7").write_text("precious")
    with Checkpoints(folder, 1) as checkpoints:
        assert checkpoints.steps() == []
        for step in (1, 3):
            checkpoints.save(state_of(step))
            checkpoints.wait()
        assert checkpoints.steps() == [3]
        for step in (2, 7):
            with pytest.raises(CheckpointError, match="another file or folder has its name"):
                checkpoints.save(state_of(step))
                checkpoints.wait()
    assert all((folder / name / "a.jpg").read_text() == "precious" for name in ("2", "2023", "2024.raw"))
    assert (folder / "7").read_text() == "precious"


def test_logging_and_the_hook_are_changed_only_while_checkpoints_are_open(two):
    reports = lambda: (list(logging.getLogger("absl").filters), sys.unraisablehook)
    before = reports()
    with Checkpoints(two, 2):
        filters, hook = reports()
        assert len(filters) == len(before[0]) + 1 and hook is not before[1]
    assert reports() == before
