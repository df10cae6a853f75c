"""Scion: each role's step is the point of its ball that lies furthest along the momentum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import scale_by_scion, scion
from jaxopt_mini.layout import ParamLayout
from jaxopt_mini.matrices import MATRIX
from tests.harness import normal, run

ROLES = {
    "matrix": MATRIX,
    "embedding": ParamLayout("embedding", (), (0,), (1,)),
    "head": ParamLayout("head", (), (0,), (1,)),
    "vector": ParamLayout("vector", (), (), (0, 1)),
}
RADII = {"radius": 2.0, "embedding_radius": 3.0, "head_radius": 5.0, "vector_radius": 7.0}


def rms(x):
    return np.sqrt(np.mean(np.square(x), axis=-1))


# For each role (size in its norm, size of the gradient in the dual norm) of a (fan-in, fan-out) array.
NORMS = {
    "matrix": (
        lambda x: np.linalg.norm(x, 2) / np.sqrt(x.shape[1] / x.shape[0]),
        lambda g: np.linalg.norm(g, "nuc") * np.sqrt(g.shape[1] / g.shape[0]),
    ),
    "embedding": (lambda x: rms(x).max(), lambda g: np.sum(rms(g)) * g.shape[1]),
    "head": (lambda x: np.abs(x).max() * x.shape[0], lambda g: np.sum(np.abs(g)) / g.shape[0]),
    "vector": (lambda x: rms(x.ravel()), lambda g: rms(g.ravel()) * g.size),
}


@pytest.mark.parametrize("role, radius", list(zip(ROLES, RADII.values(), strict=True)))
def test_the_step_lies_on_the_ball_and_reaches_furthest(role, radius):
    g = normal({"w": (4, 6)}, 0)
    link = scale_by_scion(**RADII, ns_coeffs="polar_express", ns_steps=8, layout={"w": ROLES[role]})
    updates, _ = jax.jit(lambda g: link.update(g, link.init(g)))(g)
    size, dual = NORMS[role]
    np.testing.assert_allclose(size(np.asarray(updates["w"])), radius, rtol=1e-3)
    np.testing.assert_allclose(np.sum(updates["w"] * g["w"]), radius * dual(np.asarray(g["w"])), rtol=1e-3)


def test_constrained_weights_stay_in_their_balls():
    params = {"w": jnp.zeros((4, 6))}
    tx = scion(0.2, radius=2.0, layout={"w": MATRIX}, ns_coeffs="polar_express", ns_steps=8)
    end, _ = jax.jit(lambda g: run(tx, params, {"w": g}))(normal((4, 6), 0, 100))
    assert NORMS["matrix"][0](np.asarray(end["w"])) < 2.0 * 1.001
