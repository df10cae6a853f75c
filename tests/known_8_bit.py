"""The known 8-bit Adam in NumPy and float64: what ours is measured against."""

import numpy as np


def dynamic_code(signed: bool) -> np.ndarray:
    """The 256 values, in order: zero, one, and the middles of the parts of seven decades."""
    positive = []
    for decade in range(7):
        edges = np.linspace(0.1, 1, 2 ** (decade if signed else decade + 1) + 1)
        positive.append(10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2)
    return np.sort(np.concatenate([*positive, *(-part for part in positive if signed), [0.0, 1.0]]))


def rounded(moment: np.ndarray, signed: bool) -> np.ndarray:
    """To the nearest value, in blocks of 256 in a row."""
    blocks = moment.reshape(-1, 256)
    scale = np.maximum(np.abs(blocks).max(1, keepdims=True), 1e-300)
    code = dynamic_code(signed)
    nearest = np.abs((blocks / scale)[..., None] - code).argmin(-1)
    return (code[nearest] * scale).reshape(moment.shape)


def adam(params, grads, rate, b1=0.9, b2=0.999, eps=1e-8):
    """Parameters after a step for each gradient; moments are rounded after the step."""
    p, m, v = np.float64(params), 0.0, 0.0
    for t, g in enumerate(np.float64(grads), start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        p = p - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        m, v = rounded(m, signed=True), rounded(v, signed=False)
    return p
