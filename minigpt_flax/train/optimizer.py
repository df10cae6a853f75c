"""From specs to one transformation: clip, then the optimizers, each on its group, and around them the wrappers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini import GradientTransformation, GradientTransformationExtraArgs, PerLayer, chain, partition
from jaxopt_mini.base import Schedule, with_extra_args_support
from jaxopt_mini.tree import path_name
from jaxopt_mini.wrappers import in_blocks, inner_updates, scale_units
from minigpt_flax.errors import UserError
from minigpt_flax.spec import Spec, as_user_error
from minigpt_flax.train.config.param_groups import REST
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.multipliers import block_shapes, factors_of, labels, runs_in_blocks
from minigpt_flax.train.probe_wrappers import PROBE_WRAPPERS
from minigpt_flax.train.registry import REGISTRIES, RunInfo
from minigpt_flax.train.varied import bind_varied, piecewise, points_of

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
    schedules: Sequence[Schedule] | None = None,
    optimizer: GradientTransformation | None = None,
) -> tuple[Any, GradientTransformationExtraArgs]:
    """Builds the learning rate and the transformation that follows it.

    Args:
      config: specs and numbers.
      layout: tree of ``ParamLayout``.
      schedules: in the place of those of the configuration, in the order of :func:`schedules_of`.
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
    rate, *others = schedules or schedules_of(config)
    group_rates, values = others[: len(config.group)], iter(others[len(config.group) :])
    offered = RunInfo(layout, mask=decayed, weight_decay_mask=decayed, learning_rate=rate)._asdict()

    def bound(spec: Spec, kind: str, *leading: Any, offered: Any = offered) -> Any:
        return REGISTRIES[kind].bind(spec, *leading, offered=offered)

    def optimizer_of(spec: Spec, rate: Schedule) -> GradientTransformation:
        varied = {name: next(values) for name in points_of(spec)}

        def make(layout: Any) -> GradientTransformation:
            own = offered | {"layout": layout}
            return bind_varied(spec, rate, varied, own) if varied else bound(spec, "optimizer", rate, offered=own)

        if not runs_in_blocks(spec, config):
            return make(layout)
        return in_blocks(make, functools.partial(block_shapes, config), layout=layout)

    parts = {REST: optimizer_of(config.opt, rate)}
    for i, group in enumerate(config.group):
        parts[str(i)] = optimizer_of(group.spec, group_rates[i])
    tx = chain(bound(config.clip, "clip"), scaled(by_group(parts, config, layout)))
    for spec in config.wrap:
        tx = bound(spec, "wrapper", tx)
    return rate, _around(tx, config, layout)


def schedules_of(config: RunConfig) -> list[Schedule]:
    """Everything of a run that varies over its updates: functions of their count.

    Returns:
      The learning rate, those of the groups, and then the keywords that have a list of points, in the order of the
      optimizers: the run's, then those of the groups.
    """
    updates = updates_of(config)
    schedule = lambda spec, peak: REGISTRIES["schedule"].bind(spec, peak, updates)
    rates = [schedule(config.schedule, config.lr)]
    rates += [schedule(group.schedule or config.schedule, group.lr) for group in config.group]
    specs = [config.opt, *(group.spec for group in config.group)]
    return rates + [piecewise(points, updates) for spec in specs for points in points_of(spec).values()]


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


def by_group(parts: Mapping[str, GradientTransformation], config: RunConfig, layout: Any) -> GradientTransformation:
    """Gives each parameter to the transformation of its group; without groups, all of them to the only one."""
    if not config.group:
        return parts[REST]
    assigned = labels(config, layout)
    used = {label for own in assigned.values() for label in ([own] if isinstance(own, str) else own)}
    entry = lambda own: own if isinstance(own, str) else PerLayer(own)
    tree = jax.tree.map_with_path(lambda path, _: entry(assigned[path_name(path)]), layout)
    return partition({label: part for label, part in parts.items() if label in used}, tree)


def decay_mask(layout: Any) -> Any:
    """Tree of booleans: which parameters decay, by their role."""
    return jax.tree.map(lambda entry: entry.role in DECAYED, layout)


def check_one_step(
    config: RunConfig,
    schedule: Any,
    tx: GradientTransformationExtraArgs,
    shapes: Any,
    more: Mapping[str, Any] | None = None,
) -> None:
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
        lambda: jax.eval_shape(lambda params: _first_updates(tx, params, params, more or {}), shapes),
    )


def _first_updates(tx: GradientTransformationExtraArgs, grads: Any, params: Any, more: Mapping[str, Any]) -> Any:
    extra_args = {"value": jnp.float32(0), "key": jax.random.key(0), "loss_fn": lambda params: jnp.float32(0)}
    return tx.update(grads, tx.init(params), params, **extra_args, **more)[0]
