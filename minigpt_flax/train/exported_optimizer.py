"""The state of a run's optimizer as nanoGPT stores it, in the place of that of its AdamW."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from jaxopt_mini import OPTIMIZERS, states
from jaxopt_mini.torch_state import to_torch
from minigpt_flax.errors import UserError
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.initial_optimizer import torch_parameters
from minigpt_flax.train.optimizer import schedules_of
from minigpt_flax.train.parametrization import scaling_of
from minigpt_flax.train.state import TrainState

ADAMW = ("b1", "b2", "eps", "weight_decay")  # keywords that PyTorch's AdamW has
FORMS = ("mu_dtype",)  # keywords that don't change the rule
FLAGS = {"amsgrad": False, "foreach": None, "maximize": False, "capturable": False}
FLAGS |= {"differentiable": False, "fused": None, "decoupled_weight_decay": True}
WEIGHTS_ONLY = "--no-optimizer writes the model alone, for nanoGPT's sample.py"


def nanogpt_optimizer(config: RunConfig, state: TrainState, tensors: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Convert the state of the run's AdamW to the ``state_dict()`` of nanoGPT's.

    Args:
      config: configuration of the run.
      state: its state.
      tensors: the two groups of nanoGPT's AdamW, from :func:`minigpt_flax.model.nanogpt.nanogpt_groups`.

    Raises:
      UserError: nanoGPT has no such optimizer.
    """
    numbers = check_adamw(config)
    rate = float(schedules_of(config)[0](int(state.step)))
    group = {"lr": rate, "betas": (numbers["b1"], numbers["b2"]), "eps": numbers["eps"], **FLAGS}
    groups, names = [], []
    for places, decay in zip(tensors, (numbers["weight_decay"], 0.0), strict=True):
        groups.append({"params": list(range(len(names), len(names) + len(places))), "weight_decay": decay, **group})
        names += torch_parameters(places)
    counts = states.get_all(state.opt_state, "count")
    steps = next(int(count) for path, count in counts.items() if path.endswith("ScaleByAdamState.count"))
    return to_torch(state.opt_state, state.params, {"state": {}, "param_groups": groups}, names, steps=steps)


def check_adamw(config: RunConfig) -> dict[str, float]:
    """Return the numbers of the run's AdamW.

    Raises:
      UserError: it has another optimizer, a keyword that PyTorch's lacks, or more around it.
    """
    spec, given = config.opt, dict(config.opt.keywords)
    more = [f"--wrap {wrapper}" for wrapper in config.wrap] + [f"--group {group}" for group in config.group]
    if scaling_of(config) is not None:
        more.append(f"--parametrization {config.parametrization}")
    others = [f"{key}={value!r}" for key, value in given.items() if key not in (*ADAMW, *FORMS, "lr")]
    others += [f"{key}={given[key]!r}" for key in ADAMW if not isinstance(given.get(key, 0.0), int | float)]
    if spec.name not in ("adamw", "adam"):
        more.insert(0, f"'{spec}'")
    elif others:
        more.insert(0, f"'{spec.name}({', '.join(others)})'")
    if more:
        raise UserError(f"nanoGPT resumes with a plain AdamW, and this run has {more[0]}; {WEIGHTS_ONLY}")
    signature = inspect.signature(OPTIMIZERS[spec.name]).parameters
    known = {key: signature[key].default if key in signature else 0.0 for key in ADAMW}
    return {key: float(given.get(key, default)) for key, default in known.items()}
