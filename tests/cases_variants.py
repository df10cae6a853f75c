"""Rows of the newer variants of Adam, and of learning-rate-free optimizers, see :mod:`tests.cases`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_mini import (
    adam_mini,
    add_decayed_weights,
    ademamix,
    adopt,
    amuse,
    came,
    chain,
    dadapt_adamw,
    dog,
    dowg,
    given_diag_hessian,
    gpa_adamw,
    laprop,
    mars,
    prodigy,
    schedule_free_adamw,
    schedule_free_eval_params,
    schedule_free_plus,
    schedule_free_radam,
    schedule_free_sgd,
    simplified_ademamix,
    sophia,
    stable_adamw,
    states,
)
from jaxopt_mini.tree import cast_like
from tests.harness import PROBLEM_LAYOUT, Case, Golden


def betas(h, *names):
    """torch's pair or triple under our names."""
    return dict(zip(names, h["betas"], strict=True))


def official_adopt(h):
    """The official ADOPT, whose decay is an L2 penalty unless decoupled."""
    clips = "clip_lambda" not in h
    common = {**betas(h, "b1", "b2"), "use_clipping": clips}
    if h.get("decouple", True):
        return adopt(h["lr"], weight_decay=h.get("weight_decay", 0.0), **common)
    return chain(add_decayed_weights(h["weight_decay"]), adopt(h["lr"], **common))


def official_ademamix(h):
    """The official torch code, whose warm-ups count from 1."""
    warmups = {"b3_warmup": h.get("beta3_warmup"), "alpha_warmup": h.get("alpha_warmup")}
    b = betas(h, "b1", "b2", "b3")
    return ademamix(h["lr"], **b, alpha=h["alpha"], eps=h["eps"], weight_decay=h["weight_decay"], **warmups)


def official_laprop(h):
    """The official LaProp, whose decay isn't multiplied by the learning rate."""
    decay = {"weight_decay": h.get("weight_decay", 0.0), "decay_by_rate": False}
    return laprop(h["lr"], **betas(h, "b1", "b2"), eps=h["eps"], **decay)


def official_mars(h):
    """The official MARS."""
    b, form = betas(h, "b1", "b2"), h["mars_type"].removeprefix("mars-")
    vectors = {"reduce_vectors": h.get("optimize_1d", False)}
    if "lr_1d" in h:
        b1, b2 = h["betas_1d"]
        vectors |= {"vector_learning_rate": h["lr_1d"], "vector_b1": b1, "vector_b2": b2}
        vectors |= {"vector_weight_decay": h["weight_decay_1d"]}
    how = {"eps": h.get("eps", 1e-8), "amsgrad": h.get("amsgrad", False), "form": form}
    return mars(h["lr"], **b, gamma=h["gamma"], weight_decay=h["weight_decay"], **how, **vectors)


def official_adam_mini(h, **keywords):
    """The official Adam-mini, which never decays norms and biases."""
    decays = {leaf: not name.endswith(("norm.weight", "bias")) for leaf, name in h["names"].items()}
    common = {"eps": h["eps"], "weight_decay": h["weight_decay"], "mask": decays}
    return adam_mini(h["lr"], **betas(h, "b1", "b2"), **common, **keywords)


def official_sophia(h):
    """Sophia-G, with an estimate after every k steps."""
    return sophia(
        h["lr"],
        **betas(h, "b1", "b2"),
        gamma=h["rho"] * h["bs"],
        eps=1e-15,
        weight_decay=h["weight_decay"],
        update_interval=h["k"],
        first_estimate=h["k"],
        hessian_diagonal_fn=given_diag_hessian(),
        debias=False,
    )


def recorded_hessian(arrays, problem):
    """The square of the gradient recorded for the estimate after steps 5, 10, ..."""
    steps, every = 40, 5
    hessian = {}
    for leaf in arrays:
        recorded = problem[f"hessian_grads/{leaf}"][: steps // every]
        hessian[leaf] = np.zeros((steps, *recorded.shape[1:]), np.float32)
        hessian[leaf][every - 1 :: every] = np.square(recorded)
    return {"hessian": hessian}


def official_came(h):
    """The official CAME."""
    eps, doubt_eps = h["eps"]
    common = {"eps": eps, "doubt_eps": doubt_eps, "clip_threshold": h["clip_threshold"]}
    return came(h["lr"], **betas(h, "b1", "b2", "b3"), **common, weight_decay=h["weight_decay"])


def growth_rate(h):
    """The limit of the estimate's growth, infinite by default."""
    rate = float(h.get("growth_rate", "inf"))
    return None if rate == float("inf") else rate


def official_prodigy(h):
    """The official Prodigy, without correction by default."""
    return prodigy(
        h["lr"],
        betas=h["betas"],
        beta3=h.get("beta3"),
        eps=h.get("eps", 1e-8),
        estim_lr0=h["d0"],
        estim_lr_coef=h.get("d_coef", 1.0),
        growth_rate=growth_rate(h),
        weight_decay=h["weight_decay"],
        safeguard_warmup=h.get("safeguard_warmup", False),
        bias_correction=h.get("use_bias_correction", False),
    )


def official_dadapt(h):
    """The official D-Adapt Adam(W), without correction by default."""
    correction = {
        "bias_correction": h.get("use_bias_correction", False),
        "growth_rate": growth_rate(h),
    }
    decay = h.get("weight_decay", 0.0)
    return dadapt_adamw(h["lr"], betas=h["betas"], estim_lr0=h["d0"], weight_decay=decay, **correction)


def official_schedule_free(h):
    """The official schedule-free reference classes, whose learning rates count from 1."""
    warmup = h["warmup_steps"] or None
    common = {"warmup_steps": warmup, "weight_decay": h["weight_decay"], "r": h.get("r", 0.0), "rate_ahead": False}
    if "momentum" in h:
        return schedule_free_sgd(h["lr"], b1=h["momentum"], **common)
    common |= {"decay_at_z": h.get("decay_at_z", False), "weight_lr_power": h.get("weight_lr_power", 2.0)}
    return schedule_free_adamw(h["lr"], **betas(h, "b1", "b2"), eps=h["eps"], **common)


def official_schedule_free_radam(h):
    """The official schedule-free RAdam."""
    numbers = {name: float(h[name]) for name in ("weight_decay", "r", "weight_lr_power") if name in h}
    silent = h.get("silent_sgd_phase", True)
    return schedule_free_radam(h["lr"], **betas(h, "b1", "b2"), eps=h.get("eps", 1e-8), **numbers, silent=silent)


def official_amuse(h):
    """The official AMUSE, with its two groups."""
    matrices, others = h["muon"], h["adam"]
    return amuse(
        matrices["lr"],
        warmup_steps=h["warmup_steps"],
        beta=matrices.get("momentum", 0.95),
        b1=h.get("beta1", 0.9),
        rho=h.get("rho", 1.0),
        weight_decay=matrices.get("weight_decay", 0.0),
        decay_at_y=h.get("weight_decay_at_y", 0.0),
        weight_lr_power=float(h.get("weight_lr_power", 2.0)),
        r=float(h.get("r", 0.0)),
        adam_learning_rate=others["lr"],
        adam_b2=others.get("beta2", 0.999),
        adam_weight_decay=others.get("weight_decay", 0.0),
        eps=others.get("eps", 1e-10),
        layout={leaf: PROBLEM_LAYOUT[leaf] for leaf in (*matrices["leaves"], *others["leaves"])},
    )


def computing_in_float32(factory):
    """Optax's code, called with float32 gradients and parameters for any dtype.

    In bfloat16 its schedule-free step is the difference of two roundings of the parameters, each by up to 2^-9 of
    them, which is more than the step.
    """

    def widen(tree):
        return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree)

    def build(*args, **keywords):
        tx = factory(*args, **keywords)

        def update(updates, state, params=None, **extra):
            wide = tx.update(widen(updates), state, widen(params), **extra)
            return cast_like(wide, (updates, state))

        return optax.GradientTransformationExtraArgs(tx.init, update)

    return build


def official_gpa(h):
    """GPA AdamW of Meta."""
    free = h.get("iterate_averaging_type") == "schedule_free"
    return gpa_adamw(
        h["lr"],
        b1=h["beta1"],
        b2=h["beta2"],
        eps=h["eps"],
        weight_decay=h["weight_decay"],
        train_interp=h["train_interp_coeff"],
        eval_interp=None if free else h.get("eval_interp_coeff", 0.9967),
        r=float(h.get("weight_pow_coeff", 0.0)),
        weight_lr_power=float(h.get("weight_lr_power", 2.0)),
        decay_at_y=h.get("use_wd_on_y", False),
    )


def official_schedule_free_plus(h):
    """The official Schedule-Free+."""
    return schedule_free_plus(
        h["lr"],
        **betas(h, "b1", "b2"),
        sf_b1=h.get("sf_beta1", 0.9),
        sf_b1_max=h.get("sf_beta1_max", 0.965),
        sf_b1_steps=h.get("sf_beta1_anneal_steps", 0),
        eps=h["eps"],
        weight_decay=h["weight_decay"],
        average_from=h.get("c_warmup", 0),
        r=float(h.get("r", 0)),
        weight_lr_power=float(h.get("weight_lr_power", 2)),
    )


def recorded_losses(arrays, problem):
    """The loss passed to each step."""
    del problem
    return {"value": arrays["function_value"]}


EVALUATED = {"x/": states.evaluation_params}
AVERAGED = {"x/": schedule_free_eval_params}


def pass_loss(loss, params, t):
    """The extra arg of Hutchinson's estimate."""
    del params, t
    return {"obj_fn": loss}


ROWS = (
    Case(
        adopt,
        hyperparameters={"weight_decay": 0.01},
        optax=optax.contrib.adopt,
        variants=({"nesterov": True, "use_clipping": False, "b2": 0.99}, {"mu_dtype": "bfloat16"}),
        goldens=(
            Golden("adopt", official_adopt),
            Golden("adopt_wd", official_adopt),
            Golden("adopt_l2_noclip", official_adopt),
        ),
    ),
    Case(
        ademamix,
        keywords={"b3": 0.99},
        optax=optax.contrib.ademamix,
        variants=({"b3": lambda t: 1 - 0.1 / (t + 1), "alpha": lambda t: 0.1 * t, "weight_decay": 0.1},),
        goldens=(Golden("ademamix", official_ademamix), Golden("ademamix_warmup", official_ademamix)),
    ),
    Case(
        simplified_ademamix,
        learning_rate=0.01,
        keywords={"b1": 0.9},
        optax=optax.contrib.simplified_ademamix,
        variants=({"alpha": lambda t: 0.1 * t, "weight_decay": 0.1, "eps_root": 1e-6},),
    ),
    Case(laprop, goldens=(Golden("laprop", official_laprop), Golden("laprop_wd", official_laprop))),
    Case(
        stable_adamw,
        goldens=(
            Golden(
                "stable_adamw",
                lambda h: stable_adamw(h["lr"], **betas(h, "b1", "b2"), eps=h["eps"], weight_decay=h["weight_decay"]),
            ),
        ),
    ),
    Case(came, learning_rate=0.03, keywords={"b3": 0.99}, goldens=(Golden("came", official_came),)),
    Case(
        adam_mini,
        goldens=(
            Golden("adam_mini", lambda h: official_adam_mini(h, layout=PROBLEM_LAYOUT)),
            Golden("adam_mini_heads", lambda h: official_adam_mini(h, heads={"out": 4})),
        ),
    ),
    Case(
        mars,
        hyperparameters={"vector_learning_rate": 0.05},
        goldens=(
            Golden("mars_adamw", official_mars),
            Golden("mars_adamw_1d", official_mars),
            Golden("mars_lion", official_mars),
            Golden("mars_amsgrad", official_mars, slow=True),
            Golden("mars_shampoo_1d_f32", official_mars, slow=True),
        ),
    ),
    Case(
        sophia,
        learning_rate=0.05,
        optax=optax.contrib.sophia,
        variants=({"gamma": 1.0, "update_interval": 3, "clip_threshold": None}, {"mu_dtype": "bfloat16"}),
        extra=pass_loss,
        goldens=(Golden("sophia_g", official_sophia, extra=recorded_hessian),),
    ),
    Case(
        prodigy,
        learning_rate=1.0,
        keywords={"estim_lr0": 0.01},
        hyperparameters={"beta3": 0.99},
        optax=optax.contrib.prodigy,
        variants=({"betas": (0.9, 0.99), "weight_decay": 0.1, "safeguard_warmup": True},),
        goldens=(
            Golden("prodigy", official_prodigy),
            Golden(
                "prodigy_wd",
                official_prodigy,
                tolerance=2e-5,
                reason="computed in float64, the rule deviates from the recording by 1.6e-5",
            ),
            Golden(
                "prodigy_growth",
                official_prodigy,
                slow=True,
                tolerance=1e-4,
                reason="computed in float64, the rule deviates from the recording by 2e-5",
            ),
        ),
    ),
    Case(
        dadapt_adamw,
        learning_rate=1.0,
        keywords={"estim_lr0": 0.01},
        optax=optax.contrib.dadapt_adamw,
        variants=({"betas": (0.9, 0.99), "weight_decay": 0.1, "eps": 1e-4},),
        goldens=(
            Golden("dadapt_adam", official_dadapt),
            Golden("dadapt_adamw", official_dadapt),
            Golden("dadapt_growth", official_dadapt, slow=True),
        ),
    ),
    Case(
        dog,
        learning_rate=1.0,
        keywords={"init_step": ("distance", 0.1)},
        hyperparameters={"weight_decay": 0.01},
        optax=optax.contrib.dog,
        variants=({"init_step": ("learning_rate", 0.1), "weight_decay": 0.1},),
    ),
    Case(
        dowg,
        learning_rate=1.0,
        hyperparameters={"weight_decay": 0.01, "init_estim_sq_dist": 0.01},
        optax=optax.contrib.dowg,
        variants=({"init_estim_sq_dist": 0.1, "weight_decay": 0.1},),
    ),
    Case(
        schedule_free_sgd,
        learning_rate=0.015,
        hyperparameters={"weight_decay": 0.01},
        optax=computing_in_float32(optax.contrib.schedule_free_sgd),
        variants=({"warmup_steps": 10, "weight_decay": 0.1, "b1": 0.5}, {"state_dtype": "bfloat16"}),
        goldens=(
            Golden("schedule_free_sgd", official_schedule_free, also=AVERAGED),
            Golden("schedule_free_sgd_wd", official_schedule_free, also=AVERAGED),
        ),
    ),
    Case(
        schedule_free_adamw,
        optax=computing_in_float32(optax.contrib.schedule_free_adamw),
        variants=({"warmup_steps": 10, "weight_decay": 0.1, "weight_lr_power": 1.0}, {"state_dtype": "bfloat16"}),
        goldens=(
            Golden("schedule_free_adamw", official_schedule_free, also=AVERAGED),
            Golden("schedule_free_adamw_wd", official_schedule_free, also=AVERAGED),
            Golden("schedule_free_adamw_decay_at_z", official_schedule_free, also=AVERAGED, slow=True),
        ),
    ),
    Case(
        schedule_free_radam,
        slow=True,
        learning_rate=0.02,
        keywords={"b2": 0.9, "silent": False},
        goldens=(Golden("schedule_free_radam", official_schedule_free_radam, also=AVERAGED),),
    ),
    Case(
        amuse,
        slow=True,
        keywords={"warmup_steps": 5, "b1": 0.6, "rho": 0.25},
        hyperparameters={"adam_learning_rate": 0.1},
        goldens=(Golden("amuse_f32", official_amuse, also=EVALUATED),),
    ),
    Case(
        schedule_free_plus,
        slow=True,
        learning_rate=1.0,
        extra=lambda loss, params, t: {"value": loss(params)},
        goldens=tuple(
            Golden(name, official_schedule_free_plus, extra=recorded_losses, also=EVALUATED, slow=name.endswith("plus"))
            for name in ("schedule_free_plus", "schedule_free_plus_anneal")
        ),
    ),
    Case(
        gpa_adamw,
        slow=True,
        keywords={"eval_interp": 0.9},
        goldens=(
            Golden("gpa_adamw", official_gpa, also=EVALUATED),
            Golden("gpa_adamw_wd_y", official_gpa, also=EVALUATED, slow=True),
            Golden("gpa_schedule_free", official_gpa, also=EVALUATED, slow=True),
        ),
    ),
)
