"""Optax: `adan` weights the difference of gradients by 1 - b2.

In [Algorithm 1 of the paper][1] a beta multiplies the *new* gradient, and the difference is weighted by 1 - beta2 =
0.92 with the recommended value. [`optax.adan`][2] takes the betas of the authors' code, which multiply the *old*
average (0.98, 0.92, 0.99), and [keeps the paper's 1 - b2][3], which is now 0.08. The authors' code multiplies by
[beta2][4]. The docstring's formulas are those of the paper: m = (1 - b1) m + b1 g, which isn't what the function
computes either.

Prints `-0.90725 expected: -0.64765`.

[1]: https://arxiv.org/abs/2208.06677
[2]: https://github.com/google-deepmind/optax/blob/v0.2.8/optax/_src/alias.py#L809
[3]: https://github.com/google-deepmind/optax/blob/v0.2.8/optax/_src/transform.py#L666
[4]: https://github.com/sail-sg/Adan/blob/2c65beaf400775753b155da4082c3819fea689b9/adan.py
"""

import optax

tx = optax.scale_by_adan(b1=0.0, b2=0.92, b3=0.0, eps=0.0)  # u = (g + weight * difference) / |g + weight * difference|
state = tx.init(0.0)
for g in (1.0, -0.5):  # difference -1.5, corrected average -1.5 * 0.08 / (1 - 0.92**2) = -0.78
    u, state = tx.update(g, state)
print(float(u), "expected:", (-0.5 + 0.92 * -0.78) / (0.5 + 0.92 * 1.5))
