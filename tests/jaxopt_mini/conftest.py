"""For comparisons with Optax."""

import sys

import jax.numpy as jnp
import pytest


@pytest.fixture
def correction_of_optax(monkeypatch):
    """Bias corrections as in Optax, whose error (see test_departures) is larger than the tolerance."""
    for module in [module for name, module in sys.modules.items() if name.startswith("jaxopt_mini")]:
        if hasattr(module, "total_weight"):
            monkeypatch.setattr(module, "total_weight", lambda decay, count: 1 - decay ** count.astype(jnp.float32))
