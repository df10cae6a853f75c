"""The public names: none hides a module, and the names of the last release still work."""

import importlib
import pkgutil

import pytest

import jaxopt_mini

MODULES = [info.name for info in pkgutil.walk_packages(jaxopt_mini.__path__, "jaxopt_mini.")]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.rpartition(".")[2].startswith("_")])
def test_no_public_module_is_hidden_by_a_function(name):
    package, _, leaf = name.rpartition(".")
    assert getattr(importlib.import_module(package), leaf) is importlib.import_module(name)
