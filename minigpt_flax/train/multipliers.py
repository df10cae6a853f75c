"""The factors of a parametrization in the optimizer, for every parameter of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from jaxopt_mini import OPTIMIZERS
from jaxopt_mini.tree import by_name, path_name
from jaxopt_mini.wrappers import Multipliers, NoRule, StepSize, multipliers, step_size
from minigpt_flax.errors import UserError
from minigpt_flax.spec import Spec, as_user_error
from minigpt_flax.train.base_model import shapes_of
from minigpt_flax.train.config.param_groups import REST, assign
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.parametrization import KIND, Scaling, scaling_of
from minigpt_flax.train.registry import is_frozen

NOT_COVERED = {
    "hyperball": "its steps are relative to the weights",
    "sam": "its perturbation has a width rule of its own",
}


def labels(config: RunConfig, layout: Any) -> dict[str, str | tuple[str, ...]]:
    """Name of every parameter -> its group or the groups of its layers, as :func:`assign` labels them.

    Raises:
      UserError: a group covers nothing, or two cover the same parameter.
    """
    entries = by_name(layout)
    layers = {name: config.layers for name, entry in entries.items() if entry.stacked}
    return assign(config.group, {name: entry.role for name, entry in entries.items()}, layers)


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
        return as_user_error(where, lambda: multipliers(shapes, base, like=step_size_of(spec, scaling), **how))

    assigned = labels(config, layout)
    moving = {label: spec for label, spec in specs.items() if not is_frozen(spec) and _is_used(label, assigned)}
    used = {label: [by_name(tree) for tree in of(spec)] for label, spec in moving.items()}

    def one(name: str) -> tuple[float, ...]:
        labels = [assigned[name]] if isinstance(assigned[name], str) else assigned[name]
        rows = {tuple(tree[name] for tree in used[label]) for label in labels if label in used}
        if len(rows) > 1:
            raise UserError(
                f"{where}: the steps of the optimizers of {name}'s layers grow differently with the width: give all "
                "layers the same optimizer"
            )
        return rows.pop() if rows else (1.0, 1.0, 1.0)

    rows, structure = [one(name) for name in assigned], jax.tree.structure(layout)
    return Multipliers(*(structure.unflatten([row[i] for row in rows]) for i in range(3)))


def runs_in_blocks(spec: Spec, config: RunConfig) -> bool:
    """Whether an optimizer of a run has a rule for other widths only in blocks of the base's shapes.

    Raises:
      UserError: see :func:`step_size_of`.
    """
    scaling = None if is_frozen(spec) else scaling_of(config)
    return scaling is not None and step_size_of(spec, scaling).blocks


def block_shapes(config: RunConfig, params: Any) -> Any:
    """The shapes that parameters of a run have in the base, as blocks of them.

    Args:
      config: of a run with a base.
      params: all parameters of the run, or some of them.
    """
    model, base = map(by_name, shapes_of(config))

    def one(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        own, small = model[path_name(path)].shape, base[path_name(path)].shape
        shape = tuple(size * part // whole for size, part, whole in zip(leaf.shape, small, own, strict=True))
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    return jax.tree.map_with_path(one, params)


def _is_used(label: str, assigned: Mapping[str, str | tuple[str, ...]]) -> bool:
    return any(label == own or (label in own and not isinstance(own, str)) for own in assigned.values())


def step_size_of(spec: Spec, scaling: Scaling) -> StepSize:
    """How the steps of an optimizer of a run grow.

    Raises:
      UserError: it is not known.
    """
    reason = f"there is no rule for how the steps of the optimizer '{spec.name}' grow with the width"
    try:
        if spec.name in OPTIMIZERS:
            return step_size(spec.name, **spec.keywords)
    except NoRule as error:
        reason = str(error)
    if scaling.like is not None and not (found := step_size(scaling.like)).blocks:
        return found
    raise UserError(f"{reason}; name one of --list that they grow like, as --{KIND} \"mup(like='adam')\"")
