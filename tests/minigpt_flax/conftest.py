"""A run to look at."""

import pytest

from tests.minigpt_flax.training import start


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a finished tiny run; to be read only."""
    path = tmp_path_factory.mktemp("runs") / "trained"
    assert start(path) == 0
    return path
