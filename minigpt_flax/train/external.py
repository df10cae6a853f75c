"""Optimizers from outside of the project: factories named ``package.module:factory`` or ``file.py:factory``.

To import one runs its code. A name that the user typed is imported; one that was read from a folder only if the user
says that the folder is trusted (``--trust``).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import optax

from minigpt_flax.errors import UserError, nearest
from minigpt_flax.invocation import show
from minigpt_flax.spec import Spec

_REGISTERED: dict[str, Callable] = {}


def name_of(factory: Callable) -> str:
    """Names a factory that a Python program passes as an object, so that a configuration can hold it.

    Raises:
      UserError: it has no name, such as a lambda or a function inside of another.
    """
    name, module = getattr(factory, "__qualname__", ""), getattr(factory, "__module__", None)
    if not name.replace(".", "_").isidentifier() or module is None:
        raise UserError(f"{factory!r} has no name to be found again by: define it with def, at the top of a module")
    file = getattr(sys.modules.get(module), "__file__", None)
    place = module if module != "__main__" or file is None else os.path.abspath(file)
    _REGISTERED[f"{place}:{name}"] = factory
    return f"{place}:{name}"


def load_factory(spec: Spec) -> Callable:
    """Imports the factory that a spec names: ``(learning_rate, **keywords) -> GradientTransformation``.

    Raises:
      UserError: the spec isn't trusted, there is no such module, file or name, or it can't be imported.
    """
    if spec.name in _REGISTERED:
        return _checked(spec, _REGISTERED[spec.name])
    place, _, name = spec.name.rpartition(":")
    if not spec.trusted:
        raise UserError(
            f"the run's optimizer is {spec.name}, code outside this project, which would be executed: "
            "add --trust if you trust it"
        )
    module = _load_file(Path(place)) if place.endswith(".py") or os.sep in place else _load_module(place)
    try:
        factory = reduce(getattr, name.split("."), module)
    except AttributeError:
        raise UserError(f"--opt {spec.name}: {place} has no {name!r}{nearest(name, vars(module))}") from None
    if not callable(factory):
        raise UserError(f"--opt {spec.name}: {name} is not a function but of type {type(factory).__name__}")
    return _checked(spec, factory)


def _checked(spec: Spec, factory: Callable) -> Callable:
    """The factory, with errors of its own code as a user's error."""

    def call(learning_rate: Any, *arguments: Any, **keywords: Any) -> Any:
        try:
            made = factory(learning_rate, *arguments, **keywords)
        except Exception as error:
            said = " ".join(str(error).split())
            raise UserError(f"--opt {spec.name}: the factory raised {type(error).__name__}: {said}") from error
        if not is_transformation(made):
            raise UserError(
                f"--opt {spec.name}: the factory returned {type(made).__name__}, not an optax.GradientTransformation"
            )
        return made

    call.__name__ = spec.name
    call.__doc__ = factory.__doc__
    call.__wrapped__ = factory  # pyright: ignore[reportFunctionMemberAccess]  # its signature binds the spec
    return call


def is_transformation(value: Any) -> bool:
    """Whether a value is a gradient transformation of Optax, which is a pair of functions."""
    pair = isinstance(value, optax.GradientTransformation)
    return pair or (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None)))


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"--opt {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"optimizer_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--opt {show(path)} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    return _executed(f"{show(path)}", lambda: (spec.loader.exec_module(module), module)[1])  # pyright: ignore


def _load_module(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # as ``python -m`` does
    return _executed(name, lambda: importlib.import_module(name))


def _executed(place: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except ModuleNotFoundError as error:
        raise UserError(f"--opt {place}: there is no module {error.name!r}") from error
    except Exception as error:
        said = " ".join(str(error).split())
        raise UserError(f"--opt {place} can't be imported: {type(error).__name__}: {said}") from error
