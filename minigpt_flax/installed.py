"""Checks for the packages of an extra."""

from __future__ import annotations

import importlib.util
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from minigpt_flax.errors import UserError
from minigpt_flax.invocation import PACKAGE, ROOT, quote

NOT_INSTALLED = "(not installed)"
MODULES = {
    "gpt": ("flax", "jaxtyping", "matfree", "matplotlib", "orbax", "plotext", "rich", "safetensors", "tokenizers"),
    "completion": ("shtab",),
}


def require(extra: str = "gpt") -> None:
    """Check that the packages of an extra are installed.

    Raises:
      UserError: some are missing; names them and the command that installs them.
    """
    if missing := [name for name in MODULES[extra] if importlib.util.find_spec(name) is None]:
        raise UserError(f"not installed: {', '.join(missing)}; install with: {install_line(extra)}")


def install_line(extra: str) -> str:
    """The command that installs an extra.

    By the name of this package if it is installed, else by the folder of its source: no index has the package.
    """
    source = ROOT if own_version() == NOT_INSTALLED else PACKAGE
    return f"pip install {quote(f'{source}[{extra}]')}"


def import_or_explain(module: str) -> ModuleType:
    """Import a module that needs the extra ``gpt``.

    Raises:
      ModuleNotFoundError: packages are missing; names them and the command that installs them.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        try:
            require()
        except UserError as explained:
            raise ModuleNotFoundError(str(explained), name=error.name) from error
        raise


def own_version() -> str:
    """The version of this package, if it is installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return NOT_INSTALLED
