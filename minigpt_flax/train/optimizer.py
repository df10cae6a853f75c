"""Words to one transformation: clip, then the optimizers, each on its group, and around them the wrappers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini import GradientTransformation, GradientTransformationExtraArgs, chain, partition
from jaxopt_mini.tree import path_name
from minigpt_flax.spec import Word, bind, blame, parse
from minigpt_flax.train.compile import call_once
from minigpt_flax.train.config.param_groups import REST, Group, assign
from minigpt_flax.train.config.run_config import RunConfig, complete_groups, words
from minigpt_flax.train.probe_wrappers import MONITORS
from minigpt_flax.train.registry import KINDS, Offer

DECAYED = ("matrix", "embedding", "head")  # the roles that weight decay touches


def build_optimizer(
    config: RunConfig, layout: Any, rate: Callable[[float], Any] | None = None
) -> tuple[Any, GradientTransformationExtraArgs]:
    """Builds the learning rate and the transformation that follows it.

    Args:
      config: the words and numbers.
      layout: tree of ``ParamLayout``.
      rate: peak -> learning rate; None takes the schedule of the config.

    Raises:
      UserError: a word is wrong, or a group doesn't fit the parameters.
    """
    said, groups, decayed = words(config), complete_groups(config.group, config), decay_mask(layout)
    rate = rate or (lambda peak: bind(said["schedule"], KINDS["schedule"].table, "schedule", peak, config.steps))
    base = rate(config.lr)
    offer = Offer(layout, mask=decayed, weight_decay_mask=decayed, learning_rate=base)._asdict()

    def bound(word: Word, kind: str, *given: Any) -> Any:
        return bind(word, KINDS[kind].table, kind, *given, offered=offer)

    parts = {REST: bound(said["opt"], "optimizer", base)}
    parts |= {str(i): bound(group.word, "optimizer", rate(group.lr)) for i, group in enumerate(groups)}
    tx = chain(bound(said["clip"], "clip"), by_group(parts, groups, layout))
    for text in config.wrap:
        tx = bound(parse(text, "wrapper"), "wrapper", tx)
    for name in dict.fromkeys(parse(text, "probe").name for text in config.probe):
        tx = MONITORS[name](tx) if name in MONITORS else tx
    return base, bound(said["on_nan"], "policy").wrap(bound(said["dtype"], "dtype").around(tx, layout))


def by_group(parts: dict[str, GradientTransformation], groups: Sequence[Group], layout: Any) -> GradientTransformation:
    """Gives each parameter to the transformation of its group; without groups, all of them to the only one."""
    if not groups:
        return parts[REST]
    assigned = labels(groups, layout)
    used = set(assigned.values())
    tree = jax.tree.map_with_path(lambda path, _: assigned[path_name(path)], layout)
    return partition({label: part for label, part in parts.items() if label in used}, tree)


def labels(groups: Sequence[Group], layout: Any) -> dict[str, str]:
    """Name of every parameter -> its group, as :func:`assign` labels them.

    Raises:
      UserError: a group covers nothing, or two cover the same parameter.
    """
    return assign(groups, {path_name(path): entry.role for path, entry in jax.tree.leaves_with_path(layout)})


def decay_mask(layout: Any) -> Any:
    """Tree of booleans: which parameters decay, by their role."""
    return jax.tree.map(lambda entry: entry.role in DECAYED, layout)


def rehearse(config: RunConfig, schedule: Callable, tx: GradientTransformationExtraArgs, shapes: Any) -> None:
    """Traces one step: a value that no factory noticed shows here, before anything is written.

    Raises:
      UserError: a value is of no use; names the words.
    """
    around = "".join(f" in '{text}'" for text in config.wrap)
    beside = "".join(f", group '{text}'" for text in config.group)
    blame(f"schedule '{config.schedule}'", lambda: jax.eval_shape(schedule, jax.ShapeDtypeStruct((), "int32")))
    blame(
        f"optimizer '{config.opt}'{beside} after clip '{config.clip}'{around}",
        lambda: jax.eval_shape(lambda params: _first_updates(tx, params, params), shapes),
    )


def decay_rates(config: RunConfig, layout: Any, shapes: Any) -> Any:
    """What a step at learning rate 1 takes away of each parameter whose gradient is zero, as a fraction of it.

    That is weight decay as the optimizer applies it, measured and not asked for. Small stand-ins have the parameters'
    places.

    Returns:
      Tree of numbers, 0 where nothing decays.
    """
    exact = dataclasses.replace(config, dtype="float32")
    _, tx = build_optimizer(exact, layout, rate=lambda peak: jnp.ones_like)
    ones = jax.tree.map(lambda leaf: jnp.ones([min(size, 2) for size in leaf.shape]), shapes)
    zeros = jax.tree.map(jnp.zeros_like, ones)
    updates = call_once(jax.jit(lambda: _first_updates(tx, zeros, ones)))
    return jax.tree.map(lambda update: 0.0 - float(update.mean()), updates)


def _first_updates(tx: GradientTransformationExtraArgs, grads: Any, params: Any) -> Any:
    told = {"value": jnp.float32(0), "key": jax.random.key(0), "loss_fn": lambda params: jnp.float32(0)}
    return tx.update(grads, tx.init(params), params, **told)[0]
