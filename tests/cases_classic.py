"""Rows of the classic optimizers, see :mod:`tests.cases`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxopt_mini import (
    adabelief,
    adadelta,
    adafactor,
    adamax,
    adamaxw,
    adan,
    add_decayed_weights,
    amsgrad,
    asgd,
    chain,
    clip_by_norm,
    lamb,
    lars,
    nadam,
    novograd,
    polyak_sgd,
    radam,
    rprop,
    scale_by_amsgrad,
    scale_by_learning_rate,
    scale_by_nadam,
    scale_by_radam,
    sign_sgd,
    signum,
    sm3,
    yogi,
)
from jaxopt_mini.tree import path_name
from tests.harness import Case, Golden


def mapped(tx, before, after):
    """Optax's optimizer between two functions of its inputs and outputs."""

    def update(updates, state, params=None, **extra):
        return after(lambda *args: tx.update(*args, **extra), *before(updates, state, params))

    tx = optax.with_extra_args_support(tx)
    return optax.GradientTransformationExtraArgs(lambda params: after(tx.init, *before(params)), update)


def by_layers(make):
    """Optax's optimizer, which has no stacks, on each layer of the tests' tree separately, with stacked states."""

    def stacked(path, shape):
        # No layer has a leaf of one entry, but Adafactor's state has, where it stores nothing.
        return "blocks" in path_name(path) and shape != (1,)

    def every_layer(function, *trees):
        axes = jax.tree.map_with_path(lambda path, leaf: 0 if stacked(path, leaf.shape) else None, trees)
        if not jax.tree.leaves(axes):
            return function(*trees)
        new = jax.vmap(function, in_axes=axes)(*trees)
        return jax.tree.map_with_path(lambda path, leaf: leaf if stacked(path, leaf.shape[1:]) else leaf[0], new)

    return lambda *args, **keywords: mapped(make(*args, **keywords), lambda *trees: trees, every_layer)


def optax_sm3(learning_rate, momentum=0.9):
    """Optax's SM3 with schedules, and with vectors of one entry for scalars, on which it fails."""

    def reshape(shape, trees):
        return jax.tree.map_with_path(
            lambda path, leaf: leaf.reshape(shape) if "scale" in path_name(path) else leaf, trees
        )

    tx = optax.chain(optax.scale_by_sm3(momentum), optax.scale_by_learning_rate(learning_rate))
    return mapped(tx, lambda *trees: reshape((1,), trees), lambda function, *trees: reshape((), function(*trees)))


def optax_polyak_sgd(learning_rate, **keywords):
    """Optax's two links, with the learning rate after the norm is computed, and the state of ``optax.polyak_sgd``."""
    rate, polyak = optax.sgd(learning_rate), optax.scale_by_polyak(**keywords)

    def update(updates, state, params=None, **extra):
        updates, polyak_state = polyak.update(updates, state[1], params, **extra)
        updates, rate_state = rate.update(updates, state[0], params)
        return updates, (rate_state, polyak_state)

    return optax.GradientTransformationExtraArgs(lambda params: (rate.init(params), polyak.init(params)), update)


def betas(h):
    """torch's pair under our names."""
    return {f"b{i}": b for i, b in enumerate(h["betas"], 1)}


def decoupled(link, h):
    """A direction with AdamW's decay."""
    return chain(link, add_decayed_weights(h["weight_decay"]), scale_by_learning_rate(h["lr"]))


def official_signum(h):
    """Its momentum is a sum, which has the same sign as an average."""
    how = {"nesterov": h.get("nesterov", False), "dampening": h.get("dampening")}
    return signum(h["lr"], beta=h["momentum"], weight_decay=h["weight_decay"], **how)


def official_signum_from_the_parameters(h):
    """The reference as it is: its sum starts from the parameters after their first decay."""
    how = {"nesterov": h.get("nesterov", False), "dampening": h.get("dampening")}
    return signum(h["lr"], beta=h["momentum"], weight_decay=h["weight_decay"], from_parameters=True, **how)


def huggingface_adafactor(h):
    """Adafactor of transformers, whose learning rate is relative, and with it the decay, if none is given."""
    rate = relative_rate(1e-2) if h.get("lr") is None else h["lr"]
    eps, min_scale = h.get("eps", (1e-30, 1e-3))
    return adafactor(
        rate,
        min_dim_size_to_factor=1,
        decay_rate=-h.get("decay_rate", -0.8),
        clipping_threshold=h.get("clip_threshold", 1.0),
        multiply_by_parameter_scale=h.get("scale_parameter", True),
        momentum=h.get("beta1"),
        weight_decay_rate=h.get("weight_decay") or None,
        decay_by_rate=True,
        eps=eps,
        min_scale=min_scale,
    )


def corrected_rate(h):
    """The reference multiplies the learning rate instead of correcting the moments."""
    b1, b2 = h["betas"]

    def rate(count):
        t = jnp.float32(count + 1)
        return h["lr"] * jnp.sqrt(1 - b2**t) / (1 - b1**t)

    return rate


def official_lamb(h, rate=None):
    """No bias correction; the norm of a tensor is at most 10."""
    words = {"weight_decay": h["weight_decay"], "bias_correction": False, "max_norm": 10.0}
    return lamb(h["lr"] if rate is None else rate, **betas(h), **words)


def relative_rate(largest):
    """The paper's relative step size, torch's and Hugging Face's."""
    return lambda count: jnp.minimum(largest, jnp.float32(count + 1) ** -0.5)


def torch_adafactor(h):
    """torch factors all matrices, and its steps are relative to a decaying learning rate."""
    smallest, min_scale = h["eps"]
    smallest = 2**-23 if smallest is None else smallest
    decay = h["lr"] * h["weight_decay"] if "weight_decay" in h else None
    return adafactor(
        relative_rate(h["lr"]),
        min_dim_size_to_factor=1,
        decay_rate=-h["beta2_decay"],
        clipping_threshold=h["d"],
        weight_decay_rate=decay,
        eps=smallest**2,
        min_scale=min_scale,
    )


ROWS = (
    Case(
        nadam,
        hyperparameters={"momentum_decay": 4e-3},
        optax=optax.nadam,
        variants=({"b1": 0.5, "eps_root": 1e-6}, {"mu_dtype": "bfloat16"}),
        goldens=(
            Golden("torch_nadam", lambda h: nadam(h["lr"], **betas(h), momentum_decay=h["momentum_decay"])),
            Golden(
                "torch_nadam_decoupled",
                lambda h: decoupled(scale_by_nadam(**betas(h), momentum_decay=h["momentum_decay"]), h),
            ),
            Golden(
                "torch_nadam_l2",
                lambda h: chain(
                    add_decayed_weights(h["weight_decay"]), nadam(h["lr"], **betas(h), momentum_decay=4e-3)
                ),
            ),
        ),
    ),
    Case(
        amsgrad,
        optax=optax.amsgrad,
        variants=(
            {"bias_correction_mu": False, "bias_correction_nu": False, "eps_root": 1e-6},
            {"mu_dtype": "bfloat16"},
        ),
        goldens=(
            Golden("torch_amsgrad", lambda h: amsgrad(h["lr"], **betas(h), maximum_first=True)),
            Golden("torch_adamw_amsgrad", lambda h: decoupled(scale_by_amsgrad(**betas(h), maximum_first=True), h)),
        ),
    ),
    Case(
        adamax,
        optax=optax.adamax,
        variants=({"b1": 0.5, "b2": 0.9},),
        goldens=(Golden("torch_adamax", lambda h: adamax(h["lr"], **betas(h), eps=h["eps"])),),
    ),
    Case(adamaxw, optax=optax.adamaxw, variants=({"weight_decay": 0.1},)),
    Case(
        adadelta,
        learning_rate=1.0,
        keywords={"eps": 1e-3},
        optax=optax.adadelta,
        variants=({"weight_decay": 0.1, "rho": 0.5},),
        goldens=(Golden("torch_adadelta", lambda h: adadelta(h["lr"], rho=h["rho"], eps=h["eps"])),),
    ),
    Case(
        radam,
        learning_rate=0.02,
        keywords={"b2": 0.9},
        goldens=(
            Golden("torch_radam", lambda h: radam(h["lr"], **betas(h), eps=h["eps"], correct_eps=True)),
            Golden("torch_radam_decoupled", lambda h: decoupled(scale_by_radam(**betas(h), correct_eps=True), h)),
        ),
    ),
    Case(
        rprop,
        goldens=(
            Golden(
                "torch_rprop",
                lambda h: rprop(
                    h["lr"],
                    eta_minus=h["etas"][0],
                    eta_plus=h["etas"][1],
                    min_step_size=h["step_sizes"][0],
                    max_step_size=float(h["step_sizes"][1]),
                ),
            ),
        ),
    ),
    Case(
        sign_sgd,
        hyperparameters={"weight_decay": 0.1},
        optax=optax.sign_sgd,
        goldens=(Golden("signsgd", lambda h: sign_sgd(h["lr"], weight_decay=h["weight_decay"])),),
    ),
    Case(
        signum,
        hyperparameters={"weight_decay": 0.1},
        optax=optax.signum,
        variants=({"beta": 0.5}, {"accumulator_dtype": "bfloat16"}),
        goldens=(
            Golden("signum_zero", official_signum),
            Golden("signum_zero_nesterov", official_signum),
            Golden("signum_epfl", official_signum_from_the_parameters),
            Golden("signum_dampening", official_signum_from_the_parameters, slow=True),
            Golden("signum_zero_dampening", official_signum, slow=True),
        ),
    ),
    Case(
        lamb,
        hyperparameters={"max_norm": 10.0},
        optax=by_layers(optax.lamb),
        variants=({"weight_decay": 0.1, "eps": 1e-3},),
        goldens=(
            Golden("lamb", official_lamb),
            Golden("lamb_bc", lambda h: official_lamb(h, corrected_rate(h))),
        ),
    ),
    Case(
        lars,
        learning_rate=10.0,
        optax=by_layers(optax.lars),
        variants=(
            {"weight_decay": 0.1, "nesterov": True, "eps": 1e-3},
            {"trust_ratio_mask": {"embed": True, "blocks": {"kernel": True, "bias": False}, "scale": False}},
        ),
    ),
    Case(
        adafactor,
        signed=("decay_offset",),
        keywords={"min_dim_size_to_factor": 2, "multiply_by_parameter_scale": False},
        hyperparameters={"momentum": 0.9, "weight_decay_rate": 1e-3},
        optax=by_layers(optax.adafactor),
        variants=(
            {"min_dim_size_to_factor": 2, "momentum": 0.9, "dtype_momentum": "bfloat16"},
            {"min_dim_size_to_factor": 2, "weight_decay_rate": 1e-3, "clipping_threshold": None},
            {"factored": False, "multiply_by_parameter_scale": False, "decay_rate": 0.5},
        ),
        goldens=(
            Golden("torch_adafactor", torch_adafactor),
            Golden("torch_adafactor_wd", torch_adafactor),
            Golden("adafactor_hf", huggingface_adafactor),
            Golden("adafactor_hf_momentum", huggingface_adafactor),
            Golden("adafactor_hf_wd", huggingface_adafactor, slow=True),
        ),
    ),
    Case(
        adabelief,
        optax=optax.adabelief,
        variants=({"nesterov": True, "eps": 1e-8, "b2": 0.9},),
    ),
    Case(yogi, optax=optax.yogi, variants=({"b1": 0.5, "b2": 0.9, "eps": 1e-5},)),
    Case(
        adan,
        goldens=(
            Golden(
                "adan",
                lambda h: adan(h["lr"], **betas(h), eps_root=0.0, weight_decay=h["weight_decay"], proximal=True),
            ),
            Golden(
                "adan_noprox_clip",
                lambda h: chain(
                    clip_by_norm(h["max_grad_norm"]),
                    adan(h["lr"], **betas(h), eps_root=0.0, weight_decay=h["weight_decay"]),
                ),
            ),
        ),
    ),
    Case(
        novograd,
        optax=by_layers(optax.novograd),
        variants=({"b2": 0.9, "weight_decay": 0.1, "eps_root": 1e-3},),
    ),
    Case(
        sm3,
        learning_rate=1.0,
        hyperparameters={"b2": 0.99},
        optax=by_layers(optax_sm3),
        variants=({"momentum": 0.5},),
        goldens=(
            Golden(
                "sm3_mean",
                lambda h: sm3(h["lr"], momentum=h["beta1"], b2=h["beta2"], eps=h["diagonal_epsilon"]),
            ),
        ),
    ),
    Case(
        polyak_sgd,
        learning_rate=1.0,
        signed=("f_min",),
        optax=optax_polyak_sgd,
        variants=({"max_learning_rate": 0.1, "variant": "sps+"}, {"f_min": 1.0, "eps": 1.0}),
        extra=lambda loss, params, t: {"value": loss(params)},
    ),
    Case(
        asgd,
        learning_rate=0.015,
        goldens=(
            Golden(
                "torch_asgd",
                lambda h: asgd(h["lr"], lambd=h["lambd"], alpha=h["alpha"], t0=h["t0"]),
                also={"ax/": lambda state, params: state.average},
            ),
        ),
    ),
)
