"""Gradient centralization by layout."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxopt_mini import ParamLayout, centralize
from tests.harness import normal


def test_every_output_of_every_layer_sums_to_zero_over_its_inputs():
    grads = normal({"w": (2, 4, 3, 2), "b": (3,)}, 0)
    layout = {"w": ParamLayout("matrix", (0,), (1,), (2, 3)), "b": ParamLayout("vector", (), (), (0,))}
    updates, _ = centralize(layout=layout).update(grads, centralize().init(grads))
    np.testing.assert_allclose(jnp.sum(updates["w"], axis=1), 0.0, atol=1e-6)
    np.testing.assert_array_equal(updates["b"], grads["b"])
