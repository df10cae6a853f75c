"""Compares optimizers, step by step, with trajectories recorded from their authors' code."""

from jaxopt_conformance.adapters.keras_form import from_keras
from jaxopt_conformance.adapters.optax_form import from_optax
from jaxopt_conformance.adapters.torch_form import from_torch
from jaxopt_conformance.checking import Optimizer, Report, check, compare, replay
from jaxopt_conformance.recordings import Hyperparameters, Recording, load, names

__all__ = [
    "Hyperparameters",
    "Optimizer",
    "Recording",
    "Report",
    "check",
    "compare",
    "from_keras",
    "from_optax",
    "from_torch",
    "load",
    "names",
    "replay",
]
