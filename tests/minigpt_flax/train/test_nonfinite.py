"""A non-finite step: skipped, or its batch skipped from the last checkpoint on, and the run stays exact."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxopt_mini import adamw, chain, clip_by_norm
from minigpt_flax.data import PhaseBatches
from minigpt_flax.phases import batch_number
from minigpt_flax.train.nonfinite import skip_nonfinite_updates
from tests.minigpt_flax.training import last_state, records, resume, start

BATCH = PhaseBatches.__call__


@settings(deadline=None)
@given(st.sets(st.integers(0, 60)))
def test_a_step_takes_the_next_batch_that_is_not_skipped(skipped):
    rest = [batch for batch in range(200) if batch not in skipped]
    assert [batch_number(step, sorted(skipped)) for step in range(100)] == rest[:100]


@pytest.mark.parametrize("broken", ["loss", "gradient", "overflow", "update"])
def test_a_non_finite_step_changes_nothing(broken):
    inner = adamw(lambda count: jnp.where(count == 1, jnp.nan, 0.1)) if broken == "update" else adamw(0.1)
    plain, tx = chain(clip_by_norm(1.0), adamw(0.1)), skip_nonfinite_updates(chain(clip_by_norm(1.0), inner))
    params = {"w": jnp.arange(3.0), "b": jnp.ones(())}
    good = jax.tree.map(jnp.ones_like, params)
    bad = {"gradient": good | {"b": jnp.float32(jnp.nan)}, "overflow": good | {"b": jnp.float32(3e38)}}.get(
        broken, good
    )
    loss = jnp.float32(jnp.inf if broken == "loss" else 1.0)
    update = jax.jit(tx.update)
    _, once = update(good, tx.init(params), params, value=jnp.float32(1.0))
    updates, twice = update(bad, once, params, value=loss)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
    chex.assert_trees_all_equal(twice.inner_state, once.inner_state)
    assert (int(twice.in_a_row), int(twice.skipped)) == (1, 1)
    if broken != "update":  # and the next step is the one that would have come anyway
        _, state = plain.update(good, plain.init(params), params)
        expected, _ = plain.update(good, state, params)
        updates, third = update(good, twice, params, value=jnp.float32(1.0))
        chex.assert_trees_all_close(updates, expected, rtol=1e-6)
        assert (int(third.in_a_row), int(third.skipped)) == (0, 1)


def poison(monkeypatch, *steps):
    """These batches hold a token that no embedding has: the real model answers with NaN."""
    bad = lambda self, t: BATCH(self, t) + (10**6 if t in steps else 0)
    monkeypatch.setattr(PhaseBatches, "__call__", bad)


def test_skip_continues_and_counts(tmp_path, capfd, monkeypatch):
    path, parts = tmp_path / "run", tmp_path / "parts"
    poison(monkeypatch, 5, 11, 12)
    assert start(path, "--on-nan=skip") == 0
    output = capfd.readouterr().out
    assert "step 6 was skipped: loss nan, gradient norm nan; 1 so far" in output
    assert "step 12 was skipped: loss nan, gradient norm nan; 2 so far" in output
    training = [line for line in records(path) if "skipped" in line]
    assert [line["step"] for line in training if line["skipped_in_a_row"]] == [6, 12, 13]
    assert [line["loss"] is None for line in training] == [line["skipped_in_a_row"] > 0 for line in training]
    assert training[-1]["skipped"] == 3
    rates = {line["step"]: line["lr"] for line in training}
    assert rates[6] == rates[7] and rates[12] == rates[13] == rates[14] != rates[15]  # the optimizer's count waits
    assert start(parts, "--on-nan=skip", "--stop-after=12") == 0  # between two successive skipped steps
    assert resume(parts) == 0
    assert (records(parts), last_state(parts)) == (records(path), last_state(path))


def test_skip_ends_a_run_that_has_only_non_finite_steps(tmp_path, capfd, monkeypatch):
    poison(monkeypatch, *range(9, 99))
    assert start(tmp_path / "run", "--on-nan=skip(in_a_row=3)") == 1
    output = capfd.readouterr().err
    assert "at step 13, after 3 successive steps that were skipped" in output
    assert "the checkpoint of step 8 is from before that" in output and output.count("\n") == 1


def test_rollback_continues_without_the_batch(tmp_path, capfd, monkeypatch):
    path, parts, clean = tmp_path / "run", tmp_path / "parts", tmp_path / "clean"
    with monkeypatch.context() as patch:
        poison(patch, 3, 11)
        assert start(path, "--on-nan=rollback") == 0
        output = capfd.readouterr().out
        assert "no checkpoint was saved: returning to it, and skipping batch 3" in output
        assert "the checkpoint of step 8 is from before that: returning to it, and skipping batch 11" in output
        assert (path / "passed_over.json").read_text() == "[3, 11]\n"
        assert start(parts, "--on-nan=rollback", "--stop-after=10") == 0
        assert resume(parts, "--stop-after=18") == 0
        assert resume(parts) == 0
    with monkeypatch.context() as patch:  # data that never had the two batches
        patch.setattr(
            PhaseBatches, "__call__", lambda self, t: BATCH(self, [*range(3), *range(4, 11), *range(12, 99)][t])
        )
        assert start(clean, "--on-nan=rollback") == 0
    assert (records(path), last_state(path)) == (records(clean), last_state(clean))
    assert (records(parts), last_state(parts)) == (records(clean), last_state(clean))


def test_rollback_has_a_limit(tmp_path, capfd, monkeypatch):
    path = tmp_path / "run"
    poison(monkeypatch, *range(9, 99))
    assert start(path, "--on-nan=rollback(times=2)") == 1
    assert "at step 10" in capfd.readouterr().err
    assert (path / "passed_over.json").read_text() == "[9, 10]\n"
    (path / "passed_over.json").write_text("x")
    assert resume(path) == 2
    assert "passed_over.json is damaged" in capfd.readouterr().err


def test_spikes_that_a_wrapper_skips_are_reported(tmp_path, capfd):
    path = tmp_path / "run"
    assert start(path, "--wrap=skip_spikes(window=4, sigmas=0.5)") == 0
    counts = [line["skipped"] for line in records(path) if "skipped" in line]
    assert np.all(np.diff(counts) >= 0) and counts[-1] > 1
    assert " was skipped: loss 4." in capfd.readouterr().out


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ignore", "no policy is called 'ignore'; there are: stop, skip, rollback"),
        ("skip(in_a_row=0)", "policy 'skip(in_a_row=0)': in_a_row=0 must be a whole number, 1 or more"),
        ("rollback(skip=1)", "policy 'rollback' has no keyword 'skip'; it has: times"),
    ],
)
def test_an_unknown_policy_is_refused(tmp_path, capfd, spec, message):
    assert start(tmp_path / "run", f"--on-nan={spec}") == 2
    assert message in capfd.readouterr().err
