"""The iteration against exact arithmetic, in both forms, and on trees of matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jaxopt_mini import ParamLayout
from jaxopt_mini.matrices import MATRIX
from jaxopt_mini.orthogonal import (
    COEFFICIENTS,
    PRECONDITIONINGS,
    arithmetic,
    coefficients,
    newton_schulz,
    orthogonalize,
)
from tests.harness import normal


def matrix(values, columns, seed=0):
    """A matrix with given singular values."""
    generator = np.random.default_rng(seed)
    u, _ = np.linalg.qr(generator.standard_normal((len(values), len(values))))
    v, _ = np.linalg.qr(generator.standard_normal((columns, len(values))))
    return jnp.asarray(u * values @ v.T, jnp.float32)


def exact(x, table):
    """The definition, in float64."""
    x = np.float64(x) / np.linalg.norm(np.float64(x))
    for a, b, c in np.float64(table):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("steps", [5, 8])
@pytest.mark.parametrize("name", ["standard", "polar_express"])
@pytest.mark.parametrize("decades", [0, 2, 4, 8, np.inf])
def test_both_forms_are_equally_close_to_exact_arithmetic(name, steps, decades):
    """For singular values that are similar, spread over decades, or mostly zero."""
    spread = np.arange(32) < 4 if np.isinf(decades) else np.logspace(0, -decades, 32)
    x, table = matrix(spread, 96), np.broadcast_to(coefficients(name, steps), (steps, 3))
    # Rounding errors in a direction without gradient grow by a factor of up to 3.5 per step, in either form.
    allowed = 2e-5 * 3.5 ** (steps - 5)
    for gram in (False, True):
        got = jax.jit(lambda x, gram=gram: newton_schulz(x, jnp.asarray(table), gram=gram))(x)
        np.testing.assert_allclose(got, exact(x, table), rtol=0, atol=allowed)


@pytest.mark.parametrize("columns, steps", [(8, 5), (9, 5), (10, 5), (32, 5), (32, 1), (32, 8)])
def test_the_counted_products_are_those_of_the_program(columns, steps):
    def count(jaxpr, times=1):
        total = 0
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
                total += times * int(np.prod(out)) * left[contracted[0]]
            for inner in jaxprs_in_params(equation.params):
                total += count(getattr(inner, "jaxpr", inner), times * equation.params.get("length", 1))
        return total

    plain, gram = arithmetic(8, columns, steps)
    for form, expected in ((False, plain), (True, gram), (None, min(plain, gram))):
        traced = jax.make_jaxpr(lambda x, form=form: newton_schulz(x, coefficients("standard", 5), steps, gram=form))
        assert count(traced(jnp.zeros((8, columns))).jaxpr) == expected


@pytest.mark.parametrize("name, steps, low, high", [("standard", 5, 0.67, 1.21), ("polar_express", 8, 0.999, 1.001)])
def test_singular_values_end_near_one(name, steps, low, high):
    x = matrix(np.linspace(0.02, 1, 24), 40)
    end = jax.jit(lambda x: newton_schulz(x, coefficients(name, steps), steps))(x)
    values = np.linalg.svd(end, compute_uv=False)
    assert low < values.min() and values.max() < high


@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS)
@pytest.mark.parametrize("shape", [(6, 6), (6, 20), (20, 6)])
def test_every_preconditioning_orthogonalizes_at_every_scale(preconditioning, shape):
    x = normal({"x": shape}, 0)["x"]

    @jax.jit
    def orthogonal(x):
        return newton_schulz(x, coefficients("polar_express", 8), 8, preconditioning=preconditioning, eps=0.0)

    ends = [orthogonal(x * scale) for scale in (1.0, 1e-18, 1e15)]
    for end in ends:
        np.testing.assert_allclose(np.linalg.svd(end, compute_uv=False), 1.0, atol=1e-3)
        np.testing.assert_allclose(end, ends[0], atol=1e-4)


@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS)
def test_zeros_stay_zeros(preconditioning):
    table = coefficients("standard", 5)
    end = jax.jit(lambda x: newton_schulz(x, table, preconditioning=preconditioning))(jnp.zeros((3, 9)))
    np.testing.assert_array_equal(end, np.zeros((3, 9)))


def test_complex_matrices_become_unitary():
    x = normal({"x": (2, 4, 24)}, 0)["x"]
    x = newton_schulz(jax.lax.complex(*x), coefficients("polar_express", 8), 8)
    np.testing.assert_allclose(x @ x.conj().T, np.eye(4), atol=1e-3)


def test_narrow_products_keep_wide_sums():
    x, table = matrix(np.linspace(0.5, 1, 16), 64), coefficients("standard", 5)

    def narrow(x):
        return newton_schulz(x, table, dtype="bfloat16")

    products = [e for e in jax.make_jaxpr(narrow)(x).jaxpr.eqns if e.primitive.name == "scan"][0].params["jaxpr"].eqns
    products = [equation for equation in products if equation.primitive.name == "dot_general"]
    assert {v.aval.dtype.name for e in products for v in e.invars} == {"bfloat16"}
    assert {v.aval.dtype.name for e in products for v in e.outvars} == {"float32"}
    np.testing.assert_allclose(narrow(x), newton_schulz(x, table), atol=0.02)


SHAPES = {"stack": (3, 4, 10), "tall": (10, 4), "heads": (4, 2, 5), "square": (4, 4)}
LAYOUT = {
    "stack": ParamLayout("matrix", (0,), (1,), (2,)),
    "tall": MATRIX,
    "heads": ParamLayout("matrix", (), (0,), (1, 2)),
    "square": MATRIX,
}


def test_a_tree_is_orthogonalized_matrix_by_matrix():
    tree, table = normal(SHAPES, 0), coefficients("standard", 5)

    def one_by_one(tree):
        return {
            "stack": jnp.stack([newton_schulz(m, table) for m in tree["stack"]]),
            "tall": newton_schulz(tree["tall"], table),
            "heads": newton_schulz(tree["heads"].reshape(4, 10), table).reshape(4, 2, 5),
            "square": newton_schulz(tree["square"], table),
        }

    together, alone = jax.jit(lambda tree: (orthogonalize(tree, LAYOUT, table), one_by_one(tree)))(tree)
    for name, expected in alone.items():
        np.testing.assert_allclose(together[name], expected, atol=2e-6)


def test_the_program_does_not_grow_with_the_number_of_layers():
    def loops(layers):
        tree = {str(i): jnp.zeros((8, 24) if i % 2 else (24, 8)) for i in range(layers)}
        layout = dict.fromkeys(tree, MATRIX)
        traced = jax.make_jaxpr(lambda tree: orthogonalize(tree, layout, coefficients("standard", 5)))(tree)
        return sum(equation.primitive.name in ("scan", "dot_general") for equation in traced.jaxpr.eqns)

    assert loops(2) == loops(20)


def test_coefficients_are_checked():
    assert coefficients("polar_express", 5).shape == (5, 3)
    assert coefficients((2.0, -1.5, 0.5), 9).shape == (3,)
    for given, message in (("fast", f"'fast'.*{'.*'.join(COEFFICIENTS)}"), ((1.0, 2.0), r"\(2,\).*three")):
        with pytest.raises(ValueError, match=message):
            coefficients(given, 5)
