"""Numbers out of range are rejected by name; values that aren't numbers pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini.check import check_fraction, check_nonnegative


@pytest.mark.parametrize("check", [check_nonnegative, check_fraction])
@pytest.mark.parametrize("value", [-1, -1e-9, np.float32(-2), float("nan"), -float("inf")])
def test_a_bad_number_is_rejected_with_its_name_and_value(check, value):
    with pytest.raises(ValueError, match=rf"^eps={value} is out of range: give a number "):
        check(b1=0.5, eps=value)


@pytest.mark.parametrize("value", [1, 1.0, 2.0])
def test_a_fraction_is_below_one(value):
    check_nonnegative(b2=value)
    with pytest.raises(ValueError, match=rf"^b2={value} .*\[0, 1\)"):
        check_fraction(b2=value)


@pytest.mark.parametrize("check", [check_nonnegative, check_fraction])
def test_schedules_traced_values_and_none_pass(check):
    check(a=None, b=lambda count: -1.0, c=0, d=0.5)
    jax.jit(lambda x: check(x=x))(jnp.float32(-1.0))
