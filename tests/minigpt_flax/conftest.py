"""A run to look at, and commands without side effects."""

import pytest

from minigpt_flax.cli import compiled
from tests.minigpt_flax.training import LASTING, start


@pytest.fixture(autouse=True)
def cache_of_commands(monkeypatch):
    """Commands called in this process leave the user's compilation cache and JAX's configuration alone."""
    monkeypatch.setattr(compiled, "use", lambda choice: None)


@pytest.fixture(scope="session", autouse=True)
def lasting_folders():
    """Removes the folders that lasted for the session."""
    yield
    for folder in LASTING:
        folder.cleanup()


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a finished tiny run; to be read only."""
    path = tmp_path_factory.mktemp("runs") / "trained"
    assert start(path) == 0
    return path
