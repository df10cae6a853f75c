"""One row per optimizer: data for its property tests, its Optax counterpart, its recorded trajectories.

A new optimizer adds a row here; the tests themselves don't name any.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax

from jaxopt_mini import (
    adagrad,
    adam,
    adamw,
    add_decayed_weights,
    chain,
    clip_by_norm,
    inject_hyperparams,
    lion,
    momentum,
    nadamw,
    partition,
    rmsprop,
    scale_by_adam,
    scale_by_learning_rate,
    sgd,
)
from jaxopt_mini.schedules import cosine
from tests import cases_classic, cases_matrix, cases_variants
from tests.harness import Case, Golden


def optax_momentum(learning_rate, decay=0.9, debias=False, accumulator_dtype=None):
    """The same optimizer, chained from Optax's transformations."""
    return optax.chain(optax.ema(decay, debias, accumulator_dtype), optax.scale_by_learning_rate(learning_rate))


def torch_adamw(h):
    """torch's AdamW, which takes the betas as a pair."""
    b1, b2 = h["betas"]
    return adamw(h["lr"], b1=b1, b2=b2, eps=h.get("eps", 1e-8), weight_decay=h["weight_decay"])


def scheduled_adamw(h):
    """AdamW of Meta's Distributed Shampoo, with the recorded learning rates and a decay relative to their peak."""
    config, rates = h["preconditioner_config"], jnp.asarray(h["arrays"]["lr"], jnp.float32)
    return adamw(
        lambda count: rates[count],
        b1=h["betas"][0],
        b2=config["beta2"],
        eps=config["epsilon"],
        weight_decay=h["weight_decay"],
        decay={"CORRECTED": "corrected", "INDEPENDENT": "independent"}[h["weight_decay_type"]],
        peak_learning_rate=h["lr"],
    )


def adamc(h):
    """AdamC of pytorch_optimizer: corrected decay before a normalization, eps divided by the bias correction."""
    (b1, b2), rates = h["betas"], jnp.asarray(h["arrays"]["lr"], jnp.float32)
    eps = lambda t: h["eps"] / jnp.sqrt(1 - b2 ** (t + 1).astype(jnp.float32))
    numbers = {"b1": b1, "b2": b2, "eps": eps}

    def with_decay(decay):
        link = inject_hyperparams(scale_by_adam)(**numbers)
        return chain(link, add_decayed_weights(decay), scale_by_learning_rate(lambda t: rates[t]))

    both = {
        "normalized": with_decay(lambda t: h["weight_decay"] * rates[t] / h["lr"]),
        "other": with_decay(h["weight_decay"]),
    }
    normalized = set(h["normalized_leaves"])
    return partition(both, lambda params: {n: "normalized" if n in normalized else "other" for n in params})


def torch_lion(h):
    """The official Lion."""
    b1, b2 = h["betas"]
    return lion(h["lr"], b1=b1, b2=b2, weight_decay=h["weight_decay"])


ROWS = (
    Case(
        sgd,
        learning_rate=0.015,
        hyperparameters={"momentum": 0.9, "dampening": 0.5},
        optax=optax.sgd,
        variants=(
            {"momentum": 0.9},
            {"momentum": 0.9, "nesterov": True, "accumulator_dtype": "bfloat16"},
        ),
        goldens=(
            Golden("seed_sgd", lambda h: sgd(h["lr"])),
            Golden("torch_sgd", lambda h: sgd(h["lr"])),
            Golden("torch_sgd_momentum", lambda h: sgd(h["lr"], momentum=h["momentum"])),
            Golden("torch_sgd_nesterov", lambda h: sgd(h["lr"], momentum=h["momentum"], nesterov=True)),
            Golden(
                "torch_sgd_dampening",
                lambda h: sgd(h["lr"], momentum=h["momentum"], dampening=h["dampening"]),
            ),
            Golden(
                "torch_sgd_wd",
                lambda h: chain(
                    add_decayed_weights(h["weight_decay"]),
                    sgd(h["lr"], momentum=h["momentum"], nesterov=True),
                ),
            ),
        ),
    ),
    Case(
        momentum,
        learning_rate=0.1,
        optax=optax_momentum,
        variants=({"debias": True}, {"decay": 0.5, "accumulator_dtype": "bfloat16"}),
        goldens=(Golden("seed_momentum", lambda h: momentum(h["lr"], decay=h["momentum"])),),
    ),
    Case(
        adagrad,
        learning_rate=1.0,
        hyperparameters={"lr_decay": 0.01},
        optax=optax.adagrad,
        variants=({"initial_accumulator_value": 0.0, "eps": 1e-3},),
        goldens=(
            Golden(
                "seed_adagrad",
                lambda h: adagrad(h["lr"], initial_accumulator_value=0.0, eps=h["eps"], eps_in_sqrt=False),
            ),
            Golden(
                "torch_adagrad",
                lambda h: adagrad(
                    h["lr"],
                    initial_accumulator_value=h["initial_accumulator_value"],
                    eps=h["eps"],
                    eps_in_sqrt=False,
                ),
            ),
            Golden(
                "torch_adagrad_decay",
                lambda h: chain(
                    add_decayed_weights(h["weight_decay"]),
                    adagrad(
                        h["lr"],
                        initial_accumulator_value=0.0,
                        eps=h["eps"],
                        eps_in_sqrt=False,
                        lr_decay=h["lr_decay"],
                    ),
                ),
            ),
        ),
    ),
    Case(
        rmsprop,
        hyperparameters={"momentum": 0.9},
        optax=optax.rmsprop,
        variants=(
            {"momentum": 0.9, "nesterov": True, "eps_in_sqrt": False, "initial_scale": 1.0},
            {"bias_correction": True},
            {"centered": True, "momentum": 0.5},
            {"centered": True, "bias_correction": True, "eps_in_sqrt": False, "eps": 1e-3},
        ),
        goldens=(
            Golden(
                "torch_rmsprop",
                lambda h: rmsprop(h["lr"], decay=h["alpha"], eps=h["eps"], eps_in_sqrt=False),
            ),
            Golden(
                "torch_rmsprop_centered",
                lambda h: rmsprop(h["lr"], decay=h["alpha"], eps=h["eps"], eps_in_sqrt=False, centered=True),
            ),
            Golden(
                "torch_rmsprop_momentum",
                lambda h: chain(
                    add_decayed_weights(h["weight_decay"]),
                    rmsprop(
                        h["lr"],
                        decay=h["alpha"],
                        eps_in_sqrt=False,
                        momentum=h["momentum"],
                        rate_in_momentum=False,
                    ),
                ),
            ),
        ),
    ),
    Case(
        adam,
        optax=optax.adam,
        variants=({"nesterov": True, "eps_root": 1e-6}, {"mu_dtype": "bfloat16"}),
        goldens=(
            Golden(
                "seed_adam",
                lambda h: adam(h["lr"], b1=h["beta1"], b2=h["beta2"], eps=h["eps"]),
            ),
            Golden("torch_adam", lambda h: adam(h["lr"], eps=h["eps"])),
            Golden(
                "torch_adam_l2",
                lambda h: chain(
                    add_decayed_weights(h["weight_decay"]),
                    adam(h["lr"], b1=h["betas"][0], b2=h["betas"][1], eps=h["eps"]),
                ),
            ),
        ),
    ),
    Case(
        adamw,
        optax=optax.adamw,
        variants=({"nesterov": True, "weight_decay": 0.1}, {"mu_dtype": "bfloat16"}),
        goldens=(
            Golden(
                "seed_adamw",
                lambda h: adamw(
                    h["lr"],
                    b1=h["beta1"],
                    b2=h["beta2"],
                    eps=h["eps"],
                    weight_decay=h["weight_decay"],
                ),
            ),
            Golden("torch_adamw", torch_adamw),
            Golden("adamc_corrected", scheduled_adamw, slow=True),
            Golden("adamw_independent", scheduled_adamw, slow=True),
            Golden("adamc", adamc, slow=True),
            Golden(
                "torch_recipe_clip_adamw_cosine",
                lambda h: chain(
                    clip_by_norm(h["max_norm"]),
                    torch_adamw(h | {"lr": cosine(h["lr"], h["T_max"])}),
                ),
            ),
        ),
    ),
    Case(
        nadamw,
        optax=optax.nadamw,
        variants=({"weight_decay": 0.1, "mu_dtype": "bfloat16"},),
        goldens=(
            Golden(
                "nadamw_algoperf",
                lambda h: nadamw(h["lr"], weight_decay=h["weight_decay"], one_correction=True),
            ),
        ),
    ),
    Case(
        lion,
        learning_rate=0.05,
        optax=optax.lion,
        variants=({"weight_decay": 0.1, "b1": 0.5}, {"mu_dtype": "bfloat16"}),
        goldens=(
            Golden("lion", torch_lion),
            Golden("lion_wd", torch_lion),
            Golden("signum_lion", torch_lion),
        ),
    ),
    *cases_classic.ROWS,
    *cases_matrix.ROWS,
    *cases_variants.ROWS,
)

CASES = {row.optimizer.__name__: row for row in ROWS}
