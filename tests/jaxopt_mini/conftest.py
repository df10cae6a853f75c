"""For comparisons with Optax; which tests of a row are slow ones."""

import sys

import jax.numpy as jnp
import pytest

from tests.cases import CASES

CHEAP = {  # run for every row; nothing of them is compiled, or it is what the row is there for
    "test_trajectory_is_reproduced",
    "test_state_keeps_structure_shapes_and_dtypes",
    "test_every_number_out_of_range_is_rejected_by_name",
    "test_integer_leaves_are_rejected",
    "test_missing_parameters_are_optional_or_required",
    "test_a_layout_that_does_not_fit_is_rejected",
    "test_the_state_of_abstract_parameters_has_the_same_shapes",
    "test_the_state_keeps_its_shapes_under_nnx",
}


def pytest_collection_modifyitems(items):
    """Marks the other tests of rows with ``slow=True``, by the names in their parameters."""
    late = {name for name, case in CASES.items() if case.slow}
    for item in items:
        parameters = getattr(item, "callspec", None)
        if parameters and late.intersection(parameters.id.split("-")) and item.originalname not in CHEAP:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def correction_of_optax(monkeypatch):
    """Bias corrections as in Optax, whose error (see test_departures) is larger than the tolerance."""
    for module in [module for name, module in sys.modules.items() if name.startswith("jaxopt_mini")]:
        if hasattr(module, "total_weight"):
            monkeypatch.setattr(module, "total_weight", lambda decay, count: 1 - decay ** count.astype(jnp.float32))
