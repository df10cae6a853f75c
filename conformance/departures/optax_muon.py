"""Optax: the AdamW inside `contrib.muon` has Nesterov momentum.

Parameters that aren't matrices are ["passed through an AdamW optimizer"][1], as in the authors' code. It also
[receives the `nesterov` flag of Muon][2], which is True by default: it is NAdamW. The docstring doesn't say that the
flag concerns it, and no keyword turns it off there alone. The first step of AdamW is the learning rate.

Prints `1.47368 expected: 1.0`.

[1]: https://github.com/google-deepmind/optax/blob/v0.2.8/optax/contrib/_muon.py#L563
[2]: https://github.com/google-deepmind/optax/blob/v0.2.8/optax/contrib/_muon.py#L723
"""

import jax.numpy as jnp
from optax import contrib

tx = contrib.muon(1.0)
params, grads = {"bias": jnp.zeros(1)}, {"bias": jnp.ones(1)}
updates, _ = tx.update(grads, tx.init(params), params)
print(-updates["bias"].item(), "expected: 1.0")
