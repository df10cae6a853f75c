"""Optax: `rprop` applies the step of the previous call.

[`updates` are taken from `state.prev_updates`][1], not from the new ones: the first call does nothing, and every
later one moves along the previous gradient. The [docstring][2] says that the algorithm "responds only to the sign of
the gradient"; neither paper has a delay.

Prints `[-0.] expected: -0.1, then -0.12`; `[-0.1] expected: -0.1, then -0.12`.

[1]: https://github.com/google-deepmind/optax/blob/v0.2.8/optax/_src/transform.py#L949
[2]: https://github.com/google-deepmind/optax/blob/v0.2.8/optax/_src/alias.py#L2478
"""

import jax.numpy as jnp
import optax

p, tx = jnp.ones(1), optax.rprop(0.1)
state = tx.init(p)
for gradient in (1.0, 1.0):
    updates, state = tx.update(jnp.full(1, gradient), state, p)
    print(updates, "expected: -0.1, then -0.12")
