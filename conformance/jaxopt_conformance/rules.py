"""The recorded rules in NumPy, each with the conventions on which implementations part.

A rule maps (step t from 1, parameter, gradient, memory of the parameter) to the new parameter. Its keywords are
hyperparameters and conventions; the default of a convention is that of most authors. Every rule reproduces its
recordings; a changed convention that reproduces another trajectory explains it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxopt_conformance.recordings import Hyperparameters, Tree

Memory = dict[str, Any]


def average(memory: Memory, name: str, value: Any, decay: float) -> Any:
    """Update an exponential moving average that starts at 0."""
    memory[name] = decay * memory.get(name, 0.0) + (1 - decay) * value
    return memory[name]


def decayed(p, g, lr, weight_decay, decay):
    """The parameter and the gradient after weight decay that comes before the step."""
    if decay == "coupled":
        return p, g + weight_decay * p
    if decay == "decoupled":
        return p * (1 - lr * weight_decay), g
    return p, g


def decayed_late(p, lr, weight_decay, decay):
    """The parameter after weight decay that comes after the step."""
    factors = {"late": 1 - lr * weight_decay, "unscaled": 1 - weight_decay, "proximal": 1 / (1 + lr * weight_decay)}
    return p * factors.get(decay, 1.0)


def sgd(
    t, p, g, s, *, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, decay="coupled", damp_first=False
):
    """SGD with momentum."""
    p, g = decayed(p, g, lr, weight_decay, decay)
    if momentum:
        first = g if not damp_first else (1 - dampening) * g
        s["m"] = first if t == 1 else momentum * s["m"] + (1 - dampening) * g
        g = g + momentum * s["m"] if nesterov else s["m"]
    return decayed_late(p - lr * g, lr, weight_decay, decay)


def signum(t, p, g, s, *, lr, momentum, dampening=0.0, weight_decay=0.0, start="parameters"):
    """Signum of the EPFL benchmark."""
    p = p * (1 - lr * weight_decay)
    s["m"] = momentum * s.get("m", p if start == "parameters" else 0.0) + (1 - dampening) * g
    return p - lr * np.sign(s["m"])


def adagrad(
    t, p, g, s, *, lr, eps=1e-10, lr_decay=0.0, weight_decay=0.0, start=0.0, decay="coupled", eps_place="outside"
):
    """AdaGrad."""
    p, g = decayed(p, g, lr, weight_decay, decay)
    s["v"] = s.get("v", start) + g * g
    return p - lr / (1 + (t - 1) * lr_decay) * g / root(s["v"], eps, eps_place)


def root(v, eps, place):
    """The denominator of an adaptive rule."""
    if place == "inside":
        # Optax's form gives 0 where the accumulator is 0.
        return np.sqrt(v + eps)
    return np.maximum(np.sqrt(v), eps) if place == "maximum" else np.sqrt(v) + eps


def rmsprop(
    t, p, g, s, *, lr, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0, centered=False,
    decay="coupled", eps_place="outside", debias=False, rate_in_momentum=False,
):  # fmt: skip
    """RMSprop."""
    p, g = decayed(p, g, lr, weight_decay, decay)
    correction = 1 - alpha**t if debias else 1.0
    v = average(s, "v", g * g, alpha) / correction
    if centered:
        v = v - (average(s, "mean", g, alpha) / correction) ** 2
    u = g / root(v, eps, eps_place)
    if momentum:
        s["m"] = momentum * s.get("m", 0.0) + u
        u = s["m"]
    return p - lr * u


def adam(
    t, p, g, s, *, lr, b1, b2, eps=1e-8, weight_decay=0.0, amsgrad=False,
    decay="decoupled", eps_place="after", correct="both", maximum="before", ahead=False,
    cautious=None, cautious_decay=None,
):  # fmt: skip
    """Adam, AdamW, AMSGrad, and the cautious forms."""
    old = p
    if cautious_decay is None:
        p, g = decayed(p, g, lr, weight_decay, decay)
    c1 = 1 - b1**t if correct in ("both", "first") else 1.0
    c2 = 1 - b2**t if correct in ("both", "second") else 1.0
    m, v = average(s, "m", g, b1) / c1, average(s, "v", g * g, b2)
    if ahead:
        m = b1 * s["m"] / (1 - b1 ** (t + 1)) + (1 - b1) * g / c1
    if amsgrad:
        v = v / c2 if maximum == "after" else v
        v = s["max"] = np.maximum(s.get("max", 0.0), v)
        v = v * c2 if maximum == "after" else v
    if eps_place == "before":
        denominator = (np.sqrt(v) + eps) / np.sqrt(c2)
    else:
        denominator = root(v / c2, eps, {"after": "outside"}.get(eps_place, eps_place))
    u = m / denominator
    if cautious:
        u = u * kept(m, g, cautious)
    if cautious_decay:
        p = p - lr * weight_decay * old * agreeing(u, old, cautious_decay)
    return decayed_late(p - lr * u, lr, weight_decay, decay)


def kept(m, g, how):
    """The mask of a cautious update with its scale."""
    mask = m * g > 0 if how != "signbit" else np.signbit(m) == np.signbit(g)
    scale = mask.size / (mask.sum() + 1) if how == "count" else 1 / max(mask.mean(), 1e-3)
    return mask * scale


def agreeing(u, p, how):
    """Where a cautious weight decay acts."""
    if how == "signbit":
        return np.signbit(u) == np.signbit(p)
    return u * p > 0 if how == "strict" else u * p >= 0


def nadam(
    t, p, g, s, *, lr, b1, b2, eps=1e-8, weight_decay=0.0, momentum_decay=4e-3,
    decay="coupled", schedule="dozat", growth=False,
):  # fmt: skip
    """NAdam with its momentum schedule."""
    old = p
    p, g = decayed(p, g, lr, weight_decay, decay)
    if schedule == "constant":
        now = later = b1
        product, following = 1 - (1 - b1**t), b1 ** (t + 1)
    else:
        slow = 1.0 if schedule == "fast" else momentum_decay
        now, later = (b1 * (1 - 0.5 * 0.96 ** (k * slow)) for k in (t, t + 1))
        product = s["product"] = s.get("product", 1.0) * now
        following = product * later
    m, v = average(s, "m", g, b1), average(s, "v", g * g, b2) / (1 - b2**t)
    u = later * m / (1 - following) + (1 - now) * g / (1 - product)
    return p - lr * (u / (np.sqrt(v) + eps) - (weight_decay * old if growth else 0.0))


def nadamw(t, p, g, s, *, lr, b1, b2, eps=1e-8, weight_decay=0.0, corrections="one"):
    """NAdamW of AlgoPerf."""
    p = p * (1 - lr * weight_decay)
    m, v = average(s, "m", g, b1), average(s, "v", g * g, b2) / (1 - b2**t)
    if corrections == "one":
        u = (b1 * m + (1 - b1) * g) / (1 - b1**t)
    else:
        u = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
    return p - lr * u / (np.sqrt(v) + eps)


def radam(
    t, p, g, s, *, lr, b1, b2, eps=1e-8, weight_decay=0.0, decay="coupled", eps_place="before", length_in=np.float64
):  # fmt: skip
    """RAdam."""
    p, g = decayed(p, g, lr, weight_decay, decay)
    m, v = average(s, "m", g, b1) / (1 - b1**t), average(s, "v", g * g, b2)
    c2, longest = 1 - b2**t, 2 / (1 - b2) - 1
    power = length_in(b2) ** length_in(t)
    length = float(length_in(longest) - length_in(2 * t) * power / (length_in(1) - power))
    if length <= 5:
        return p - lr * m
    top, bottom = (length - 4) * (length - 2) * longest, (longest - 4) * (longest - 2) * length
    denominator = (np.sqrt(v) + eps) / np.sqrt(c2) if eps_place == "before" else np.sqrt(v / c2) + eps
    return p - lr * np.sqrt(top / bottom) * m / denominator


def rprop(t, p, g, s, *, lr, eta_minus, eta_plus, smallest, largest, applied="new"):
    """Rprop without backtracking."""
    size, agreement = s.get("size", np.full_like(p, lr)), g * s.get("g", np.zeros_like(p))
    factor = np.where(agreement > 0, eta_plus, np.where(agreement < 0, eta_minus, 1.0))
    new = np.clip(size * factor, smallest, largest)
    g = np.where(agreement < 0, 0.0, g)
    s["size"], s["g"] = new, g
    if applied == "previous":
        before, s["step"] = s.get("step", 0.0), np.sign(g) * new
        return p - np.where(agreement < 0, 0.0, before)
    return p - np.sign(g) * new


def adafactor(
    t, p, g, s, *, lr, beta2_decay=-0.8, eps, d=1.0, weight_decay=0.0, decay="by lr", size_of="undecayed",
):  # fmt: skip
    """Adafactor of PyTorch."""
    smallest, least = 2.0**-23 if eps[0] is None else eps[0], eps[1]
    rate, keep = min(lr, t**-0.5), 1 - t**beta2_decay
    left = p * (1 - (lr if decay == "by lr" else rate) * weight_decay)
    scale = rate * max(least, np.sqrt(np.mean((left if size_of == "decayed" else p) ** 2)))
    if p.ndim < 2:
        v = average(s, "v", g * g, keep)
    else:
        row, column = (average(s, f"mean over {axis}", (g * g).mean(axis, keepdims=True), keep) for axis in (1, 0))
        v = row * column / max(row.mean(), smallest)
    u = g / np.sqrt(np.maximum(v, smallest**2))
    return left - scale * u / max(1.0, np.sqrt(np.mean(u * u)) / d)


def lamb(
    t, p, g, s, *, lr, b1, b2, eps=1e-6, weight_decay=0.0, bias_correction=False,
    decay="ratio", correct="rate", clamp=10.0,
):  # fmt: skip
    """LAMB."""
    m, v = average(s, "m", g, b1), average(s, "v", g * g, b2)
    c1, c2 = 1 - b1**t, 1 - b2**t
    rate = lr * np.sqrt(c2) / c1 if correct == "rate" and bias_correction else lr
    rate = lr / c1 if correct == "first moment by the rate" else rate
    if correct == "moments":
        m, v = m / c1, v / c2
    if decay == "decoupled":
        p = p * (1 - lr * weight_decay)
    u = m / (np.sqrt(v) + eps) + (weight_decay * p if decay == "ratio" else 0.0)
    size, step = min(np.linalg.norm(p), clamp), np.linalg.norm(u)
    return p - rate * (size / step if size and step else 1.0) * u


QUINTIC = ((3.4445, -4.7750, 2.0315),)
POLAR = (
    (4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012),
)  # fmt: skip


def newton_schulz(g, coefficients, steps=5, eps=1e-7):
    """The orthogonal factor of a matrix, approximately."""
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (np.linalg.norm(x) + eps)
    for k in range(steps):
        a, b, c = coefficients[min(k, len(coefficients) - 1)]
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def muon(
    t, p, g, s, *, lr, momentum, weight_decay=0.0, nesterov=True,
    scale="original", mix="lerp", debias=False, coefficients=QUINTIC,
):  # fmt: skip
    """Muon on a kernel of shape (in, out)."""
    m = average(s, "m", g, momentum)
    u = m
    if nesterov:
        c1, c2 = (1 - momentum**t, 1 - momentum ** (t + 1)) if debias else (1.0, 1.0)
        u = momentum * m / c2 + (1 - momentum) * g / c1 if mix == "lerp" else m + g
    inside, outside = g.shape
    factors = {"original": max(1, outside / inside) ** 0.5, "transposed": max(1, inside / outside) ** 0.5}
    factors |= {"rms": 0.2 * max(g.shape) ** 0.5, "none": 1.0}
    return p * (1 - lr * weight_decay) - lr * factors[scale] * newton_schulz(u, coefficients)


def adopt(
    t, p, g, s, *, lr, b1, b2, eps=1e-6, weight_decay=0.0, decay="decoupled", clip=True,
    clip_step="own", first_decay=False, debias=False,
):  # fmt: skip
    """ADOPT."""
    if t > 1 or first_decay or decay == "coupled":
        p, g = decayed(p, g, lr, weight_decay, decay)
    if t == 1:
        s["v"] = g * g
        return p
    k = t - 1
    n = g / np.maximum(np.sqrt(s["v"]), eps)
    bound = (k if clip_step == "own" else t) ** 0.25
    n = np.clip(n, -bound, bound) if clip else n
    m = average(s, "m", n, b1) / (1 - b1**k if debias else 1.0)
    old = 1 - (1 - b2) / (1 - b2**t) if debias else b2
    s["v"] = old * s["v"] + (1 - old) * g * g
    return p - lr * m


def adan(t, p, g, s, *, lr, b1, b2, b3, eps=1e-8, weight_decay=0.0, decay="proximal", difference="b2"):
    """Adan."""
    if decay == "decoupled":
        p = p * (1 - lr * weight_decay)
    change, s["g"] = g - s.get("g", g), g
    weight = b2 if difference == "b2" else 1 - b2
    m, d = average(s, "m", g, b1) / (1 - b1**t), average(s, "d", change, b2) / (1 - b2**t)
    n = average(s, "n", (g + weight * change) ** 2, b3) / (1 - b3**t)
    return decayed_late(p - lr * (m + weight * d) / (np.sqrt(n) + eps), lr, weight_decay, decay)


def laprop(t, p, g, s, *, lr, b1, b2, eps=1e-15, weight_decay=0.0, decay="unscaled"):
    """LaProp."""
    p, g = decayed(p, g, lr, weight_decay, decay)
    n = g / (np.sqrt(average(s, "v", g * g, b2) / (1 - b2**t)) + eps)
    return decayed_late(p - lr * average(s, "m", n, b1) / (1 - b1**t), lr, weight_decay, decay)


def mars(t, p, g, s, *, lr, b1, b2, eps=1e-8, weight_decay=0.0, gamma=0.025, clip=True, exchanged=False):
    """MARS-AdamW."""
    before, s["g"] = s.get("g", 0.0), g
    weight = b1 * gamma / (1 - gamma) if exchanged else gamma * b1 / (1 - b1)
    c = g + weight * (g - before)
    size = np.linalg.norm(c)
    c = c / size if clip and size > 1 else c
    return adam(t, p, c, s, lr=lr, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)


def schedule_free_adamw(
    t, p, g, s, *, lr, b1, b2, eps=1e-8, weight_decay=0.0, warmup_steps=0, r=0.0, power=2.0,
    decay="at y", warmup="from 1", debias=True, weights="by rate",
):  # fmt: skip
    """Schedule-free AdamW; the parameter is y."""
    z, x = s.get("z", p), s.get("x", p)
    rates = [lr * min(1.0, k / warmup_steps) if warmup_steps else lr for k in (t - 1, t)]
    longer = lr * min(1.0, t / (warmup_steps + 1))
    forms = {"from 1": rates[1:] * 2, "weights ahead": rates, "longer": (longer, longer)}
    rate, in_weight = forms[warmup]
    s["largest"] = largest = max(s.get("largest", 0.0), in_weight)
    weight = t**r * largest**power if weights == "by rate" else 1.0
    s["sum"] = s.get("sum", 0.0) + weight
    c = weight / s["sum"] if s["sum"] else 0.0
    v = average(s, "v", g * g, b2) / (1 - b2**t if debias else 1.0)
    u = g / (np.sqrt(v) + eps)
    u = u + weight_decay * {"at y": p, "at z": z}.get(decay, 0.0)
    x = x - lr * weight_decay * p / b1 if decay == "of y" else x
    s["z"] = z - rate * u
    s["x"] = (1 - c) * x + c * s["z"]
    return b1 * s["x"] + (1 - b1) * s["z"]


def sm3(t, p, g, s, *, lr, b2, eps, cover="new"):
    """SM3 with a decaying mean."""
    axes = range(g.ndim)
    shapes = [[n if i == axis else 1 for i, n in enumerate(g.shape)] for axis in axes]
    old = [s.get(axis, np.zeros(shapes[axis])) for axis in axes]
    v = b2 * np.minimum.reduce([np.broadcast_to(o, g.shape) for o in old]) + (1 - b2) * g * g
    for axis in axes:
        new = v.max(axis=tuple(i for i in axes if i != axis), keepdims=True)
        s[axis] = np.maximum(new, old[axis]) if cover == "never falls" else new
    return p - lr * g / np.sqrt(v + eps)


def prodigy(
    t, params: Tree, grads: Tree, s, *, lr, b1, b2, d0, eps=1e-8, weight_decay=0.0, correct=False, safeguard=False
):
    """Prodigy, a rule of the whole tree."""
    d, b3 = s.setdefault("d", d0), b2**0.5
    start = s.setdefault("start", params)
    rate = d * lr * (np.sqrt(1 - b2**t) / (1 - b1**t) if correct else 1.0)
    s["top"] = b3 * s.get("top", 0.0) + d / d0 * rate * sum(np.sum(grads[n] * (start[n] - params[n])) for n in params)
    for n, g in grads.items():
        mine = s.setdefault(n, {})
        mine["m"] = b1 * mine.get("m", 0.0) + d * (1 - b1) * g
        mine["v"] = b2 * mine.get("v", 0.0) + d * d * (1 - b2) * g * g
        mine["s"] = b3 * mine.get("s", 0.0) + d / d0 * (d if safeguard else rate) * g
    bottom = sum(np.abs(s[n]["s"]).sum() for n in params)
    if bottom:
        s["largest"] = max(s.get("largest", 0.0), s["top"] / bottom)
        s["d"] = max(d, s["largest"])
    step = lambda n, p: p * (1 - weight_decay * rate) - rate * s[n]["m"] / (np.sqrt(s[n]["v"]) + s["d"] * eps)
    return {n: step(n, p) for n, p in params.items()}


def dadapt(t, params: Tree, grads: Tree, s, *, lr, b1, b2, d0, eps=1e-8, weight_decay=0.0, correct=False):
    """D-Adapt Adam, a rule of the whole tree."""
    d, b3 = s.setdefault("d", d0), b2**0.5
    rate = d * lr * (np.sqrt(1 - b2**t) / (1 - b1**t) if correct else 1.0)
    top = bottom = 0.0
    for n, g in grads.items():
        mine = s.setdefault(n, {"m": 0.0, "v": np.zeros_like(g), "s": np.zeros_like(g)})
        top += rate * np.sum(g * mine["s"] / (np.sqrt(mine["v"]) + eps))
        mine["m"] = b1 * mine["m"] + rate * (1 - b1) * g
        mine["v"] = b2 * mine["v"] + (1 - b2) * g * g
        mine["s"] = b3 * mine["s"] + (1 - b3) * rate * g
        bottom += np.abs(mine["s"]).sum()
    s["top"] = b3 * s.get("top", 0.0) + (1 - b3) * top
    if bottom:
        s["d"] = max(d, s["top"] / ((1 - b3) * bottom))
    step = lambda n, p: p * (1 - weight_decay * rate) - s[n]["m"] / (np.sqrt(s[n]["v"]) + eps)
    return {n: step(n, p) for n, p in params.items()}


# Hyperparameters that are recorded as sequences.
def soap(
    t, p, g, s, *, lr, b1, b2, eps=1e-8, weight_decay=0.0, precondition_frequency=10, max_precond_dim=10000,
    decay="late", eps_place="outside", shift=False, refresh="counted",
):  # fmt: skip
    """SOAP; the first step only finds the bases."""
    before, s["due"] = s.get("due", 0.0), s.get("due", 0.0) + 1 / precondition_frequency
    grams = [g @ g.T, g.T @ g] if g.ndim == 2 else []
    if t == 1:
        s["grams"] = [(1 - b2) * gram for gram in grams]
        s["bases"] = [np.linalg.eigh(a)[1][:, ::-1] if len(a) <= max_precond_dim else None for a in grams]
        return p
    k = t - 1
    p, g = decayed(p, g, lr, weight_decay, decay)
    m, v = average(s, "m", g, b1) / (1 - b1**k), average(s, "v", rotated(g, s["bases"]) ** 2, b2) / (1 - b2**k)
    u = rotated(m, s["bases"]) / root(v, eps, eps_place)
    p = decayed_late(p - lr * rotated(u, [q if q is None else q.T for q in s["bases"]]), lr, weight_decay, decay)
    s["grams"] = [b2 * old + (1 - b2) * gram for old, gram in zip(s["grams"], grams, strict=True)]
    if k % precondition_frequency == 0 if refresh == "counted" else int(s["due"]) > int(before):
        refresh_bases(s, shift)
    return p


def refresh_bases(s, shift):
    """One power iteration for each basis; the second moments follow the order of its columns."""
    for axis, q in enumerate(s["bases"]):
        if q is not None:
            s["bases"][axis], order = power_iteration(s["grams"][axis], q, shift)
            s["v"] = s["v"].take(order, axis)


def rotated(x, bases):
    """A matrix in other bases, of which some may be missing; a vector as it is."""
    if x.ndim < 2:
        return x
    left, right = bases
    x = x if left is None else left.T @ x
    return x if right is None else x @ right


def power_iteration(gram, q, shift):
    """The next basis, largest eigenvalue first, and the order of the old columns in it."""
    product = gram @ q
    values = (q * product).sum(0)
    if shift:
        product = product + 64 * len(q) * 2.0**-23 * np.abs(values).max() * q
    order = np.argsort(-values)
    return np.linalg.qr(product[:, order])[0], order


def adamh(t, p, g, s, *, lr, b1, b2, eps=1e-8, momentum=True, eps_place="outside"):
    """Adam on the sphere of each parameter."""
    m, v = average(s, "m", g, b1) / (1 - b1**t), average(s, "v", g * g, b2) / (1 - b2**t)
    u = (m if momentum else g) / root(v, eps, eps_place)
    length = s.setdefault("length", np.linalg.norm(p))
    q = p - lr * length * u / max(np.linalg.norm(u), 1e-10)
    return q * length / np.linalg.norm(q)


def adamuon(
    t, p, g, s, *, lr, momentum, weight_decay=0.0, eps=1e-8, sign=True, nesterov=True, debias=False,
):  # fmt: skip
    """AdaMuon on a kernel of shape (in, out)."""
    m = average(s, "m", g, momentum)
    u = momentum * m + (1 - momentum) * g if nesterov else m
    u = newton_schulz(np.sign(u) if sign else u, QUINTIC)
    v = average(s, "v", u * u, momentum) / (1 - momentum**t if debias else 1.0)
    u = u / (np.sqrt(v) + eps)
    return p * (1 - lr * weight_decay) - lr * 0.2 * np.sqrt(u.size) * u / (np.linalg.norm(u) + eps)


def adam_mini(
    t, params: Tree, grads: Tree, s, *, lr, b1, b2, eps, weight_decay, names, dim, n_heads,
    blocks="rows", decays_biases=False,
):  # fmt: skip
    """Adam-mini, a rule of the whole tree whose names decide the blocks."""
    new = {}
    for leaf, p in params.items():
        memory, name = s.setdefault(leaf, {}), names[leaf]
        square = block_means(grads[leaf] ** 2, name, dim * dim // n_heads, blocks)
        m, v = average(memory, "m", grads[leaf], b1) / (1 - b1**t), average(memory, "v", square, b2) / (1 - b2**t)
        decays = "norm" not in name and (decays_biases or "bias" not in name)
        new[leaf] = p * (1 - lr * weight_decay * decays) - lr * m / (np.sqrt(v) + eps)
    return new


def block_means(x, name, size, blocks):
    """The mean of the block of each entry, in a shape that fits x; kernels are (in, out)."""
    table = "embed" in name
    if "wq" in name:
        return np.repeat(x.T.reshape(-1, size).mean(1), size).reshape(x.T.shape).T
    if blocks == "whole" and not (table or "lm_head" in name):
        return x.mean()
    if blocks == "whole" or "bias" in name:
        return x
    return (
        np.full_like(x, x.mean()) if x.ndim < 2 else np.broadcast_to(x.mean(1 if table else 0, keepdims=True), x.shape)
    )


def muon_and_adam(
    t, params: Tree, grads: Tree, s, *, matrices, others, eps_place="after", ahead=False,
    mix="lerp", debias=False, coefficients=QUINTIC, scale="original",
):  # fmt: skip
    """Muon with an auxiliary AdamW, a rule of the whole tree."""
    b1, b2 = others["betas"]
    rest = {name: others[name] for name in ("lr", "eps", "weight_decay")} | {"b1": b1, "b2": b2}
    rest |= {"eps_place": eps_place, "ahead": ahead}
    first = {name: matrices[name] for name in ("lr", "momentum", "weight_decay")}
    first |= {"mix": mix, "debias": debias, "coefficients": coefficients, "scale": scale}
    one = lambda n: (muon, first) if n in matrices["leaves"] else (adam, rest)
    return {n: (rule := one(n))[0](t, p, grads[n], s.setdefault(n, {}), **rule[1]) for n, p in params.items()}


def schedule_free_muon(
    t, p, g, s, *, base, momentum, r=0.0, weight_lr_power=2.0, decay_at="z", debias=False,
):  # fmt: skip
    """Schedule-free Muon; the parameter is y."""
    z, x = s.get("z", p), s.get("x", p)
    start = z if decay_at == "z" else p
    s["z"] = z + muon(t, start, g, s, **base, debias=debias) - start
    weight = t**r * base["lr"] ** weight_lr_power
    s["sum"] = s.get("sum", 0.0) + weight
    c = weight / s["sum"]
    s["x"] = (1 - c) * x + c * s["z"]
    return momentum * s["x"] + (1 - momentum) * s["z"]


def moonlight(
    t, params: Tree, grads: Tree, s, *, lr, wd, momentum, muon_leaves, adamw_betas, adamw_eps, eps_place="before",
):  # fmt: skip
    """Muon and AdamW of Moonlight, with one learning rate and one decay."""
    common = {"lr": lr, "weight_decay": wd}
    matrices = common | {"leaves": muon_leaves, "momentum": momentum}
    others = common | {"betas": adamw_betas, "eps": adamw_eps}
    return muon_and_adam(t, params, grads, s, matrices=matrices, others=others, eps_place=eps_place, scale="rms")


RENAMED = {"lr": "learning_rate", "matrices": "muon", "others": "adam"}
SEQUENCES = {"betas": ("b1", "b2", "b3"), "etas": ("eta_minus", "eta_plus"), "step_sizes": ("smallest", "largest")}
_DECAY = {
    "coupled": "weight decay is added to the gradient",
    "decoupled": "weight decay acts on the parameters, times the learning rate, before the step",
    "late": "weight decay comes after the step",
    "unscaled": "weight decay is not multiplied by the learning rate",
    "proximal": "weight decay divides after the step",
}


def _among(descriptions: Mapping[Any, str], *names: Any) -> dict[Any, str]:
    """Some of the descriptions."""
    return {name: descriptions[name] for name in names}


_INSIDE = {"inside": "eps is inside the root", "maximum": "the root is at least eps, which is not added"}
_MUON: Mapping[str, Mapping[Any, str]] = {
    "debias": {True: "the Nesterov mixture is bias-corrected"},
    "mix": {"sum": "Nesterov's update is buffer plus gradient with equal weights"},
    "scale": {
        "none": "the update isn't scaled by the shape",
        "transposed": "the scale takes the shape for (in, out) as (out, in)",
        "rms": "the scale is 0.2 sqrt(max(in, out))",
    },
    "coefficients": {POLAR: "five different Newton-Schulz polynomials"},
}
ALTERNATIVES: Mapping[Callable[..., Any], Mapping[str, Mapping[Any, str]]] = {
    sgd: {
        "decay": _among(_DECAY, "decoupled"),
        "damp_first": {True: "the first gradient is dampened too", False: "the first gradient isn't dampened"},
    },
    signum: {"start": {"zero": "the buffer starts at zero, not at the parameters"}},
    adagrad: {
        "eps_place": _INSIDE,
        "start": {0.1: "the accumulator starts at 0.1"},
        "decay": _among(_DECAY, "decoupled"),
    },
    rmsprop: {
        "eps_place": _INSIDE,
        "debias": {True: "the second moment is bias-corrected"},
        "decay": _among(_DECAY, "decoupled"),
    },
    adam: {
        "decay": _among(_DECAY, "coupled", "late", "unscaled"),
        "eps_place": {"before": "eps is added before the bias correction", "after": "eps is added after it"} | _INSIDE,
        "correct": {
            "neither": "no bias correction",
            "first": "only the first moment is bias-corrected",
            "second": "only the second moment is bias-corrected",
        },
        "maximum": {"after": "the maximum is that of bias-corrected second moments"},
        "cautious": {
            "signbit": "the mask compares sign bits, so that a gradient of 0 counts as positive",
            "count": "the mask is divided by its sum plus 1",
        },
        "cautious_decay": {
            "signbit": "the decay's mask compares sign bits, so that an update of 0 counts as positive",
            "strict": "no decay where the update is 0",
        },
    },
    nadam: {
        "decay": _among(_DECAY, "coupled", "decoupled"),
        "schedule": {
            "constant": "the momentum is constant",
            "fast": "the momentum schedule is 0.96^t in place of 0.96^(0.004 t)",
        },
        "growth": {True: "each step adds lr * weight_decay times the parameter, against the decay"},
    },
    nadamw: {"corrections": {"two": "momentum and gradient are bias-corrected separately"}},
    radam: {
        "length_in": {np.float32: "the length of the average is computed in float32"},
        "eps_place": {"after": "eps is added after the bias correction"},
        "decay": _among(_DECAY, "decoupled"),
    },
    rprop: {"applied": {"previous": "each call applies the step of the previous call; the first does nothing"}},
    adafactor: {
        "size_of": {"decayed": "the step is relative to the parameters after the decay"},
        "decay": {"by relative rate": "weight decay is multiplied by the relative rate"},
    },
    lamb: {
        "correct": {
            "moments": "the moments are bias-corrected inside the trust ratio",
            "first moment by the rate": "the step is divided by 1 - b1^t, the second moment isn't corrected",
        },
        "clamp": {np.inf: "the norm of the parameters is not clamped to 10"},
        "decay": {"decoupled": "weight decay is decoupled and outside the trust ratio"},
    },
    muon: _MUON,
    adopt: {
        "clip": {False: "no clipping, as in the first version of the algorithm"},
        "clip_step": {"next": "the clip of step k is (k + 1)^0.25"},
        "first_decay": {True: "the first call decays the parameters"},
        "debias": {True: "both averages are bias-corrected"},
    },
    adan: {
        "difference": {"1 - b2": "the difference of gradients is weighted by 1 - b2"},
        "decay": _among(_DECAY, "decoupled", "proximal"),
    },
    laprop: {"decay": _among(_DECAY, "decoupled", "late", "coupled")},
    mars: {
        "clip": {False: "the corrected gradient isn't clipped to norm 1"},
        "exchanged": {True: "gamma and b1 are exchanged in the weight of the difference"},
    },
    schedule_free_adamw: {
        "warmup": {
            "weights ahead": "the warm-up starts at 0 in the step but not in the weights of the average",
            "longer": "the warm-up takes warmup_steps + 1 steps",
        },
        "decay": {
            "at z": "weight decay acts at z",
            "none": "weight decay is not applied at y",
            "of y": "weight decay shrinks the parameter before the step and leaves z as it is",
        },
        "weights": {"equal": "all steps have the same weight in the average"},
        "debias": {False: "no bias correction"},
    },
    sm3: {"cover": {"never falls": "the covers never fall"}},
    soap: {
        "decay": _among(_DECAY, "decoupled"),
        "eps_place": _INSIDE,
        "shift": {True: "the power iteration adds 64 n 2^-23 times the largest eigenvalue to each"},
        "refresh": {"summed": "a refresh is due when the sum of 1 / precondition_frequency passes an integer"},
    },
    adamh: {"momentum": {False: "there is no first moment"}, "eps_place": _INSIDE},
    adamuon: {
        "sign": {False: "Newton-Schulz takes the momentum, not its sign"},
        "nesterov": {False: "no Nesterov"},
        "debias": {True: "the second moment is bias-corrected"},
    },
    adam_mini: {
        "blocks": {"whole": "embedding and output have plain Adam, other parameters one second moment each"},
        "decays_biases": {True: "biases are decayed"},
    },
    muon_and_adam: {name: _MUON[name] for name in ("mix", "debias", "coefficients")}
    | {"ahead": {True: "the auxiliary Adam has Nesterov momentum too"}},
    schedule_free_muon: {"debias": _MUON["debias"], "decay_at": {"y": "weight decay acts at y"}},
    moonlight: {"eps_place": {"after": "eps is added after the bias correction"}},
    prodigy: {"correct": {True: "bias correction is always on"}},
    dadapt: {"correct": {True: "bias correction is always on"}},
}
WHOLE_TREE = {prodigy, dadapt, adam_mini, moonlight, muon_and_adam}


@dataclass(frozen=True)
class Rule:
    """A recording's rule: the function and its conventions."""

    function: Callable[..., Any]
    conventions: Mapping[str, Any] = field(default_factory=dict)

    def keywords(self, h: Hyperparameters) -> dict[str, Any]:
        """The function's keywords for a recording's hyperparameters."""
        found = {"b1": h.get("beta1"), "b2": h.get("beta2"), "eps": h.get("diagonal_epsilon"), **h}
        found |= {ours: h[theirs] for ours, theirs in RENAMED.items() if theirs in h}
        for name, parts in SEQUENCES.items():
            found |= dict(zip(parts, h.get(name, ()), strict=False))
        allowed = [*inspect.getfullargspec(self.function).kwonlyargs, "max_grad_norm"]
        return {n: found[n] for n in allowed if found.get(n) is not None} | dict(self.conventions)


class NumPyOptimizer:
    """A rule as an optimizer that a recording is replayed on, in float64."""

    def __init__(self, function: Callable[..., Any], max_grad_norm: float = np.inf, **keywords: Any):
        self._function, self._largest, self._keywords = function, max_grad_norm, keywords

    def init(self, params: Tree) -> Any:
        """The number of steps, the parameters in float64, and the memory."""
        memory = {} if self._function in WHOLE_TREE else {name: {} for name in params}
        return 0, {name: p.astype(np.float64) for name, p in params.items()}, memory

    def step(self, params: Tree, grads: Tree, state: Any) -> tuple[Tree, Any]:
        """One step."""
        t, params, memory = state
        grads = {name: g.astype(np.float64) for name, g in grads.items()}
        norm = np.sqrt(sum(np.sum(g * g) for g in grads.values()))
        grads = {name: g * min(1.0, self._largest / (norm + 1e-8)) for name, g in grads.items()}
        if self._function in WHOLE_TREE:
            new = self._function(t + 1, params, grads, memory, **self._keywords)
        else:
            new = {n: self._function(t + 1, p, grads[n], memory[n], **self._keywords) for n, p in params.items()}
        return new, (t + 1, new, memory)


RULES: dict[str, Rule] = {
    "seed_sgd": Rule(sgd),
    "torch_sgd": Rule(sgd),
    "torch_sgd_momentum": Rule(sgd),
    "torch_sgd_nesterov": Rule(sgd),
    "torch_sgd_dampening": Rule(sgd),
    "torch_sgd_wd": Rule(sgd),
    "seed_momentum": Rule(sgd, {"dampening": 0.9, "damp_first": True}),
    "signum_epfl": Rule(signum),
    "signum_dampening": Rule(signum),
    "seed_adagrad": Rule(adagrad),
    "torch_adagrad": Rule(adagrad),
    "torch_adagrad_decay": Rule(adagrad),
    "torch_rmsprop": Rule(rmsprop),
    "torch_rmsprop_centered": Rule(rmsprop),
    "torch_rmsprop_momentum": Rule(rmsprop),
    "seed_adam": Rule(adam),
    "seed_adamw": Rule(adam),
    "torch_adam": Rule(adam),
    "torch_adam_l2": Rule(adam, {"decay": "coupled"}),
    "torch_adamw": Rule(adam),
    "torch_amsgrad": Rule(adam),
    "torch_adamw_amsgrad": Rule(adam),
    "cautious_adamw": Rule(adam, {"cautious": "mean", "eps_place": "before"}),
    "cautious_adamw_foreach": Rule(adam, {"cautious": "mean"}),
    "adamw_cautious_wd": Rule(adam, {"cautious_decay": "agreeing"}),
    "torch_nadam": Rule(nadam),
    "torch_nadam_decoupled": Rule(nadam, {"decay": "decoupled"}),
    "torch_nadam_l2": Rule(nadam),
    "nadamw_algoperf": Rule(nadamw),
    "torch_radam": Rule(radam),
    "torch_radam_decoupled": Rule(radam, {"decay": "decoupled"}),
    "torch_rprop": Rule(rprop),
    "torch_adafactor": Rule(adafactor),
    "torch_adafactor_wd": Rule(adafactor),
    "lamb": Rule(lamb),
    "lamb_bc": Rule(lamb),
    "muon_f32": Rule(muon),
    "muon_wd_f32": Rule(muon),
    "torch_muon_f32": Rule(muon),
    "torch_muon_rms_f32": Rule(muon, {"scale": "rms"}),
    "torch_muon_plain_f32": Rule(muon),
    "adopt": Rule(adopt),
    "adopt_wd": Rule(adopt),
    "adopt_l2_noclip": Rule(adopt, {"decay": "coupled", "clip": False}),
    "adan": Rule(adan),
    "adan_noprox_clip": Rule(adan, {"decay": "decoupled"}),
    "laprop": Rule(laprop),
    "laprop_wd": Rule(laprop),
    "mars_adamw_1d": Rule(mars),
    "schedule_free_adamw": Rule(schedule_free_adamw),
    "schedule_free_adamw_wd": Rule(schedule_free_adamw),
    "sm3_mean": Rule(sm3),
    "soap_square_freq1": Rule(soap),
    "soap_square_freq10": Rule(soap),
    "soap_one_sided": Rule(soap),
    "adamh": Rule(adamh),
    "adamh_levanter": Rule(adamh),
    "adamuon_f32": Rule(adamuon),
    "adam_mini": Rule(adam_mini),
    "adam_mini_heads": Rule(adam_mini),
    "muon_aux_adam_f32": Rule(muon_and_adam),
    "moonlight_muon_f32": Rule(moonlight),
    "schedule_free_muon_f32": Rule(schedule_free_muon),
    "prodigy": Rule(prodigy),
    "prodigy_wd": Rule(prodigy, {"correct": True, "safeguard": True}),
    "dadapt_adam": Rule(dadapt),
    "dadapt_adamw": Rule(dadapt, {"correct": True}),
}
