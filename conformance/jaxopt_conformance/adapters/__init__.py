"""Optimizers of other frameworks in the form that a recording is replayed on; each framework is imported when used."""

import importlib
from typing import Any


def imported(name: str) -> Any:
    """A module that need not be installed."""
    return importlib.import_module(name)
