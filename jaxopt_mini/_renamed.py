"""Old names, which work for one more release, and names of Optax, which are answered with ours.

CHANGELOG.md lists the old names beside the new ones. They are served by the ``__getattr__`` of their modules, out of
sight of documentation, ``import *`` and type checkers; old module paths are entries of ``sys.modules``.
"""

from __future__ import annotations

import sys
from typing import Any

import optax
import optax.contrib

from jaxopt_mini import base, check, matrices, optimizers, schedules, transforms, tree, wrappers
from jaxopt_mini.optimizers import _normuon
from jaxopt_mini.wrappers import _conditional

LINKS = {
    "scale_by_blocks": optimizers.scale_by_adam_mini,
    "scale_by_neuron": optimizers.scale_by_normuon,
    "scale_by_norm_ball": optimizers.scale_by_scion,
    "scale_by_surprise": optimizers.scale_by_stable_adamw,
}
RENAMED: dict[str, dict[str, Any]] = {
    "jaxopt_mini": {
        **LINKS,
        "conditional": _conditional,
        "constant": schedules.constant,
        "join": schedules.join,
        "linear": schedules.linear,
        "step": schedules.step,
        "scale": transforms.scale,
        "trace": transforms.trace,
    },
    "jaxopt_mini.check": {"check_positive": check.check_at_least_one},
    "jaxopt_mini.matrices": {
        "choose": matrices.layout_or_dimension_numbers,
        "lay_out": matrices.resolve_layout,
    },
    "jaxopt_mini.optimizers": LINKS,
    "jaxopt_mini.optimizers._adam_mini": {"scale_by_blocks": optimizers.scale_by_adam_mini},
    "jaxopt_mini.optimizers._normuon": {
        "ScaleByNeuronState": _normuon.ScaleByNormuonState,
        "scale_by_neuron": optimizers.scale_by_normuon,
    },
    "jaxopt_mini.optimizers._scion": {"scale_by_norm_ball": optimizers.scale_by_scion},
    "jaxopt_mini.optimizers._stable_adamw": {"scale_by_surprise": optimizers.scale_by_stable_adamw},
    "jaxopt_mini.transforms.late_decay": {"value_at": base.schedule_value},
    "jaxopt_mini.tree": {"look_ahead": tree.nesterov_moment},
}

OPTAX = {  # name in Optax -> function that does it here
    "MultiSteps": "accumulate",
    "adaptive_grad_clip": "adaptive_clip",
    "apply_if_finite": "skip_nonfinite",
    "clip": "clip_by_value",
    "constant_schedule": "schedules.constant",
    "cosine_decay_schedule": "cosine",
    "exponential_decay": "exponential",
    "join_schedules": "schedules.join",
    "linear_schedule": "schedules.linear",
    "multi_transform": "partition",
    "polynomial_schedule": "polynomial",
    "piecewise_constant_schedule": "multistep",
    "tree_get": "states.get",
    "warmup_cosine_decay_schedule": "warmup_cosine",
}


def hint(name: str) -> str:
    """What to use instead of a name of Optax that this library lacks; empty for any other name.

    >>> hint("MultiSteps"), hint("lbfgs")
    (': use jaxopt_mini.accumulate', ': use optax.lbfgs, which works with this library')
    """
    if name in OPTAX:
        return f": use jaxopt_mini.{OPTAX[name]}"
    places = {"optax": optax, "optax.contrib": optax.contrib}
    found = next((place for place, module in places.items() if hasattr(module, name)), None)
    return f": use {found}.{name}, which works with this library" if found and not name.startswith("_") else ""


def install() -> None:
    """Gives each module a ``__getattr__`` for its old names, and each private module its old path."""
    for module, names in RENAMED.items():

        def old_name(name: str, module: str = module, names: dict[str, Any] = names) -> Any:
            if name in names:
                return names[name]
            more = hint(name) if module == "jaxopt_mini" else ""
            raise AttributeError(
                f"module {module!r} has no attribute {name!r}{more}", name=name, obj=sys.modules[module]
            )

        sys.modules[module].__dict__["__getattr__"] = old_name
    packages = (optimizers, schedules, transforms, wrappers)
    for path in [
        path for path in sys.modules if path.startswith(tuple(f"{package.__name__}._" for package in packages))
    ]:
        sys.modules[path.replace("._", ".")] = sys.modules[path]
    sys.modules["jaxopt_mini.conditional"] = _conditional
