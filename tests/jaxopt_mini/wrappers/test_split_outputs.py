"""Fused projections whose parts are optimized as matrices of their own."""

from functools import partial

import chex
import jax.numpy as jnp
import pytest

from jaxopt_mini import ParamLayout, adamw, apply_updates, chain, clip_by_norm, muon
from jaxopt_mini.transforms.neurons import normalize
from jaxopt_mini.wrappers import split_outputs
from tests.harness import normal

WIDTHS = (4, 2, 2)
FUSED = {"qkv": {"kernel": (2, 3, 8), "bias": (2, 8)}, "out": {"kernel": (2, 4, 3)}}
LAYOUT = {
    "qkv": {"kernel": ParamLayout("matrix", (0,), (1,), (2,)), "bias": ParamLayout("vector", (0,), (), (1,))},
    "out": {"kernel": ParamLayout("matrix", (0,), (1,), (2,))},
}


def apart(tree):
    """The tree of a model with separate projections."""
    bounds = {"q": slice(0, 4), "k": slice(4, 6), "v": slice(6, 8)}
    parts = {name: {"kernel": tree["qkv"]["kernel"][..., at]} for name, at in bounds.items()}
    return {"out": tree["out"], "bias": tree["qkv"]["bias"], **parts}


@pytest.mark.slow
def test_parts_are_updated_like_separate_matrices():
    params, grads = normal(FUSED, 0), normal(FUSED, 1, 2)
    make = partial(muon, 0.1, weight_decay=0.1, rest=adamw(0.1))
    layout = {
        "out": LAYOUT["out"],
        "bias": LAYOUT["qkv"]["bias"],
        **{name: {"kernel": LAYOUT["qkv"]["kernel"]} for name in "qkv"},
    }
    fused, plain = split_outputs(make, {"qkv/kernel": WIDTHS}, layout=LAYOUT), make(layout=layout)
    other = apart(params)
    state, other_state = fused.init(params), plain.init(other)
    for t in range(2):
        grad = {
            "qkv": {name: leaf[t] for name, leaf in grads["qkv"].items()},
            "out": {"kernel": grads["out"]["kernel"][t]},
        }
        updates, state = fused.update(grad, state, params)
        others, other_state = plain.update(apart(grad), other_state, other)
        params, other = apply_updates(params, updates), apply_updates(other, others)
    chex.assert_trees_all_close(apart(params), other, rtol=1e-5, atol=1e-6)


def test_it_works_in_a_chain_and_infers_the_layout():
    params = normal({"qkv": {"kernel": (3, 8)}}, 0)
    tx = chain(clip_by_norm(1.0), split_outputs(lambda layout: normalize("frobenius", layout=layout), {"*": WIDTHS}))
    updates, _ = tx.update(params, tx.init(params), params)
    for at, rank in ((slice(0, 4), 3), (slice(4, 6), 2), (slice(6, 8), 2)):
        assert float(jnp.linalg.norm(updates["qkv"]["kernel"][:, at])) == pytest.approx(rank**0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"qkv/kernel": (4, 2, 1)}, r"qkv/kernel of shape \(2, 3, 8\) can't be split along axis -1 into parts of"),
        ({"kqv/kernel": WIDTHS}, "no parameter matches the pattern 'kqv/kernel': choose from"),
    ],
)
def test_widths_that_do_not_fit_are_rejected(parts, message):
    with pytest.raises(ValueError, match=message):
        split_outputs(partial(muon, 0.1), parts).init(normal(FUSED, 0))
