"""The part of an update along the weights: its scale, and the norm of the weights after the step."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import ParamLayout, apply_updates, muon
from jaxopt_mini.transforms.neurons import keep_above
from jaxopt_mini.transforms.radial import brake, land
from tests.harness import normal

PARAMS = {"w": jnp.array([[3.0, 0.0], [0.0, 4.0]])}


def step(tx, updates, params=PARAMS):
    return tx.update(updates, tx.init(params), params)[0]["w"]


@pytest.mark.parametrize("sign, factor", [(-1.0, 0.25), (1.0, 0.5)])
def test_the_brake_scales_only_the_radial_part(sign, factor):
    tangent = jnp.array([[4.0, 1.0], [1.0, -3.0]])
    found = step(brake(0.25, 0.5), {"w": tangent + sign * PARAMS["w"]})
    np.testing.assert_allclose(found, tangent + sign * factor * PARAMS["w"], rtol=1e-6)


def test_only_the_radial_part_changes_the_norm():
    u = normal({"w": (2, 2)}, 0)
    landed = apply_updates(PARAMS, {"w": step(land(0.1, pin=True), u)})["w"]
    expected = 5.0 - 0.1 * float(jnp.sum(u["w"] * PARAMS["w"])) / 5.0
    np.testing.assert_allclose(jnp.linalg.norm(landed), expected, rtol=1e-6)
    zeros = {"w": jnp.zeros((2, 2))}
    np.testing.assert_allclose(step(land(0.1, pin=True), u, zeros), -0.1 * u["w"], rtol=1e-6)


def test_late_decay_is_of_weights_that_the_step_shrinks():
    u = {"w": jnp.array([[1.0, 1.0], [1.0, -1.0]])}
    found = apply_updates(PARAMS, {"w": step(land(lambda t: 0.5, 0.2, pin=False), u)})["w"]
    np.testing.assert_allclose(found, [[2.5 * 0.9, -0.5], [-0.5, 4.5]], rtol=1e-6)
    unmasked = step(land(0.5, 0.2, {"w": False}, pin=False), u)
    np.testing.assert_allclose(unmasked, -0.5 * u["w"], rtol=1e-6)


def test_a_floor_of_each_output_neuron():
    u = {"w": jnp.array([[1.0, 0.0], [0.0, 4.0]])}
    np.testing.assert_allclose(step(keep_above(0.5, of="outputs"), u), [[1.5, 0.0], [0.0, 4.0]], rtol=1e-6)
    np.testing.assert_allclose(step(keep_above(0.5, of="outputs", power=2.0), u)[0, 0], 2.25, rtol=1e-6)
    with pytest.raises(ValueError, match="unknown part to keep above a share 'rows'"):
        keep_above(0.5, of="rows")


@pytest.mark.parametrize("keywords", [{"radial": (0.5, 1.0)}, {"decay": "cautious_late"}])
def test_muon_needs_a_learning_rate_for_them(keywords):
    with pytest.raises(ValueError, match="act on the step: give a learning rate"):
        muon(None, **keywords)


@pytest.mark.slow
def test_stacked_matrices_are_treated_one_by_one():
    layout = {"w": ParamLayout("matrix", (0,), (1,), (2,))}
    params, u = normal({"w": (2, 3, 2)}, 0), normal({"w": (2, 3, 2)}, 1)
    links = {"brake": brake(0.1, 0.2, layout), "land": land(0.1, 0.5, pin=True, layout=layout)}
    single = {"brake": brake(0.1, 0.2), "land": land(0.1, 0.5, pin=True)}
    for name, tx in links.items():
        alone = [step(single[name], {"w": u["w"][i]}, {"w": params["w"][i]}) for i in range(2)]
        np.testing.assert_allclose(step(tx, u, params), jnp.stack(alone), rtol=1e-5)
