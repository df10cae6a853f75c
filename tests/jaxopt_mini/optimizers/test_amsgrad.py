"""Specific to AMSGrad: the two places of the maximum."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import amsgrad


@pytest.mark.parametrize(
    "keywords, moment",
    [
        ({}, 1.0),  # the first corrected moment is the first gradient's whole square, and stays the largest
        ({"maximum_first": True}, 0.5 / (1 - 0.25)),
        ({"bias_correction_nu": False}, 0.5),
        ({"bias_correction_nu": False, "maximum_first": True}, 0.5),
    ],
)
def test_what_a_small_gradient_after_a_large_one_is_divided_by(keywords, moment):
    tx = amsgrad(1.0, b1=0.0, b2=0.5, eps=0.0, **keywords)
    state = tx.init(jnp.zeros(()))
    for grad in (1.0, 0.01):
        update, state = tx.update(jnp.float32(grad), state)
    np.testing.assert_allclose(update, -0.01 / np.sqrt(moment), rtol=1e-5)
