"""One row per wrapper: data for its property tests and its recorded trajectories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from jaxopt_mini import (
    accumulate,
    adam,
    adamw,
    add_decayed_weights,
    cautious,
    cautious_decay,
    chain,
    clip_by_norm,
    ema_params,
    hyperball,
    inject_hyperparams,
    layer_decay,
    lion,
    lookahead,
    low_precision,
    sam,
    schedule_free,
    sgd,
    skip_nonfinite,
    skip_spikes,
)
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
    """

    wrapper: Callable
    bytes: float = 0
    keywords: Mapping[str, Any] = field(default_factory=dict)
    extra: Callable[..., dict[str, Any]] = nothing
    goldens: tuple[Golden, ...] = ()
    exempt: Mapping[str, str] = field(default_factory=dict)


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
    WrapperCase(ema_params, bytes=4, keywords={"decay": 0.9}),
    WrapperCase(hyperball, exempt={"test_converges": "a quadratic has its minimum off the ball"}),
    WrapperCase(
        layer_decay,
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
        sam,
        keywords={"rho": 0.01},
        extra=pass_loss_function,
        exempt={AROUND: "each micro-batch has a perturbation of its own", INSIDE: "as around accumulate"},
    ),
    WrapperCase(schedule_free, bytes=4, keywords={"learning_rate": 0.01}),
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
