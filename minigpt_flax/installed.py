"""Checks for the packages of an extra."""

from __future__ import annotations

import importlib.util
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from types import ModuleType

from minigpt_flax.errors import UserError
from minigpt_flax.invocation import PACKAGE, ROOT, quote

MODULES = {
    "gpt": ("flax", "jaxtyping", "matplotlib", "orbax", "plotext", "rich", "safetensors", "tokenizers"),
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

    It names this package if it is installed, else the folder of the source, as the package is on no index. Building
    leaves metadata in that folder, which does not count as installed.
    """
    places = [Path(str(found.locate_file(""))).resolve() for found in distributions(name=PACKAGE)]
    is_source = (ROOT / "pyproject.toml").is_file() and all(place == ROOT for place in places)
    source = ROOT if is_source else PACKAGE
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
        return "(not installed)"
