"""Old names, which work for one more release; CHANGELOG.md lists them beside the new ones.

They are served by the ``__getattr__`` of their modules, out of sight of documentation, ``import *`` and type checkers;
old module paths are entries of ``sys.modules``.
"""

from __future__ import annotations

import sys
from typing import Any

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


def install() -> None:
    """Gives each module a ``__getattr__`` for its old names, and each private module its old path."""
    for module, names in RENAMED.items():

        def old_name(name: str, module: str = module, names: dict[str, Any] = names) -> Any:
            if name in names:
                return names[name]
            raise AttributeError(f"module {module!r} has no attribute {name!r}", name=name, obj=sys.modules[module])

        sys.modules[module].__dict__["__getattr__"] = old_name
    packages = (optimizers, schedules, transforms, wrappers)
    for path in [
        path for path in sys.modules if path.startswith(tuple(f"{package.__name__}._" for package in packages))
    ]:
        sys.modules[path.replace("._", ".")] = sys.modules[path]
    sys.modules["jaxopt_mini.conditional"] = _conditional
