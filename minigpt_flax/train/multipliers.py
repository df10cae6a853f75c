"""The factors of a parametrization in the optimizer, for every parameter of a run."""

from __future__ import annotations

from typing import Any

import jax

from jaxopt_mini.tree import by_name
from jaxopt_mini.wrappers import REFUSED, STEP_SIZES, Multipliers, StepSize, multipliers, step_size
from minigpt_flax.errors import UserError
from minigpt_flax.spec import Spec, as_user_error
from minigpt_flax.train.base_model import shapes_of
from minigpt_flax.train.config.param_groups import REST, assign
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.parametrization import KIND, Scaling, scaling_of

NOT_COVERED = {
    "hyperball": "its steps are relative to the weights",
    "sam": "its perturbation has a width rule of its own",
}


def factors_of(config: RunConfig, layout: Any) -> Multipliers | None:
    """The factors of every parameter's gradient, value and update; None for the standard parametrization.

    Raises:
      UserError: it is not known how the steps of an optimizer grow, or a wrapper is not covered.
    """
    scaling = scaling_of(config)
    if scaling is None:
        return None
    for spec in config.wrap:
        if spec.name in NOT_COVERED:
            raise UserError(
                f"--parametrization {config.parametrization.name} doesn't cover --wrap {spec.name}: "
                f"{NOT_COVERED[spec.name]}; omit one of them"
            )
    shapes, base = shapes_of(config)
    how = {"layout": layout, "alpha": scaling.alpha, "decay": scaling.decay}
    specs = {str(i): group.spec for i, group in enumerate(config.group)} | {REST: config.opt}
    where = f"{KIND} '{config.parametrization}'"

    def of(spec: Spec) -> Multipliers:
        return as_user_error(where, lambda: multipliers(shapes, base, like=_like(spec, scaling), **how))

    names = {name: entry.role for name, entry in by_name(layout).items()}
    assigned = assign(config.group, names)
    used = {label: [by_name(tree) for tree in of(specs[label])] for label in sorted(set(assigned.values()))}
    structure = jax.tree.structure(layout)
    return Multipliers(*(structure.unflatten([used[assigned[n]][i][n] for n in names]) for i in range(3)))


def _like(spec: Spec, scaling: Scaling) -> StepSize:
    if spec.name in STEP_SIZES:
        return step_size(spec.name, **spec.keywords)
    if scaling.like is not None:
        return step_size(scaling.like)
    reason = f": {REFUSED[spec.name]}" if spec.name in REFUSED else ""
    raise UserError(
        f"there is no rule for how the steps of the optimizer '{spec.name}' grow with the width{reason}; name one of "
        f"--list that they grow like, as --{KIND} \"mup(like='adam')\""
    )
