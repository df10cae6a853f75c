"""Muon against Optax's, by rank and by layout; the other parameters of a layout; low precision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import adamw, muon
from tests.cases import CASES
from tests.harness import LAYOUT, SHAPES, normal, permissive, run
from tests.jaxopt_mini import test_against_optax as against

KERNEL = {"embed": None, "blocks": {"kernel": optax.contrib.MuonDimensionNumbers(1, 2), "bias": None}, "scale": None}


def on_the_kernel(learning_rate, **keywords):
    """Optax's Muon with the tests' layout as dimension numbers; without a layout, ours with the same numbers."""

    def numbers(params):
        return {name: KERNEL[name] for name in params}

    return optax.contrib.muon(learning_rate, muon_weight_dimension_numbers=numbers, **keywords)


BY_LAYOUT = dataclasses.replace(CASES["muon"], optax=on_the_kernel)
BY_RANK = dataclasses.replace(CASES["muon"], optax=optax.contrib.muon)
VARIANTS = (
    {},
    {"nesterov": False, "ns_coeffs": "dion", "consistent_rms": 0.2},
    {"preconditioning": "aol", "adam_learning_rate": 0.01, "weight_decay": 0.1},
    {"preconditioning": "schatten", "adam_weight_decay": 0.1, "adam_b2": 0.9, "beta": 0.9},
    {"preconditioning": "spectral", "ns_steps": 4, "ns_coeffs": ((2.0, -1.5, 0.5),) * 4},
)


@pytest.mark.usefixtures("correction_of_optax")
@pytest.mark.parametrize("keywords", [*VARIANTS, {"adaptive": True}], ids="-".join)
def test_in_optaxs_place_by_rank(keywords):
    """The table of five rows and four columns is its only matrix."""
    ours, theirs = against.pair(BY_RANK, keywords, layout=None)
    ends = against.train_by_halves(ours, theirs, BY_RANK)
    for end in ends.values():
        against.assert_same(end, ends["theirs", "theirs"], against.problem()[0])


@pytest.mark.usefixtures("correction_of_optax")
@pytest.mark.parametrize("keywords", VARIANTS, ids="-".join)
def test_in_optaxs_place_by_layout(keywords):
    """Matrices stacked over layers."""
    against.test_numbers_and_states_agree_and_each_continues_under_the_other(BY_LAYOUT, keywords)


def test_in_optaxs_place_in_chains_under_masks_and_schedules():
    against.test_agree_in_chains_under_masks_and_schedules(BY_LAYOUT, {})


def test_optaxs_dimension_numbers_are_a_layout():
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 2)
    ends = [
        jax.jit(lambda p, g, tx=tx: run(tx, p, g))(params, grads)
        for tx in (muon(0.1, layout=LAYOUT), muon(0.1, muon_weight_dimension_numbers=KERNEL))
    ]
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.parametrize("keywords", [{"ns_coeffs": "muon"}, {"ns_coeffs": "dion", "ns_steps": 3}], ids="-".join)
def test_presets_that_optax_documents_and_rejects(keywords):
    params = normal({"w": (4, 6)}, 0)
    with permissive(), pytest.raises(ValueError):
        optax.contrib.muon(0.1, **keywords).init(params)
    updates, _ = muon(0.1, **keywords).update(params, muon(0.1, **keywords).init(params), params)
    assert 0.05 < np.linalg.norm(updates["w"], 2) < 0.2


def test_embeddings_heads_and_vectors_go_to_the_other_optimizer():
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 3)
    other = adamw(0.03, b2=0.9)
    mixed, _ = run(muon(0.1, rest=other, layout=LAYOUT), params, grads)
    alone, _ = run(other, params, grads)
    for path in (("embed",), ("blocks", "bias"), ("scale",)):
        a, b = mixed, alone
        for key in path:
            a, b = a[key], b[key]
        np.testing.assert_array_equal(a, b)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(mixed["blocks"]["kernel"], alone["blocks"]["kernel"], rtol=0.01)


def test_bfloat16_gradients_give_the_step_of_exact_arithmetic():
    """Optax iterates in bfloat16 and is off by more than a tenth of this."""
    grads = {"w": normal({"w": (16, 48)}, 0)["w"].astype(jnp.bfloat16)}
    u, s, v = np.linalg.svd(np.float64(grads["w"]), full_matrices=False)
    values = s / np.linalg.norm(s)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    exact = -np.sqrt(3) * (u * values @ v)

    def error(tx):
        updates, _ = jax.jit(lambda grads: tx.update(grads, tx.init(grads), grads))(grads)
        return np.abs(np.float64(updates["w"]) - exact).max() / np.abs(exact).max()

    with permissive():
        ours, theirs = error(muon(1.0)), error(optax.contrib.muon(1.0))
    assert ours < 2**-7 < theirs  # two roundings of what is stored


def test_names_are_checked():
    with pytest.raises(ValueError, match="preconditioning='qr'.*frobenius"):
        muon(0.1, preconditioning="qr")
    with pytest.raises(ValueError, match="give one of them"):
        muon(0.1, layout=LAYOUT, muon_weight_dimension_numbers=KERNEL)
