"""The optional packages that commands need: those of an extra."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version

from minigpt_flax.errors import UserError

PACKAGE = "jaxopt-mini"
MODULES = {
    "gpt": ("flax", "jaxtyping", "matplotlib", "orbax", "plotext", "rich", "safetensors", "tokenizers"),
    "completion": ("shtab",),
}


def require(extra: str = "gpt") -> None:
    """Checks that the packages of an extra are installed.

    Raises:
      UserError: some are missing; names them and the command that installs them.
    """
    missing = [name for name in MODULES[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"not installed: {', '.join(missing)}; install with: pip install '{PACKAGE}[{extra}]'")


def own_version() -> str:
    """The version of this package, if it is installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "(not installed)"
