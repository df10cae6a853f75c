"""What commands need beside the optimizers: the packages of an extra."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version

from minigpt_flax.errors import UserError

PACKAGE = "jaxopt-mini"
MODULES = {
    "gpt": ("flax", "jaxtyping", "matfree", "matplotlib", "orbax", "plotext", "rich", "safetensors", "tokenizers"),
    "completion": ("shtab",),
}


def require(extra: str = "gpt") -> None:
    """Refuses to go on without what an extra installs.

    Raises:
      UserError: names what is missing, and says what installs it.
    """
    missing = [name for name in MODULES[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"not installed: {', '.join(missing)}; for this: pip install '{PACKAGE}[{extra}]'")


def own_version() -> str:
    """The version of this package, where it was installed and not only unpacked."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "(not installed)"
