"""From specs to one transformation: clip, then the optimizers, each on its group, and around them the wrappers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini import GradientTransformation, GradientTransformationExtraArgs, chain, partition
from jaxopt_mini.base import with_extra_args_support
from jaxopt_mini.tree import path_name
from jaxopt_mini.wrappers import inner_updates, scale_units
from minigpt_flax.errors import UserError
from minigpt_flax.spec import Spec, as_user_error
from minigpt_flax.train.config.param_groups import REST, ParamGroup, assign
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.multipliers import factors_of
from minigpt_flax.train.probe_wrappers import PROBE_WRAPPERS
from minigpt_flax.train.registry import REGISTRIES, RunInfo

DECAYED = ("matrix", "embedding", "head")  # the roles that weight decay touches
CUSTOM = Spec("custom")  # stands in a configuration for an optimizer that was passed as an object
IN_PLACE_OF_SPECS: dict[str, Any] = {  # fields of the configuration of such a run
    "opt": CUSTOM,
    "lr": 0.0,
    "schedule": Spec("constant"),
    "clip": Spec("none"),
    "group": (),
    "wrap": (),
}


def build_optimizer(
    config: RunConfig,
    layout: Any,
    rate: Callable[[float], Any] | None = None,
    optimizer: GradientTransformation | None = None,
) -> tuple[Any, GradientTransformationExtraArgs]:
    """Builds the learning rate and the transformation that follows it.

    Args:
      config: specs and numbers.
      layout: tree of ``ParamLayout``.
      rate: peak -> learning rate; None takes the schedule of the configuration.
      optimizer: the whole optimizer, with a learning rate of its own; None builds it from the configuration.

    Returns:
      (learning rate, transformation); the learning rate is None for an ``optimizer`` passed as an object.

    Raises:
      UserError: a spec is wrong, or a group doesn't fit the parameters.
    """
    if optimizer is None and config.opt == CUSTOM:
        raise UserError(
            "this run was trained with an optimizer that was passed as an object: pass it again, as "
            "minigpt_flax.train(resume=FOLDER, opt=OPTIMIZER)"
        )
    factors = factors_of(config, layout)
    scaled = (lambda tx: tx) if factors is None else functools.partial(scale_units, factors=factors)
    if optimizer is not None:
        return None, _around(scaled(with_extra_args_support(optimizer)), config, layout)
    decayed = decay_mask(layout)
    rate = rate or (lambda peak: REGISTRIES["schedule"].bind(config.schedule, peak, updates_of(config)))
    base = rate(config.lr)
    offered = RunInfo(layout, mask=decayed, weight_decay_mask=decayed, learning_rate=base)._asdict()

    def bound(spec: Spec, kind: str, *leading: Any) -> Any:
        return REGISTRIES[kind].bind(spec, *leading, offered=offered)

    parts = {REST: bound(config.opt, "optimizer", base)}
    parts |= {str(i): bound(group.spec, "optimizer", rate(group.lr)) for i, group in enumerate(config.group)}
    tx = chain(bound(config.clip, "clip"), scaled(by_group(parts, config.group, layout)))
    for spec in config.wrap:
        tx = bound(spec, "wrapper", tx)
    return base, _around(tx, config, layout)


def _around(tx: GradientTransformationExtraArgs, config: RunConfig, layout: Any) -> GradientTransformationExtraArgs:
    """The optimizer with what probes, the dtype and the policy for non-finite steps put around it."""
    for name in dict.fromkeys(spec.name for spec in config.probe):
        tx = PROBE_WRAPPERS[name](tx) if name in PROBE_WRAPPERS else tx
    precision = REGISTRIES["dtype"].bind(config.dtype)
    return REGISTRIES["policy"].bind(config.on_nan).wrap(precision.around(tx, layout))


def updates_of(config: RunConfig) -> int:
    """Number of updates that the optimizer makes in a run: fewer than steps where a wrapper accumulates gradients.

    Its schedule extends over these.

    Raises:
      UserError: a wrapper has no such keyword, or a value is wrong.
    """
    updates, wrappers = config.steps, REGISTRIES["wrapper"]
    for spec in reversed(config.wrap):
        wrappers.partial(spec, dict.fromkeys(RunInfo._fields))  # refuses what ``inner_updates`` would raise about
        count = lambda spec=spec, calls=updates: inner_updates(wrappers.row(spec), calls, **spec.keywords)
        updates = as_user_error(f"wrapper '{spec}'", count)
    return max(1, updates)


def by_group(
    parts: Mapping[str, GradientTransformation], groups: Sequence[ParamGroup], layout: Any
) -> GradientTransformation:
    """Gives each parameter to the transformation of its group; without groups, all of them to the only one."""
    if not groups:
        return parts[REST]
    assigned = labels(groups, layout)
    used = set(assigned.values())
    tree = jax.tree.map_with_path(lambda path, _: assigned[path_name(path)], layout)
    return partition({label: part for label, part in parts.items() if label in used}, tree)


def labels(groups: Sequence[ParamGroup], layout: Any) -> dict[str, str]:
    """Name of every parameter -> its group, as :func:`assign` labels them.

    Raises:
      UserError: a group covers nothing, or two cover the same parameter.
    """
    return assign(groups, {path_name(path): entry.role for path, entry in jax.tree.leaves_with_path(layout)})


def decay_mask(layout: Any) -> Any:
    """Tree of booleans: which parameters decay, by their role."""
    return jax.tree.map(lambda entry: entry.role in DECAYED, layout)


def check_one_step(config: RunConfig, schedule: Any, tx: GradientTransformationExtraArgs, shapes: Any) -> None:
    """Traces one step, so that a value that no factory noticed is refused before anything is written.

    Raises:
      UserError: a value is of no use; names the specs.
    """
    around = "".join(f" in '{spec}'" for spec in config.wrap)
    beside = "".join(f", group '{group}'" for group in config.group)
    if callable(schedule):
        count = jax.ShapeDtypeStruct((), "int32")
        as_user_error(f"schedule '{config.schedule}'", lambda: jax.eval_shape(schedule, count))
    as_user_error(
        f"optimizer '{config.opt}'{beside} after clip '{config.clip}'{around}",
        lambda: jax.eval_shape(lambda params: _first_updates(tx, params, params), shapes),
    )


def _first_updates(tx: GradientTransformationExtraArgs, grads: Any, params: Any) -> Any:
    extra_args = {"value": jnp.float32(0), "key": jax.random.key(0), "loss_fn": lambda params: jnp.float32(0)}
    return tx.update(grads, tx.init(params), params, **extra_args)[0]
