"""GaLore against Optax's, and on stacked matrices, which Optax's doesn't support."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import galore, scale_by_ldadam
from tests.cases import CASES
from tests.harness import LAYOUT, normal, permissive, run
from tests.jaxopt_mini import test_against_optax as against

BY_RANK = dataclasses.replace(CASES["galore"], optax=optax.contrib.galore)


@pytest.mark.usefixtures("correction_of_optax")
@pytest.mark.parametrize(
    "keywords",
    [{}, {"rank": 2, "update_proj_gap": 20, "scale": 0.25}, {"rank": 1, "weight_decay": 0.1}],
    ids="-".join,
)
def test_in_optaxs_place(keywords):
    """The table of five rows and four columns is its only matrix."""
    ours, theirs = against.pair(BY_RANK, keywords, layout=None)
    ends = against.train_by_halves(ours, theirs, BY_RANK)
    for end in ends.values():
        against.assert_same(end, ends["theirs", "theirs"], against.problem()[0])


@pytest.mark.usefixtures("correction_of_optax")
def test_optaxs_dimension_numbers_are_a_layout():
    params, grads = {"w": normal((2, 3, 4), 0)}, {"w": normal((2, 3, 4), 1, 3)}
    keywords = {"rank": 2, "weight_dimension_numbers": {"w": optax.contrib.GaLoreDimensionNumbers((0, 1), 2)}}
    ours, theirs = galore(0.1, **keywords), optax.contrib.galore(0.1, **keywords)
    with permissive():
        ends = [jax.jit(lambda p, g, tx=tx: run(tx, p, g))(params, grads) for tx in (ours, theirs)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *ends)


@pytest.mark.parametrize("smaller, projector, moments", [(False, (2, 4, 2), (2, 2, 3)), (True, (2, 3, 2), (2, 4, 2))])
def test_either_side_is_projected(smaller, projector, moments):
    params = {"kernel": normal((2, 4, 3), 0)}
    layout = {"kernel": LAYOUT["blocks"]["kernel"]}
    state, *_ = galore(0.1, rank=2, smaller_side=smaller, layout=layout).init(params)
    assert state.projector["kernel"].shape == projector
    assert state.base_optimizer_state.nu["kernel"].shape == moments


@pytest.mark.parametrize("keywords", [{"rank": 0}, {"update_proj_gap": 0}])
def test_counts_are_checked(keywords):
    with pytest.raises(ValueError, match="out of range: give at least 1"):
        galore(0.1, **keywords)


def test_ldadam_keeps_what_its_subspace_leaves_out():
    """Without momentum, the projected gradient and the error add up to the gradient and the last error."""
    tx = scale_by_ldadam(rank=2, b1=0.0)
    update, state = jax.jit(tx.update), tx.init({"w": jnp.zeros((3, 4))})
    for seed in range(3):
        total = normal((3, 4), seed) + state.error["w"]
        _, state = update({"w": normal((3, 4), seed)}, state)
        basis, error = (np.asarray(tree["w"]) for tree in (state.projector, state.error))
        np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-5)
        np.testing.assert_allclose(basis @ basis.T @ total + error, total, atol=1e-5)
        np.testing.assert_allclose(basis.T @ error, 0, atol=1e-5)
