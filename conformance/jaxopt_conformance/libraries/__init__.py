"""Tables of libraries: for each recording the call that builds its optimizer, as data.

A table is a TOML file of this folder:

* ``distributions``: the packages whose versions are reported.
* ``adapter``: ``optax``, ``torch`` or ``keras``.
* ``names``: name in the calls -> module.
* ``calls``: recording -> expression with those names, ``h`` (all hyperparameters of the recording), ``rates`` (the
  learning rate of each step, which the ``torch`` adapter sets) and, for ``torch``, ``params`` (the list of
  parameters) and ``leaves`` (the same as a dict).
* ``alternatives``: recording -> description -> another call of the library, tried when the call departs.
* ``environment``: environment variables that must be set before the library is imported.
* ``float64``: recordings that are replayed in float64, for ``torch``.
* ``documented``: recording -> what the library's documentation says about a departure.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxopt_conformance.adapters.keras_form import from_keras
from jaxopt_conformance.adapters.optax_form import from_optax
from jaxopt_conformance.adapters.torch_form import from_torch
from jaxopt_conformance.checking import Optimizer
from jaxopt_conformance.recordings import Recording

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Library:
    """One table, with the fields that this module's docstring describes."""

    name: str
    distributions: Sequence[str]
    adapter: str
    names: Mapping[str, str]
    calls: Mapping[str, str]
    alternatives: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    documented: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    float64: Sequence[str] = ()

    @property
    def versions(self) -> dict[str, str]:
        """The installed versions of the distributions."""
        return {name: importlib.metadata.version(name) for name in self.distributions}

    def build(self, call: str, recording: Recording) -> Optimizer:
        """The optimizer that a call of the table builds for a recording."""
        os.environ.update(self.environment)
        scope: dict[str, Any] = {name: _resolved(path) for name, path in self.names.items()}
        scope |= {"h": recording.hyperparameters, "rates": recording.rates}
        code = compile(call.strip(), f"<{self.name}>", "eval")
        if self.adapter == "torch":
            make = lambda leaves: eval(code, {**scope, "leaves": leaves, "params": list(leaves.values())})
            dtype = "float64" if recording.name in self.float64 else "float32"
            return from_torch.from_leaves(make, dtype, recording.rates)
        if self.adapter == "keras":
            return from_keras(lambda: eval(code, dict(scope)))
        return from_optax(eval(code, dict(scope)))


def names() -> list[str]:
    """The libraries with a table."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Library:
    """Read a table.

    Raises:
      KeyError: if there is none of this name.
    """
    path = FOLDER / f"{name}.toml"
    if not path.is_file():
        raise KeyError(f"no library {name!r}; there are {', '.join(names())}")
    return Library(name, **tomllib.loads(path.read_text("utf-8")))


def _resolved(path: str) -> Any:
    """The module, or the attribute of a module after a colon."""
    module, _, attribute = path.partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found
