"""Optax: `schedule_free` warms up its weights one step ahead of its steps.

`step_count` [starts at 1 for the weights of the average][1], while the base optimizer's schedule counts from 0: the
first step has the learning rate 0 and a weight as if it were `lr / warmup_steps`. In the [authors' code][2] both use
the same learning rate, that of step 1. The [docstring][3] says "the length of the linear warmup".

Prints `step [0.] weight 0.25 expected: step -0.5, weight 0.25`.

[1]: https://github.com/google-deepmind/optax/blob/v0.2.8/optax/contrib/_schedule_free.py#L150
[2]: https://github.com/facebookresearch/schedule_free/blob/70785b53e778d0e872c0bbb75ff4ee54ee10c291/schedulefree/adamw_schedulefree_reference.py
[3]: https://github.com/google-deepmind/optax/blob/v0.2.8/optax/contrib/_schedule_free.py#L317
"""

import jax.numpy as jnp
import optax

tx = optax.contrib.schedule_free_sgd(1.0, warmup_steps=2)
p = jnp.zeros(1)
updates, state = tx.update(jnp.ones(1), tx.init(p), p)
print("step", updates, "weight", state.weight_sum, "expected: step -0.5, weight 0.25")
