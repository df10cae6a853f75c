"""One run of a comparison: what ends it is what would end it under ``train.py``."""

from contextlib import nullcontext

import jax
import numpy as np
import pytest

from minigpt_flax.compare.traced_run import program
from minigpt_flax.compare.trial import guard, log
from minigpt_flax.errors import Diverged
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import resolve
from tests.minigpt_flax.training import TINY


@pytest.mark.parametrize(("policy", "goes_on"), [("stop", False), ("skip", True)])
def test_a_step_that_was_left_out_ends_only_a_run_that_leaves_none_out(policy, goes_on, tmp_path):
    sizes = {name: TINY[name] for name in ("layers", "heads", "width", "context")}
    run = build(resolve({**sizes, "data": str(TINY["data"]), "mesh": "data=1", "on_nan": policy}, "nano"))
    look = guard(run, log(run, RunFolder(tmp_path)))
    broken = {"loss": np.nan, "grad_norm": np.nan, "grad_squares": np.full(len(look.names), np.nan)}
    step = program(run, run.config.steps).single(run.config).step
    assert ("skipped_in_a_row" in jax.eval_shape(step, run.state, run.batches(0))[1]) == goes_on
    with nullcontext() if goes_on else pytest.raises(Diverged):
        look(3, broken | {"skipped_in_a_row": 1})
