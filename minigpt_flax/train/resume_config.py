"""The configuration of a resumed run: its own, with the flags that may change, and with more steps if possible."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_mini.schedules.arguments import steps_of
from jaxopt_mini.tree import by_name
from minigpt_flax.errors import UserError
from minigpt_flax.phases import SIZES, Stepwise, as_sizes
from minigpt_flax.spec import Spec
from minigpt_flax.text import spelled
from minigpt_flax.train.build import Setup
from minigpt_flax.train.carry_over import abstract_state
from minigpt_flax.train.compile import run_unoptimized
from minigpt_flax.train.config.presets import PRESETS, default_preset
from minigpt_flax.train.config.run_config import FIXED, RunConfig, as_text, changed, normalized, resolve
from minigpt_flax.train.optimizer import CUSTOM, schedules_of, updates_of
from minigpt_flax.train.scaling import FIELDS as SCALED, WARMUP, warmup_fraction, with_warmup
from minigpt_flax.train.session import Session

CHANGEABLE = ("lr", "schedule", "clip", "dropout", "val_tokens")  # with --change
SAME_STATE = ("opt", "wrap", "group", "dtype")  # with --change, if every array of the state keeps its shape
FREE = ("on_nan", "probe")  # finite steps don't depend on them
CONDITIONAL = ("steps", "data", "batch_size", "accum")
RECORDED = ("steps", "data", *SIZES, *FREE)  # fields beside those of --change that a run keeps when they change
BASE_MODEL = "the initial weights and the learning rates depend on it"
IN_THE_MODEL = "the weights were trained in a model with it"
FIXED_BECAUSE = {  # why a field can't change; an option of the architecture isn't listed
    "seed": "the order of the data depends on it",
    "mix": "the order of the data depends on it",
    "tokens_per_step": "the order of the data depends on it",
    "seq_len": "the order of the data depends on it",
    "tuned_at": "the hyperparameters were rescaled when the run started",
    "tokenizer": "each row of the embedding belongs to one of its tokens",
    "vocab_size": "it is the number of rows of the embedding",
    "init": "the weights have been trained since",
    "document_mask": IN_THE_MODEL,
    "parametrization": BASE_MODEL,
    "base_width": BASE_MODEL,
    "base_layers": BASE_MODEL,
    "base_heads": BASE_MODEL,
}
EXTENSIBLE = "constant, inverse_sqrt, and wsd before its cool-down"


def check_resume_flags(session: Session, path: str, config: RunConfig, restarted: bool = False) -> RunConfig:
    """The configuration to continue with: the run's own, with what was given and may change.

    The number of steps may change if the schedule allows it, see :func:`extended`; the path of the data may, if its
    hash is the same; micro-batches may, if a step has the same sequences; `FREE` fields may. ``--change`` allows
    `CHANGEABLE` fields, and those of `SAME_STATE`, which :func:`check_same_state` compares once the run is built.

    Raises:
      UserError: a flag contradicts what is fixed; names it.
    """
    given, preset = session.given, session.preset
    typed = normalized(given, vars(config))  # a spec may leave open what the configuration holds
    if restarted and preset is not None and config.init is None:
        wanted = resolve(given, preset)
        typed = {name: getattr(wanted, name) for name in PRESETS[preset]} | typed
    if "tuned_at" in typed:  # the numbers are those of the reference
        wanted = resolve(given, preset or default_preset(jax.default_backend()))
        typed |= {name: getattr(wanted, name) for name in ("tuned_at", *SCALED) if name in typed}
    on_request = {*CHANGEABLE, *SAME_STATE} - _other_optimizer(config, typed)
    free = {"steps", "data", *FREE, *(on_request if session.options.change else ()), *_micro_batches(config, typed)}
    for name, value in sorted(typed.items(), key=lambda field: field[0] != "tuned_at"):  # the cause of other changes
        if name in FIXED - free and getattr(config, name) != value:
            remedy = "add --change to change it from here on" if name in on_request else "start another run"
            reason = "" if name in on_request else f"; {reason_of(name)}"
            raise UserError(
                f"--resume {path} was started with {name}={spelled(getattr(config, name))}, not {spelled(value)}: omit "
                f"the flag, or {remedy}{reason}"
            )
    for flag, value in (("preset", preset), ("name", session.options.name)):
        if value is not None and not restarted:
            raise UserError(f"--resume {path} takes no --{flag}: the run has its own; omit it")
    return changed(config, **typed)


def reason_of(name: str) -> str:
    """Why a run keeps a field that affects its numbers."""
    if name in SAME_STATE:
        return "the state belongs to it"
    if name in CONDITIONAL:
        return "only the division of a step into micro-batches can change, without dropout"
    return FIXED_BECAUSE.get(name, IN_THE_MODEL)


def _other_optimizer(config: RunConfig, typed: dict[str, Any]) -> set[str]:
    """The fields that name another optimizer or wrapper than that of the run: only keywords can change."""
    names = lambda value: [item.name for item in (value if isinstance(value, tuple) else (value,))]
    return {name for name in ("opt", "wrap") if name in typed and names(typed[name]) != names(getattr(config, name))}


def check_same_state(setup: Setup, began: RunConfig, path: str) -> None:
    """Refuses keywords that change the arrays of the state, which a checkpoint doesn't have.

    Raises:
      UserError: a field does; names it and the first array.
    """
    shapes = lambda config: {name: (x.shape, x.dtype) for name, x in by_name(abstract_state(setup, config)).items()}
    for name in SAME_STATE:
        value = getattr(setup.config, name)
        if value == getattr(began, name):
            continue
        old, new = shapes(began), shapes(dataclasses.replace(began, **{name: value}))
        if different := sorted(array for array in old.keys() | new.keys() if old.get(array) != new.get(array)):
            raise UserError(
                f"--resume {path} was started with {name}={spelled(getattr(began, name))}, not {spelled(value)}, whose "
                f"state has another {different[0]}: omit the flag, or start another run"
            )


def _micro_batches(config: RunConfig, typed: dict[str, Any]) -> tuple[str, ...]:
    """The sizes of micro-batches, if a step keeps its sequences, and no dropout mask depends on the division."""
    before, after = config.phases, as_sizes(vars(config) | typed)
    windows = lambda phases: [(phase.first, phase.step_sequences, phase.seq_len) for phase in phases]
    return ("batch_size", "accum") if windows(before) == windows(after) and not config.dropout else ()


def changes(began: RunConfig, config: RunConfig) -> dict[str, Any]:
    """What is to be recorded of a changed configuration: field -> [old, new]."""
    names = [name for name in (*RECORDED, *CHANGEABLE, *SAME_STATE) if getattr(began, name) != getattr(config, name)]
    old, new = as_text(began), as_text(config)
    return {name: [old[name], new[name]] for name in names}


def change_note(step: int, changed: Mapping[str, Any]) -> str:
    """One line for the user about recorded changes."""
    text = lambda value: value if isinstance(value, str) else spelled(value)
    pairs = (f"{name} {text(old)} -> {text(new)}" for name, (old, new) in changed.items())
    return f"changed after step {step}: {', '.join(pairs)}"


def extended(began: RunConfig, wanted: RunConfig, done: int, path: str, change: bool = False) -> RunConfig:
    """The configuration to continue with, for ``--resume RUN --steps N``.

    A warm-up that was a fraction of the run keeps its number of steps, and so do the times of batch sizes.

    Args:
      began: configuration of the run.
      wanted: the same with what may change, and maybe another number of steps.
      done: steps of the newest checkpoint.
      path: of the run, for errors.
      change: whether the learning rates so far may differ from those of a run planned to be as long.

    Raises:
      UserError: fewer steps, or a schedule whose learning rates so far depend on the number of steps.
    """
    if wanted.steps == began.steps:
        return wanted
    if wanted.steps < began.steps:
        raise UserError(
            f"--resume {path} was started with steps={began.steps}, not {wanted.steps}: a run can be extended, not "
            "shortened; --stop-after ends it early"
        )
    fixed = {name: getattr(began, name) for name in SIZES}
    wanted = changed(wanted, **{k: v.in_steps(began.steps) for k, v in fixed.items() if isinstance(v, Stepwise)})
    if began.opt == CUSTOM or change:
        return wanted
    groups = tuple(
        dataclasses.replace(g, schedule=g.schedule and _with_fixed_warmup(began, g.schedule)) for g in began.group
    )
    longer = dataclasses.replace(wanted, schedule=_with_fixed_warmup(began, began.schedule), group=groups)
    before, after = (scheduled_values(config, done) for config in (began, longer))
    if not np.array_equal(before, after):
        row, step = (int(i) for i in np.argwhere(before != after)[0])
        names = [f"the schedule {spec}" for spec in (began.schedule, *(g.schedule or began.schedule for g in groups))]
        name = names[row] if row < len(names) else "a keyword that varies over fractions of the run"
        raise UserError(
            f"--resume {path} can't be extended to --steps {wanted.steps}: with that many, {name} would have had the "
            f"value {after[row, step]:.3g} at step {step + 1}, not {before[row, step]:.3g}; schedules that can be "
            f"extended: {EXTENSIBLE}; --change extends any"
        )
    return longer


def _with_fixed_warmup(config: RunConfig, schedule: Spec) -> Spec:
    """A schedule of the run with its warm-up in steps."""
    fraction = warmup_fraction(schedule)
    if fraction is None:
        return schedule
    return with_warmup(schedule, steps_of(WARMUP, fraction, updates_of(config)))


def scheduled_values(config: RunConfig, done: int) -> np.ndarray:
    """Values of the run's schedules at the updates in the first ``done`` steps, float32[schedules, updates]."""
    schedules = schedules_of(config)
    if not done:
        return np.zeros((len(schedules), 0), np.float32)
    counts = jnp.arange(updates_of(dataclasses.replace(config, steps=done)), dtype=jnp.int32)
    one = lambda count: jnp.stack([jnp.asarray(schedule(count), jnp.float32) for schedule in schedules])
    return np.asarray(run_unoptimized(jax.jit(jax.vmap(one, out_axes=1)), counts))
