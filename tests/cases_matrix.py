"""Rows of the optimizers that work on whole matrices, see :mod:`tests.cases`."""

from __future__ import annotations

import ast
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_mini import (
    ParamLayout,
    adamuon,
    adamw,
    apollo,
    aurora,
    dion,
    dion2,
    galore,
    hyperball,
    inject_hyperparams,
    kl_soap,
    kron,
    ldadam,
    muon,
    muown,
    normuon,
    polargrad,
    psgd,
    scion,
    shampoo,
    soap,
    soap_muon,
    splus,
)
from jaxopt_mini.layout import ROLES
from jaxopt_mini.tree import path_name
from tests.harness import PROBLEM_LAYOUT, Case, Golden


def official_muon(h, **keywords):
    """Keller Jordan's and torch's Muon: a constant mixture, no bias correction."""
    given = {"beta": h["momentum"], "weight_decay": h["weight_decay"], "debias": False, "eps": 1e-7}
    return muon(h["lr"], **given, **keywords)


def official_adam(h):
    """The AdamW that the official Muon uses for the other parameters."""
    b1, b2 = h["betas"]
    return adamw(h["lr"], b1=b1, b2=b2, eps=h["eps"], weight_decay=h["weight_decay"])


def official_pair(h):
    """Muon and its auxiliary Adam."""
    return official_muon(h["muon"], rest=official_adam(h["adam"]), layout=PROBLEM_LAYOUT)


DION_SHAPES = {"spectral_norm": {"shape": "spectral"}, "rms_norm": {"consistent_rms": 0.2}, None: {"shape": "none"}}


def dion_arguments(h):
    """What the optimizers of microsoft/dion have in common."""
    return {
        "ns_coeffs": "dion2",
        "eps": h.get("epsilon", 1e-8) / 1.02,
        "weight_decay": h.get("weight_decay", 0.01),
        **DION_SHAPES[h.get("adjust_lr", "spectral_norm")],
    }


def dion_muon(h):
    """The Muon of microsoft/dion."""
    decay = {"decay": "cautious" if h.get("cautious_wd") else "plain", "nesterov": h.get("nesterov", False)}
    return muon(h["lr"], beta=h["mu"], debias=False, **decay, **dion_arguments(h))


def dion_normuon(h):
    """The NorMuon of microsoft/dion."""
    decay = {"decay": "cautious" if h.get("cautious_wd") else "plain", "nesterov": h.get("nesterov", False)}
    return normuon(h["lr"], beta=h["mu"], b2=h["muon_beta2"], **decay, **dion_arguments(h))


def muoneq(h):
    """The official MuonEq, whose momentum is a sum: its eps is larger for an average."""
    side = {"row": "outputs", "col": "inputs", "rowcol": "both"}[h.get("normalize_mode", "row")]
    return muon(
        h["lr"],
        beta=h["momentum"],
        ns_steps=h.get("ns_steps", 5),
        nesterov=h.get("nesterov", True),
        eps=1e-7,
        debias=False,
        normalize=side,
        normalize_power=-h.get("rowcol_scale_exponent", -0.5),
        normalize_eps=h.get("rowcol_eps", 1e-8) * (1 - h["momentum"]) ** 2,
        normalize_steps=h.get("phase") if side == "both" else None,
        weight_decay=h["wd"],
        consistent_rms=0.2,
    )


def muon_plus(h):
    """The official Muon+."""
    order = {"none": None, "row": "outputs", "col": "inputs", "row_col": "outputs_inputs", "col_row": "inputs_outputs"}
    return muon(
        h["lr"],
        "jiacheng" if h.get("polar_method") == "Jiacheng" else "standard",
        h.get("ns_steps", 5),
        h["momentum"],
        nesterov=h.get("nesterov", True),
        eps=1e-7,
        debias=False,
        normalize_after=order[h.get("norm_mode", "none")],
        weight_decay=h["weight_decay"],
        shape="spectral" if h.get("rms_scaling", True) else "none",
    )


def contra_muon(h):
    """Muon of modded-nanogpt with a floor, against the momentum."""
    how = {"ns_coeffs": "convergent", "ns_steps": 12, "longer": True, "min_ratio": h["TARGET_UW"]}
    return normuon(h["lr"], beta=h["mu"], b2=0.95, contra=h["CONTRA_MUON"] or None, **how)


def muon_with_row_floor(h):
    """Muon of modded-nanogpt with a row floor, in a role without SOAP, whose constants have no effect."""
    return muon(
        h["lr"],
        "convergent",
        12,
        h["mu"],
        eps=1e-14,
        debias=False,
        preconditioning="schatten",
        min_ratio=h["SOAP_TARGET_UW"],
        min_ratio_of="outputs" if h["ROWFLOOR"] else "matrix",
        min_ratio_power=h["ROWFLOOR_RHO"] if h["ROWFLOOR"] else 1.0,
        radial=(h["RADIAL_OUTWARD_SCALE"], h["RADIAL_INWARD_SCALE"]),
        weight_decay=h["CWD"],
        decay="cautious_late",
    )


def nanochat_muon(h):
    """Muon of nanochat, with its AdamW for other leaves."""
    given, adam = h["muon"], h.get("adam")
    layout = None
    if adam:
        layout = {leaf: PROBLEM_LAYOUT.get(leaf) for leaf in (*given["leaves"], *adam["leaves"])}
    return normuon(
        given["lr"],
        beta=given["momentum"],
        b2=given["beta2"],
        ns_coeffs="nanochat",
        ns_steps=given["ns_steps"],
        eps=1e-6 / 1.01,
        normalize="outputs",
        normalize_after="frobenius",
        longer=True,
        weight_decay=given["weight_decay"],
        decay="cautious_by_shape",
        rest=official_adam(adam) if adam else None,
        layout=layout,
    )


def normuonh(h):
    """NorMuon of modded-nanogpt on the ball."""
    how = {"ns_coeffs": "convergent", "ns_steps": 12, "longer": True, "min_square": h["eps"]}
    return hyperball(normuon(1.0, beta=h["mu"], b2=h["beta2"], **how), learning_rate=h["lr"], roles=ROLES)


def moonlight_muon(h):
    """Muon and AdamW of Moonlight, with one learning rate and one decay."""
    b1, b2 = h["adamw_betas"]
    eps = lambda t: h["adamw_eps"] / jnp.sqrt(1 - b2 ** (t + 1).astype(jnp.float32))
    rest = inject_hyperparams(adamw)(h["lr"], b1=b1, b2=b2, eps=eps, weight_decay=h["wd"])
    return muon(
        h["lr"],
        beta=h["momentum"],
        ns_steps=h.get("ns_steps", 5),
        nesterov=h.get("nesterov", True),
        eps=1e-7,
        debias=False,
        consistent_rms=0.2,
        weight_decay=h["wd"],
        rest=rest,
        layout={leaf: PROBLEM_LAYOUT[leaf] for leaf in (*h["muon_leaves"], *h["adamw_leaves"])},
    )


def official_adamuon(h):
    """The official AdaMuon."""
    how = {name: h[name] for name in ("nesterov", "ns_steps") if name in h}
    return adamuon(h["lr"], beta=h["momentum"], eps=h.get("eps", 1e-8), weight_decay=h["weight_decay"], **how)


def muon_squared(h):
    """Muon^2 of modded-nanogpt."""
    how = {"moment": "before", "sign": False, "consistent_rms": None, "ns_coeffs": "convergent", "ns_steps": 12}
    return adamuon(h["lr"], beta=h["mu"], b2=h["beta2"], eps=h["eps"], weight_decay=h["weight_decay"], **how)


def official_polargrad(h):
    """The official PolarGrad, whose third coefficient has a digit less."""
    return polargrad(
        h["lr"],
        beta=h["momentum"],
        weight_decay=h.get("weight_decay", 0.0),
        polar={"qdwh": "qdwh", "ns": "newton_schulz"}[h.get("method", "qdwh")],
        ns_steps=h.get("inner_steps", 2),
        polar_first=h.get("polar_first", False),
        ns_coeffs=(3.4445, -4.7750, 2.031),
    )


def official_aurora(h):
    """The official Aurora."""
    how = {"iterations": h.get("pp_iterations", 2), "power": h.get("pp_beta", 0.5), "nesterov": h.get("nesterov", True)}
    return aurora(h["eta"], beta=h["mu"], weight_decay=h["weight_decay"], **how)


def riemannian_aurora(h):
    """The official Riemannian Aurora."""
    how = {"riemannian_steps": h.get("outer_steps", 3), "riemannian_step_size": h.get("riemannian_eta", 0.1)}
    how |= {name: h[name] for name in ("nesterov", "cg_steps", "retraction_steps") if name in h}
    return aurora(h.get("eta", 0.05), beta=h.get("mu", 0.95), weight_decay=h.get("weight_decay", 0.025), **how)


def official_muown(h):
    """The official Muown and NorMuown."""
    b1, b2 = h["betas"]
    normalizes = h.get("use_normuon", False)
    return muown(
        h["lr"],
        beta=h["momentum"],
        nesterov=h.get("nesterov", True),
        b1=b1,
        b2=b2,
        eps=h.get("adam_eps", 1e-8),
        neuron_b2=h.get("normuon_beta2", 0.95) if normalizes else None,
        by_longest=not normalizes or h.get("shape_scaling_type") == "muon",
        ns_steps=h.get("ns_steps", 5),
        weight_decay=h["weight_decay"],
    )


def official_dion2(h):
    """The official Dion2 and Dion3, which select from the outputs."""
    third = "muon_beta2" in h
    how = {"b2": h.get("muon_beta2"), "select": "outputs" if third else "shorter"}
    return dion2(h["lr"], fraction=h["fraction"], beta=h["mu" if third else "ef_decay"], **how, **dion_arguments(h))


def official_normuon(h, **keywords):
    """The official NorMuon."""
    given = {"beta": h["momentum"], "b2": h["beta2"], "weight_decay": h["weight_decay"]}
    return normuon(h["lr"], **given, **keywords)


def official_soap(h):
    """The official SOAP."""
    b1, b2 = h["betas"]
    how = {name: h[name] for name in ("precondition_frequency", "max_precond_dim") if name in h}
    return soap(h["lr"], b1=b1, b2=b2, weight_decay=h["weight_decay"], **how)


def has_bases(node):
    """Whether a part of a state is that of a rule with eigenbases."""
    return hasattr(node, "bases")


def from_recorded_bases(build):
    """The same, with the recorded bases in place of those that it finds in its first step."""

    def replaced(node, recorded):
        if not has_bases(node):
            return node
        bases = jax.tree.map(lambda q, ours: jnp.where(node.count == 1, q, ours), recorded, node.bases)
        return node._replace(bases=bases)

    def with_bases(h):
        tx = build(h)

        def update(updates, state, params):
            inner, recorded = state
            updates, inner = tx.update(updates, inner, params)
            return updates, (jax.tree.map(lambda node: replaced(node, recorded), inner, is_leaf=has_bases), recorded)

        return optax.GradientTransformation(lambda params: (tx.init(params), None), update)

    return with_bases


def recorded_bases(state, arrays):
    """For each matrix its two recorded bases."""
    inner, _ = state
    (node,) = (node for node in jax.tree.leaves(inner, is_leaf=has_bases) if has_bases(node))

    def one(side, path, q):
        return jnp.asarray(arrays[f"Q0/{path_name(path)}/{side}"]) if q.ndim else q

    return inner, tuple(jax.tree.map_with_path(partial(one, side), bases) for side, bases in enumerate(node.bases))


def meta_soap(h):
    """SOAP of Meta's Distributed Shampoo."""
    b1, b2 = h["betas"]
    how = {"skip_first": False, "refresh": "eigh", "debias": "moments", "late_decay": False}
    return soap(
        h["lr"],
        b1=b1,
        b2=b2,
        eps=h["epsilon"],
        precondition_frequency=h.get("precondition_frequency", 1),
        max_precond_dim=h.get("max_preconditioner_dim", 1024),
        weight_decay=h.get("weight_decay", 0.0),
        **how,
    )


def soaph(h):
    """SOAP-H of modded-nanogpt."""
    how = {"skip_first": False, "refresh": "qr", "debias": None, "weight_decay": 0.0}
    how |= {"b1": h["momentum"], "b2": h["ema_beta"], "eps": h["eps"], "precondition_frequency": h["q_freq"]}
    return hyperball(soap(1.0, **how), learning_rate=h["lr"], roles=ROLES)


def nvidia_kl_soap(h, **keywords):
    """KL-SOAP of NVIDIA's Emerging-Optimizers."""
    b1, b2 = h.get("betas", (0.9, 0.95))
    how = {name: h[name] for name in ("shampoo_beta", "eps", "weight_decay") if name in h}
    return kl_soap(h["lr"], b1=b1, b2=b2, eigenvalues="factors", **{"shampoo_beta": 0.95} | how | keywords)


def klsoaph(h):
    """KL-SOAP-H of modded-nanogpt."""
    how = {name: h[name] for name in ("shampoo_beta", "eps", "precondition_frequency")}
    inner = kl_soap(1.0, b1=h["beta1"], b2=h["beta2"], debias=False, weight_decay=0.0, **how)
    return hyperball(inner, learning_rate=h["lr"], roles=ROLES)


def official_soap_muon(h):
    """SOAP-Muon of modded-nanogpt: record 46 by the role of its leaves, or record 44 in three roles."""
    role = {"square/kernel": "attn.proj"} if "TARGET_UW" in h else {}
    gates = {"gate_floor": h.get("ATTN_EARLY_TRUST_FLOOR", 0.45), "gate_cap": h.get("ATTN_EARLY_TRUST_CAP", 0.85)}
    return soap_muon(
        h["lr"],
        beta=h["mu"],
        b2=h["SOAP_BETA2"],
        power=h.get("SOAP_DENOM_POWER", 0.5),
        precondition_frequency=h["SOAP_PRECONDITION_FREQUENCY"],
        gated=lambda params: {leaf: role.get(leaf, h.get("role")) == "attn.proj" for leaf in params},
        min_agreement=h.get("ATTN_TRUST_MIN_AGREE", 0.2),
        min_ratio=h.get("TARGET_UW", h.get("SOAP_TARGET_UW")),
        min_ratio_of="outputs" if h.get("ROWFLOOR") else "matrix",
        min_ratio_power=h.get("ROWFLOOR_RHO", 1.0) if h.get("ROWFLOOR") else 1.0,
        radial=(h["RADIAL_OUTWARD_SCALE"], h["RADIAL_INWARD_SCALE"]),
        weight_decay=h.get("CWD", 0.0),
        **gates,
    )


def official_scion(h):
    """The official Scion, which takes a norm per group, where ours takes it from the role."""
    roles = {"Spectral": "matrix", "Sign": "head", "ColNorm": "embedding", "BiasRMS": "vector"}
    by_leaf = {leaf: roles[norm] for norm, group in h["groups"].items() for leaf in group["leaves"]}
    radius = {roles[norm]: float(group["scale"]) for norm, group in h["groups"].items()}
    axes = {"matrix": ((0,), (1,)), "head": ((0,), (1,)), "embedding": ((0,), (1,)), "vector": ((), (0,))}

    def layout(params):
        return {leaf: ParamLayout(by_leaf[leaf], (), *axes[by_leaf[leaf]]) for leaf in params}

    return scion(
        h["lr"],
        beta=1 - h["momentum"],
        constrained=not h["unconstrained"],
        radius=radius["matrix"],
        head_radius=radius["head"],
        embedding_radius=radius.get("embedding", 1.0),
        vector_radius=radius["vector"],
        layout=layout,
    )


def official_dion(h):
    """The official Dion."""
    return dion(h["lr"], beta=h["mu"], rank=h["rank"], weight_decay=h["weight_decay"])


def recorded_first_basis(state, arrays):
    """Dion's state with the recorded start of its power iteration."""
    matrices, rest = state.inner_states["matrices"], state.inner_states["rest"]
    inner, *others = matrices.inner_state
    inner = inner._replace(basis={leaf: jnp.asarray(arrays[f"Q0/{leaf}"]) for leaf in inner.basis})
    return state._replace(inner_states={"matrices": matrices._replace(inner_state=(inner, *others)), "rest": rest})


def adam_with_eps_before_the_corrections(b1, b2, eps):
    """The inner Adam of the official GaLore, which is that of older transformers."""

    def update(updates, state, params=None):
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda g, m: (1 - b1) * g + b1 * m, updates, state.mu)
        nu = jax.tree.map(lambda g, v: (1 - b2) * g**2 + b2 * v, updates, state.nu)
        size = jnp.sqrt(1 - b2 ** count.astype(jnp.float32)) / (1 - b1 ** count.astype(jnp.float32))
        step = jax.tree.map(lambda m, v: size * m / (jnp.sqrt(v) + eps), mu, nu)
        return step, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


def official_galore(h):
    """The official GaLore, with the recorded projections in place of those that it finds."""
    b1, b2 = h["betas"]
    keywords = {"rank": h["rank"], "scale": h["scale"], "weight_decay": h["weight_decay"]}
    inner = adam_with_eps_before_the_corrections(b1, b2, h["eps"])
    tx = galore(h["lr"], base_optimizer=inner, update_proj_gap=10**6, smaller_side=True, late_decay=True, **keywords)

    def update(updates, state, params):
        (first, *others), recorded, t = state
        given = {leaf: array[t // h["update_proj_gap"]] for leaf, array in recorded.items()}
        first = first._replace(count=jnp.int32(1), projector=first.projector | given)  # never due
        updates, inner = tx.update(updates, (first, *others), params)
        return updates, (inner, recorded, t + 1)

    return optax.GradientTransformation(lambda params: (tx.init(params), None, jnp.int32(0)), update)


def recorded_projections(state, arrays):
    """GaLore's state with the recorded projections beside it."""
    inner, _, t = state
    recorded = {name.removeprefix("projection/"): jnp.asarray(a) for name, a in arrays.items() if "projection/" in name}
    return inner, recorded, t


def official_shampoo(h):
    """The official Shampoo on one device, whose defaults are those of its constructor."""
    b1, b2 = h.get("betas", (0.9, 1.0))
    config = dict(h.get("grafting_config", {}))
    name = config.pop("class", None) or next(iter(config), None)  # the class as an entry, or as the key of its own
    numbers = config.get(name, config)
    largest = h.get("max_preconditioner_dim", 1024)
    config = h.get("preconditioner_config", {})
    inner = config if isinstance(config, dict) else {}
    override = h.get("inverse_exponent_override", inner.get("inverse_exponent_override"))
    pinv = re.search(r"rank_rtol=([^)]+)", h.get("rank_deficient_stability_config", ""))
    return shampoo(
        h["lr"],
        b1=b1,
        b2=numbers.get("beta2", 0.999),
        eps=numbers.get("epsilon", 1e-8),
        shampoo_beta=b2,
        ridge=float(pinv[1]) if pinv else 0.0,
        pseudo_inverse=bool(pinv),
        root_eps=h.get("epsilon", 1e-12),
        exponent=official_exponent(override),
        graft=name.removesuffix("PreconditionerConfig").lower() if name else False,
        kl="KLShampoo" in str(config),
        precondition_frequency=h.get("precondition_frequency", 1),
        start_preconditioning_step=h.get("start_preconditioning_step"),
        block_size=largest,
        merge_size=largest if h.get("target_parameter_dimensionality", 1) == 1 else 0,
        precondition_vectors=True,
        weight_decay=h.get("weight_decay", 0.0),
    )


def official_exponent(override):
    """The exponents of a matrix, by torch's axes: outputs, inputs."""
    if override is None:
        return None
    override = ast.literal_eval(override) if isinstance(override, str) else override
    power = {int(order): power for order, power in override.items()}.get(2)
    return (power[1], power[0]) if isinstance(power, dict) else power


EIGENVALUES = {
    "slow": True,
    "tolerance": 1e-4,
    "reason": "the reference's own eigendecomposition in float32 moves it by up to 9e-5 when the gradients are rounded",
}


def official_splus(h):
    """The official SPlus."""
    numbers = {name: h[name] for name in ("b1", "b2", "inverse_every", "weight_decay", "max_dim", "eps") if name in h}
    return splus(h["lr"], ema_decay=h["ema_rate"], other_scale=h["nonstandard_constant"], **numbers)


def official_apollo(h):
    """The official APOLLO or Fira, with the recorded projections."""
    b1, b2 = h["betas"]
    fira, gap = "alpha" in h, h["update_proj_gap"]
    tx = apollo(
        h["lr"],
        rank=h["rank"],
        b1=b1,
        b2=b2,
        eps=h.get("eps", 1e-6),
        weight_decay=h.get("weight_decay", 0.0),
        scale=float(h["alpha"] if fira else h["scale"]),
        granularity=h.get("scale_type", "channel"),
        residual=fira,
        scale_first=h.get("scale_front", False),
        growth_limit=None if h.get("disable_nl", False) else 1.01,
    )
    recorded = {n.removeprefix("projection/"): jnp.asarray(a) for n, a in h["arrays"].items() if "projection/" in n}

    def update(updates, state, params):
        inner, t = state
        updates, inner = tx.update(updates, inner, params, projector={n: a[t // gap] for n, a in recorded.items()})
        return updates, (inner, t + 1)

    return optax.GradientTransformation(lambda params: (tx.init(params), jnp.int32(0)), update)


def official_ldadam(h):
    """The official LDAdam, which projects the outputs of a square matrix."""
    b1, b2 = h.get("betas", (0.908, 0.99))
    sides = {"std": "shorter", "reverse_std": "longer", "left": "outputs", "right": "inputs"}
    return ldadam(
        h["lr"],
        rank=h.get("rank", 16),
        b1=b1,
        b2=b2,
        eps=h.get("eps", 1e-8),
        rho=h.get("rho", 0.908),
        side=sides[h.get("proj_type", "std")],
        projection=h.get("proj_method", "power_iteration"),
        error_feedback=h.get("error_feedback", True),
        weight_decay=h.get("weight_decay", 0.0),
    )


DIAGONALS = {None: "long", "smart_one_diag": "longer", "one_diag": "longest", "all_diag": "all"}


def official_kron(h, **keywords):
    """kron_torch, which decays matrices only and applies what it has damped."""
    given = {
        "b1": h.get("b1", 0.9),
        "precond_lr": h.get("precond_lr", 0.1),
        "probability": h["preconditioner_update_probability"],
        "fit_gradient": not h.get("momentum_into_precond_update", True),
        "damped_step": h.get("momentum_into_precond_update", True),
        "init_scale": h.get("precond_init_scale", h.get("preconditioner_init_scale", 1.0)),
        "max_size_triangular": h.get("max_size_triangular", 8192),
        "diagonal": DIAGONALS[h.get("memory_save_mode")],
        "weight_decay": h.get("weight_decay", 0.0),
        "weight_decay_mask": lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    }
    return kron(h["lr"], **given | keywords)


def official_kron_jax(h):
    """psgd_jax, which decays every leaf and applies the momentum that isn't damped."""
    return official_kron(h | {"lr": h["learning_rate"]}, damped_step=False, weight_decay_mask=None)


def official_psgd_h(h):
    """PSGD on the hyperball."""
    how = {"init_scale": None, "max_rms": math.inf, "relative_damping": 0.0, "damping": 0.0}
    inner = kron(1.0, b1=h["beta1"], precond_lr=h["precond_lr"], probability=1.0, **how)
    return hyperball(inner, learning_rate=h["lr"], roles=ROLES)


def official_psgd(h):
    """The author's KronWhiten."""
    largest, entry = h.get("grad_clip_max_amps", (2.0, 10.0))
    return psgd(
        h["lr_params"],
        beta=h.get("momentum", 0.0),
        precond_lr=h.get("lr_preconditioner", 0.1),
        fit=h.get("dQ", "Q0.5EQ1.5"),
        fit_gradient=h.get("whiten_grad", True),
        bound_decay=h.get("betaL", 0.9),
        damping=h.get("damping", 1e-9),
        max_rms=largest,
        max_entry=entry,
        init_scale=h.get("preconditioner_init_scale"),
        max_size=h.get("preconditioner_max_size", 10**9),
        max_skew=float(h.get("preconditioner_max_skew", 1.0)),
    )


def recorded_norms(arrays, problem):
    """The probes, and the norms that the reference estimated by random vectors."""
    probe = recorded_probes(arrays, problem)["probe"]

    def norms(axis):
        def one(leaf):
            unknown = np.full(len(probe[leaf]), np.nan, np.float32)
            rows = [arrays.get(f"{kind}/{leaf}/{axis[leaf]}", unknown) for kind in ("norm", "rotation_norm")]
            return np.stack(rows, 1)

        return {leaf: one(leaf) for leaf in probe}

    outputs = {leaf: probe[leaf].ndim - 2 for leaf in probe}
    return {"probe": probe, "norms": (norms(dict.fromkeys(probe, 0)), norms(outputs))}


def recorded_probes(arrays, problem):
    """The random matrices that the factors were fitted with."""
    del problem
    return {"probe": {name.removeprefix("V/"): array for name, array in arrays.items() if name.startswith("V/")}}


ROWS = (
    Case(
        muon,
        hyperparameters={"consistent_rms": 0.2, "adam_learning_rate": 0.1},
        settings=(
            {"min_ratio": 0.5, "min_ratio_of": "outputs"},
            {"radial": (0.5, 1.0)},
            {"contra": 0.4},
            {"normalize": "outputs_inputs", "normalize_steps": 1},
        ),
        goldens=(
            Golden("muon_f32", official_muon),
            Golden("muon_wd_f32", official_muon),
            Golden("muon_aux_adam_f32", official_pair),
            Golden("torch_muon_f32", official_muon),
            Golden("torch_muon_rms_f32", lambda h: official_muon(h, consistent_rms=0.2)),
            Golden("torch_muon_plain_f32", lambda h: official_muon(h, nesterov=False)),
            Golden("moonlight_muon_f32", moonlight_muon, slow=True),
            Golden("muon_cautious_wd_f32", dion_muon),
            Golden("muoneq_row_f32", muoneq, slow=True),
            Golden("muoneq_col_f32", muoneq, slow=True),
            Golden("muoneq_rowcol_f32", muoneq, slow=True),
            Golden("muon_plus_row_f32", muon_plus, slow=True),
            Golden("muon_plus_row_col_f32", muon_plus, slow=True),
            Golden("muon_plus_col_row_f32", muon_plus, slow=True),
            Golden("muon_rowfloor_cwd_f32", muon_with_row_floor, slow=True),
        ),
    ),
    Case(
        normuon,
        hyperparameters={"adam_learning_rate": 0.1},
        settings=({"min_ratio": 0.5}, {"contra": 0.4}, {"consistent_rms": 0.2}),
        goldens=(
            Golden("normuon_f32", official_normuon),
            Golden(
                "normuon_aux_adam_f32",
                lambda h: official_normuon(h["muon"], rest=official_adam(h["adam"]), layout=PROBLEM_LAYOUT),
            ),
            Golden("normuon_cautious_wd_f32", dion_normuon, slow=True),
            Golden("normuon_uw_floor_f32", contra_muon, slow=True),
            Golden("contra_muon_f32", contra_muon, slow=True),
            Golden("nanochat_muon_f32", nanochat_muon, slow=True),
            Golden("nanochat_muon_adamw_f32", nanochat_muon, slow=True),
            Golden("normuonh_f32", normuonh, slow=True),
        ),
    ),
    Case(
        adamuon,
        slow=True,
        hyperparameters={"b2": 0.9, "adam_learning_rate": 0.1},
        goldens=(Golden("adamuon_f32", official_adamuon), Golden("muon2_f32", muon_squared, slow=True)),
    ),
    Case(
        polargrad,
        slow=True,
        learning_rate=0.03,
        hyperparameters={"adam_learning_rate": 0.1},
        goldens=(
            Golden("polargrad", official_polargrad),
            Golden("polargrad_first", official_polargrad, slow=True),
            Golden("polargrad_qdwh2", official_polargrad, slow=True),
            Golden("polargrad_ns_f32", official_polargrad, slow=True),
        ),
    ),
    Case(
        aurora,
        slow=True,
        hyperparameters={"adam_learning_rate": 0.1},
        settings=({"riemannian_steps": 1},),
        goldens=(
            Golden("aurora_f32", official_aurora),
            Golden(
                "riemannian_aurora_f32",
                riemannian_aurora,
                tolerance=5e-5,
                reason="rounding the gradients alone moves the reference by 2.2e-5: each ascent solves a linear system",
                slow=True,
            ),
        ),
    ),
    Case(
        muown,
        slow=True,
        hyperparameters={"neuron_b2": 0.9, "adam_learning_rate": 0.1},
        goldens=(
            Golden("muown_wd_f32", official_muown),
            Golden("muown_f32", official_muown, slow=True),
            Golden("normuown_f32", official_muown, slow=True),
        ),
    ),
    Case(
        dion2,
        slow=True,
        hyperparameters={"b2": 0.9, "adam_learning_rate": 0.1},
        settings=({"consistent_rms": 0.2},),
        goldens=(Golden("dion3_f32", official_dion2), Golden("dion2_f32", official_dion2, slow=True)),
    ),
    Case(
        soap,
        hyperparameters={"shampoo_beta": 0.9},
        goldens=(
            Golden("soap_freq1", from_recorded_bases(official_soap), start=recorded_bases),
            Golden("soap_freq10", from_recorded_bases(official_soap), start=recorded_bases),
            Golden("soap_square_freq1", official_soap),
            Golden(
                "soap_square_freq10",
                official_soap,
                tolerance=3e-5,
                reason="rounding the gradients alone moves the reference by 1.4e-5: eigenvalues lie close together",
            ),
            Golden(
                "soap_one_sided",
                official_soap,
                tolerance=2e-5,
                reason="rounding the gradients alone moves the reference by 4e-6, and each LAPACK rounds otherwise",
            ),
            Golden("soap_identity", official_soap),
            Golden("soap_meta_square", meta_soap, **EIGENVALUES),
            Golden("soaph_square", soaph, **EIGENVALUES),
        ),
    ),
    Case(
        scion,
        learning_rate=0.01,
        goldens=(
            Golden("scion_unconstrained_f32", official_scion),
            Golden("scion_constrained_f32", official_scion),
        ),
    ),
    Case(
        dion,
        hyperparameters={"adam_learning_rate": 0.1},
        signed=("seed",),
        goldens=(
            Golden("dion_rank4", official_dion, start=recorded_first_basis),
            Golden("dion_full", official_dion, start=recorded_first_basis),
        ),
    ),
    Case(
        shampoo,
        keywords={"precondition_frequency": 1},
        hyperparameters={"shampoo_beta": 0.9},
        settings=({"block_size": 2}, {"merge_size": 12}, {"graft": "sgd"}),
        goldens=(
            Golden("shampoo_adam_freq", official_shampoo),
            Golden("shampoo_one_sided_pinv", official_shampoo, slow=True),
            *(
                Golden(name, official_shampoo, **EIGENVALUES)
                for name in (
                    "shampoo",
                    "shampoo_adagrad",
                    "shampoo_adam",
                    "shampoo_blocked",
                    "shampoo_ema",
                    "shampoo_merged",
                    "shampoo_sgd_freq",
                    "shampoo_sum",
                    "shampoo_vectors",
                    "kl_shampoo",
                    "kl_shampoo_fourth_root",
                )
            ),
        ),
    ),
    Case(
        soap_muon,
        slow=True,
        keywords={"ns_steps": 5},  # twelve steps amplify the rounding of small singular values
        hyperparameters={"min_ratio": 0.3, "adam_learning_rate": 0.1},
        goldens=(
            Golden("soap_muon_square_f32", official_soap_muon, **EIGENVALUES | {"slow": False}),
            Golden("soap_muon_f32", from_recorded_bases(official_soap_muon), start=recorded_bases, **EIGENVALUES),
        ),
    ),
    Case(
        kl_soap,
        slow=True,
        hyperparameters={"shampoo_beta": 0.9},
        goldens=(
            Golden("klsoaph_square", klsoaph, **EIGENVALUES),
            Golden("klsoap_h", from_recorded_bases(klsoaph), start=recorded_bases, **EIGENVALUES),
            Golden("kl_soap_square", nvidia_kl_soap, **EIGENVALUES | {"slow": False}),
            Golden("rekls_square", lambda h: nvidia_kl_soap(h, refresh="eigh"), **EIGENVALUES),
        ),
    ),
    Case(
        splus,
        slow=True,
        keywords={"inverse_every": 1},
        goldens=(
            Golden("splus_square", official_splus, also={"ema/": lambda state, params: state.average}),
            Golden("splus_one_sided", official_splus, also={"ema/": lambda state, params: state.average}, slow=True),
        ),
    ),
    Case(
        kron,
        hyperparameters={"probability": 1.0},
        signed=("seed",),
        goldens=(
            Golden("kron_jax", official_kron_jax, extra=recorded_probes),
            Golden("kron_torch", official_kron, extra=recorded_probes, slow=True),
            Golden("kron_torch_grad", official_kron, extra=recorded_probes, slow=True),
            Golden("psgd_h", official_psgd_h, extra=recorded_probes, slow=True),
        ),
    ),
    Case(
        psgd,
        slow=True,
        learning_rate=0.03,
        keywords={"beta": 0.5, "init_scale": 1.0},
        signed=("seed",),
        settings=({"max_size": 3},),
        goldens=(
            Golden("psgd_kron", official_psgd, extra=recorded_norms),
            Golden("psgd_kron_eq", official_psgd, extra=recorded_norms, slow=True),
        ),
    ),
    Case(
        galore,
        keywords={"rank": 2, "update_proj_gap": 5},
        goldens=(Golden("galore_adamw", official_galore, start=recorded_projections),),
    ),
    Case(
        apollo,
        slow=True,
        keywords={"rank": 2, "update_proj_gap": 5},
        signed=("seed",),
        goldens=(Golden("apollo", official_apollo), Golden("fira", official_apollo, slow=True)),
    ),
    Case(
        ldadam,
        slow=True,
        keywords={"rank": 2},
        goldens=(Golden("ldadam", official_ldadam),),
    ),
)
