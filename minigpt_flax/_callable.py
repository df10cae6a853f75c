"""Callable packages: ``minigpt_flax.train`` is a package and the function of the public interface.

One attribute can't refer to both, and the result would depend on the order of imports.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any

from minigpt_flax.installed import import_or_explain

INTERFACE = "minigpt_flax._api"


class CallablePackage(ModuleType):
    """A package; calling it calls the function of the same name in the public interface."""

    @property
    def __wrapped__(self) -> Any:
        """The function."""
        return getattr(import_or_explain(INTERFACE), self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> inspect.Signature:
        """Signature of the function."""
        return inspect.signature(self.__wrapped__)

    def __call__(self, **arguments: Any) -> Any:
        """Calls the function."""
        return self.__wrapped__(**arguments)


def make_callable(package: str) -> None:
    """Makes a package callable; for its own ``__init__``."""
    sys.modules[package].__class__ = CallablePackage
