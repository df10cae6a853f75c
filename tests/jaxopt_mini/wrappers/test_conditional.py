"""Running a transformation under a condition."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_mini.base import with_extra_args_support
from jaxopt_mini.transforms import trace
from jaxopt_mini.wrappers._conditional import update_if

INNER = with_extra_args_support(trace(0.5))


def test_a_skipped_step_changes_nothing_and_gives_zeros():
    grads = {"w": jnp.ones(2, jnp.bfloat16)}
    state = INNER.init(grads)
    for condition, expected in ((True, 1.0), (False, 0.0), (True, 1.5)):
        updates, state = update_if(jnp.array(condition), INNER, grads, state, None, {})
        np.testing.assert_array_equal(updates["w"], jnp.full(2, expected, jnp.bfloat16))


def test_the_update_is_inside_a_branch():
    jaxpr = jax.make_jaxpr(lambda c, g, s: update_if(c, INNER, g, s, None, {}))(
        True, jnp.ones(2), INNER.init(jnp.ones(2))
    )
    names = [equation.primitive.name for equation in jaxpr.eqns]
    assert "cond" in names and "mul" not in names
