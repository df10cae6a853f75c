"""Optax: `radam` computes its rectification with an error of 1 %.

The length of the average is [`ro_inf - 2 * count * b2t / (1 - b2t)`][1] in float32: 1999 - 1993 after six steps,
where 1 - b2^t has lost digits before. `torch.optim.RAdam` computes it in float64. With a constant gradient of 1 the
update is the rectification itself.

Prints `0.02552 expected: 0.02582`; `0.03243 expected: 0.03273`; `0.03849 expected: 0.03873`.

[1]: https://github.com/google-deepmind/optax/blob/v0.2.8/optax/_src/transform.py#L866
"""

import jax.numpy as jnp
import optax

tx = optax.scale_by_radam(b1=0.0, b2=0.999, eps=0.0)
state, inf = tx.init(jnp.ones(())), 2 / (1 - 0.999) - 1
for t in range(1, 9):
    u, state = tx.update(jnp.ones(()), state)
    ro = inf - 2 * t * 0.999**t / (1 - 0.999**t)
    if ro > 5:
        print(float(u), "expected:", ((ro - 4) * (ro - 2) * inf / ((inf - 4) * (inf - 2) * ro)) ** 0.5)
