"""One row per wrapper: data for its property tests and its recorded trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini import (
    accumulate,
    adam,
    adamw,
    add_decayed_weights,
    average_params,
    cautious,
    cautious_decay,
    chain,
    clip_by_norm,
    ema_nesterov,
    ema_params,
    hyperball,
    inject_hyperparams,
    layer_decay,
    lion,
    lookahead,
    low_precision,
    muon,
    nadamw,
    outer_nesterov,
    qk_clip,
    sam,
    schedule_free,
    schedule_free_eval_params,
    sgd,
    skip_nonfinite,
    skip_spikes,
)
from jaxopt_mini.layout import ROLES
from jaxopt_mini.states import evaluation_params
from tests.cases import torch_adamw
from tests.harness import Golden, nothing

INNERS = {
    "sgd": lambda rate: sgd(rate, momentum=0.9),
    "adamw": lambda rate: adamw(rate, weight_decay=0.1),
    "chain": lambda rate: chain(clip_by_norm(1.0), lion(rate)),
}


@dataclass(frozen=True)
class WrapperCase:
    """One wrapper's row.

    Attributes:
      wrapper: the function in ``WRAPPERS``.
      bytes: bytes per parameter beyond the 8 of Adam's state, for a 256 x 256 float32 matrix.
      keywords: for the property tests, where the defaults don't work.
      extra: (loss, params, t) -> extra args that a step needs.
      goldens: trajectories to reproduce.
      exempt: name of a test -> why the property can't hold.
      needs_layers: whether it refuses parameters that are not stacked over layers.
    """

    wrapper: Callable
    bytes: float = 0
    keywords: Mapping[str, Any] = field(default_factory=dict)
    extra: Callable[..., dict[str, Any]] = nothing
    goldens: tuple[Golden, ...] = ()
    exempt: Mapping[str, str] = field(default_factory=dict)
    needs_layers: bool = False


def c_adamw(h, eps):
    """The official cautious AdamW decays what it doesn't mask."""
    b1, b2 = h["betas"]
    inner = inject_hyperparams(adam)(h["lr"], b1=b1, b2=b2, eps=eps)
    return chain(cautious(inner), add_decayed_weights(-h["lr"] * h["weight_decay"]))


def huggingface_eps(h):
    """Adam with eps added before the bias correction of v: an eps that falls with the steps."""
    return c_adamw(h, lambda t: h["eps"] / jnp.sqrt(1 - h["betas"][1] ** (t + 1).astype(jnp.float32)))


def c_lion(h):
    b1, b2 = h["betas"]
    inner = cautious(lion(h["lr"], b1=b1, b2=b2, weight_decay=0.0), scaling="count")
    return chain(inner, add_decayed_weights(-h["lr"] * h["weight_decay"]))


def dion_adamw(h):
    inner = adam(h["lr"], b1=h["betas"][0], b2=h["betas"][1], eps=h["eps"])
    return cautious_decay(inner, weight_decay=h["weight_decay"], learning_rate=h["lr"])


def dion_lion(h):
    inner = lion(h["lr"], b1=h["betas"][0], b2=h["betas"][1], weight_decay=0.0)
    return cautious_decay(inner, weight_decay=h["weight_decay"], learning_rate=h["lr"])


def on_the_ball(inner, h):
    """Every leaf on its own sphere."""
    rate = h.get("lr", h.get("learning_rate"))
    return hyperball(inner, learning_rate=rate, weight_decay=h.get("weight_decay", 0.0), roles=ROLES)


def adamh(h):
    """AdamH of levanter and of modded-nanogpt, which name the betas otherwise."""
    b1, b2 = h.get("betas", (h.get("b1"), h.get("b2")))
    return on_the_ball(adam(1.0, b1=b1, b2=b2, eps=h["eps"]), h)


def muonh(h):
    """MuonH of levanter, whose iteration has five rows of coefficients."""
    how = {"ns_coeffs": "dion", "ns_steps": h["steps"], "eps": h["muon_eps"], "nesterov": h["nesterov"]}
    return on_the_ball(muon(1.0, beta=h["momentum"], debias=False, **how), h)


def muonh_modded_nanogpt(h):
    """MuonH of modded-nanogpt, whose iteration converges."""
    return on_the_ball(muon(1.0, (2, -1.5, 0.5), 12, h["mu"], debias=False, eps=1e-7), h)


def muon_hyperball(h):
    """The official Muon of NVIDIA on a ball; the recorded weights start at its radius."""
    how = {"ns_coeffs": "dion", "debias": False, "nesterov": h.get("nesterov", False), "eps": 1e-15}
    return on_the_ball(muon(1.0, beta=h["momentum"], **how), h)


def schedule_free_muon(h):
    """The official wrapper around torch's Muon, which steps and decays z."""
    base = h["base"]
    inner = muon(base["lr"], beta=base["momentum"], weight_decay=base["weight_decay"], debias=False, eps=1e-7)
    how = {"weight_lr_power": h["weight_lr_power"], "r": float(h["r"]), "rate_ahead": False, "base_at_z": True}
    how |= {"decay_at_y": h.get("weight_decay_at_y", 0.0)}
    return schedule_free(inner, base["lr"], h["momentum"], **how)


def recorded_rates(h):
    """The schedule of a recording that states the learning rate of each step."""
    rates = jnp.asarray(h["arrays"]["lr"], jnp.float32)
    return lambda count: rates[count]


def windows(h):
    """The averager of llm-optimizer-benchmark, whose mean starts over at every horizon."""
    window = h["horizon"] // h["interval"]
    return average_params(torch_adamw(h["inner"]), window=window, every=h["interval"], rolling=False)


def lawa(h):
    """AlgoPerf's queue, which counts its steps from 0."""
    numbers = {"b1": 1 - h["one_minus_beta1"], "b2": h["beta2"], "weight_decay": h["weight_decay"]}
    inner = nadamw(recorded_rates(h), one_correction=True, **numbers)
    start, every = (math.ceil(h["step_hint"] * h[name]) for name in ("lawa_start_factor", "lawa_interval_scaling"))
    return average_params(inner, window=h["k"], every=every, start=start + 1)


def averaged_from_a_step(h):
    """The averager of llm-optimizer-benchmark, which counts its calls from 0 and has no bias to correct."""
    how = {"start": h["warmup"] + 1, "every": h["interval"], "debias": False}
    return ema_params(torch_adamw(h["inner"]), decay=h["decay"], **how)


def tail_average(h):
    """The average of the last steps of modded-nanogpt, mixed with the parameters for the evaluation."""
    how = {"start": h["start"], "debias": False, "blend": h["lambda"]}
    return ema_params(torch_adamw(h["inner"]), decay=1 - 1 / h["tau"], **how)


def average_since_start(state, params):
    return jax.tree.map(lambda p, a: jnp.where(state.weight > 0, a, p), params, state.average)


def ema_nesterov_around(inner, h):
    """The lookahead of modded-nanogpt, by default in proportion to the learning rate."""
    scaled = h["use_scheduled_lookahead_stepsize"]
    how = {"learning_rate": recorded_rates(h), "peak_learning_rate": h["inner"]["lr"]} if scaled else {}
    how |= {"start": h["prefill_steps"], "stop": h["rest_steps"], "decay": h["lookahead_ema"]}
    return ema_nesterov(inner(h["inner"] | {"lr": recorded_rates(h)}), step_size=h["lookahead_stepsize"], **how)


def converging_muon(h):
    """The Muon of modded-nanogpt, whose iteration converges."""
    return muon(h["lr"], (2, -1.5, 0.5), 12, h["mu"], debias=False, eps=1e-7, weight_decay=h["weight_decay"])


def muloco(h):
    numbers = {"outer_learning_rate": h["outer_lr"], "outer_momentum": h["outer_momentum"]}
    return outer_nesterov(torch_adamw(h["inner"]), sync_period=h["sync_interval"], **numbers)


def diloco(h):
    """AlgoPerf's, which names everything otherwise."""
    numbers = {"b1": h["beta1"], "b2": h["beta2"], "eps": h["epsilon"], "weight_decay": h["weight_decay"]}
    outer = {"outer_learning_rate": h["outer_lr"], "outer_momentum": h["outer_momentum"]}
    return outer_nesterov(adamw(h["learning_rate"], **numbers), sync_period=h["sync_period"], **outer)


def pass_loss_value(loss, params, t):
    return {"value": loss(params)}


def pass_loss_function(loss, params, t):
    return {"loss_fn": loss}


AROUND = "test_around_accumulated_gradients_it_works_on_updates"
INSIDE = "test_accumulation_that_it_can_not_move_into_is_rejected"

ROWS = (
    WrapperCase(
        accumulate,
        bytes=4,
        keywords={"steps": 2},
        exempt={AROUND: "outside of it single micro-batches are skipped", INSIDE: "steps multiply"},
    ),
    WrapperCase(
        average_params,
        bytes=4,
        keywords={"window": 2, "rolling": False},
        goldens=(
            Golden("average_lawa_queue", lawa, also={"avg/": evaluation_params}),
            Golden("average_uniform", windows, also={"avg/": evaluation_params}, slow=True),
        ),
    ),
    WrapperCase(
        cautious,
        goldens=(
            Golden("cautious_adamw", huggingface_eps),
            Golden("cautious_adamw_foreach", lambda h: c_adamw(h, h["eps"])),
            Golden("cautious_lion", c_lion),
        ),
    ),
    WrapperCase(
        cautious_decay,
        goldens=(Golden("adamw_cautious_wd", dion_adamw), Golden("lion_cautious_wd", dion_lion)),
    ),
    WrapperCase(
        ema_nesterov,
        bytes=4,
        keywords={"step_size": 0.5, "decay": 0.9, "start": 2},
        goldens=(
            Golden(
                "ema_nesterov_adamw",
                lambda h: ema_nesterov_around(torch_adamw, h),
                also={"": evaluation_params, "y/": lambda state, params: params},
            ),
            Golden(
                "ema_nesterov_muon_f32",
                lambda h: ema_nesterov_around(converging_muon, h),
                also={"": evaluation_params, "y/": lambda state, params: params},
                slow=True,
            ),
        ),
    ),
    WrapperCase(
        ema_params,
        bytes=4,
        keywords={"decay": 0.9},
        goldens=(
            Golden("average_ema", averaged_from_a_step, also={"avg/": lambda state, params: state.average}),
            Golden(
                "average_tail_ema",
                tail_average,
                also={"avg/": average_since_start, "blend/": evaluation_params},
                slow=True,
            ),
        ),
    ),
    WrapperCase(
        hyperball,
        exempt={"test_converges": "a quadratic has its minimum off the ball"},
        goldens=(
            Golden("adamh", adamh),
            Golden("adamh_levanter", adamh, slow=True),
            Golden("muonh", muonh, slow=True),
            Golden("muonh_f32", muonh_modded_nanogpt, slow=True),
            Golden("muonh_torch_f32", muonh_modded_nanogpt, slow=True),
            Golden("muon_hyperball", muon_hyperball, slow=True),
        ),
    ),
    WrapperCase(
        layer_decay,
        needs_layers=True,
        exempt={
            "test_a_stack_of_layers_is_updated_like_its_layers": "a layer's factor depends on its place in the stack",
            **dict.fromkeys(
                (
                    "test_converges",
                    "test_bytes_are_those_of_the_row",
                    "test_integer_leaves_are_rejected",
                    "test_every_array_of_a_fresh_state_has_its_own_buffer",
                    "test_every_number_may_be_traced",
                ),
                "the parameters of this test have no layers",
            ),
        },
    ),
    WrapperCase(lookahead, bytes=4, keywords={"sync_period": 2}),
    WrapperCase(
        low_precision,
        bytes=-8 + 2 * (1 + 4 / 256),
        keywords={"moments": "int8", "rounding": "nearest", "min_size": 1},
        exempt={
            "test_updates_keep_the_dtypes_of_the_gradients": "they are float32, to reach the parameters unrounded",
            "test_turned_matrices_are_updated_alike": "blocks lie along the last axis",
            AROUND: "it rounds the sum too",
            INSIDE: "it rounds every state",
        },
    ),
    WrapperCase(
        outer_nesterov,
        bytes=8,
        keywords={"sync_period": 2},
        goldens=(
            Golden("outer_nesterov_adamw", muloco, also={"slow/": evaluation_params}),
            Golden("diloco_adamw", diloco, also={"slow/": evaluation_params}, slow=True),
        ),
    ),
    WrapperCase(qk_clip),
    WrapperCase(
        sam,
        keywords={"rho": 0.01},
        extra=pass_loss_function,
        exempt={AROUND: "each micro-batch has a perturbation of its own", INSIDE: "as around accumulate"},
    ),
    WrapperCase(
        schedule_free,
        bytes=4,
        keywords={"learning_rate": 0.01},
        goldens=(Golden("schedule_free_muon_f32", schedule_free_muon, also={"x/": schedule_free_eval_params}),),
    ),
    WrapperCase(skip_nonfinite, exempt={INSIDE: "single micro-batches are skipped"}),
    WrapperCase(
        skip_spikes,
        bytes=128 * 4 / 256**2,
        keywords={"watch": "loss"},
        extra=pass_loss_value,
        exempt={INSIDE: "single micro-batches are skipped"},
    ),
)

WRAPPED = {row.wrapper.__name__: row for row in ROWS}
