"""Decompositions mapped over stacks: the same numbers, and no batched call on the CPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini.linalg import eigh, orthonormal, singular_vectors, solve_transposed
from tests.harness import normal

STACK = normal((3, 4, 4), 0) + 3 * jnp.broadcast_to(jnp.eye(4), (3, 4, 4))
SYMMETRIC = STACK @ STACK.mT
CASES = {
    "eigh": (lambda m: eigh(m)[0], SYMMETRIC, jnp.linalg.eigvalsh),
    "orthonormal": (orthonormal, STACK, lambda m: jnp.linalg.qr(m)[0]),
    "singular_vectors": (lambda m: multiply_pair(*singular_vectors(m)), STACK, lambda m: multiply_pair(*thin(m))),
    "solve_transposed": (lambda m: solve_transposed(m, m), jnp.triu(STACK), lambda m: jnp.linalg.solve(m.mT, m)),
}


def thin(matrix):
    u, _, vh = jnp.linalg.svd(matrix, full_matrices=False)
    return u, vh


def multiply_pair(left, right):
    return left @ right


@pytest.mark.parametrize("name", CASES)
def test_mapped_over_a_stack_it_is_that_of_each_matrix(name):
    function, stack, reference = CASES[name]
    got = jax.jit(jax.vmap(function))(stack)
    np.testing.assert_allclose(got, jnp.stack([reference(m) for m in stack]), atol=2e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("maps", [1, 2])
def test_on_the_cpu_no_call_gets_a_stack(name, maps):
    """Two batched calls can deadlock; a call with one matrix cannot."""
    function, stack, _ = CASES[name]
    function = jax.vmap(function)
    for _ in range(maps - 1):
        function, stack = jax.vmap(function), stack[None]
    text = jax.jit(function).lower(stack).as_text()
    calls = [line for line in text.splitlines() if re.search(r"custom_call @lapack|triangular_solve", line)]
    assert calls and not any(re.search(r"tensor<(1x)?3x4x4x", line) for line in calls)
