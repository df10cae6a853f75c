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
    "test_without_a_layout_every_link_uses_the_documented_one",
    "test_the_state_of_abstract_parameters_has_the_same_shapes",
    "test_the_state_keeps_its_shapes_under_nnx",
}

EXAMPLES = {"sgd", "adamw", "lion", "adafactor", "muon", "shampoo", "schedule_free_adamw", "prodigy"}
SAMPLED = {  # of the rows, only the examples are quick tests: their programs take long to compile
    "test_sharded_under_jit_it_is_the_same",
    "test_under_explicit_axes_shardings_are_constant",
    "test_every_factory_gives_what_it_gives_without",
    "test_agree_without_jit",
    "test_seeds_may_be_mapped",
}


def is_slow(test, parameters):
    """Whether a test of a row is a slow one, by the names in its parameters."""
    rows = CASES.keys() & parameters
    late = any(CASES[name].slow for name in rows)
    return (late and test not in CHEAP) or (test in SAMPLED and not rows & EXAMPLES)


def pytest_collection_modifyitems(items):
    """Marks the slow tests of rows."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        if parameters and is_slow(item.originalname, set(parameters.id.split("-"))):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def correction_of_optax(monkeypatch):
    """Bias corrections as in Optax, whose error (see test_departures) is larger than the tolerance."""
    for module in [module for name, module in sys.modules.items() if name.startswith("jaxopt_mini")]:
        if hasattr(module, "total_weight"):
            monkeypatch.setattr(module, "total_weight", lambda decay, count: 1 - decay ** count.astype(jnp.float32))
