"""Optimizers on an ill-conditioned quadratic.

The curvatures of the loss range from 1 to 1000. The largest one bounds the learning rate, so progress along the
smallest one is slow. Gradient descent needs a number of steps proportional to their ratio, momentum to its square root.
Adam rescales each coordinate separately. This helps if the valley is aligned with the coordinate axes, and much less if
it is rotated. SOAP preconditions whole matrices, and so rotates its coordinates with the valley::

    python examples/quadratic.py

It prints the loss after 400 steps in both valleys; for example::

    adam                      1.1e-15        0.03
    soap                      0.00022     0.00033
"""

import jax
import jax.numpy as jnp

from jaxopt_mini import adam, apply_updates, cosine, sgd, soap, warmup_cosine

SIZE, LEAST, MOST = 16, 1.0, 1000.0
curvatures = jnp.geomspace(LEAST, MOST, SIZE)
rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (SIZE, SIZE)))[0]
VALLEYS = {"aligned": jnp.diag(curvatures), "rotated": rotation @ jnp.diag(curvatures) @ rotation.T}


def optimizers(steps):
    """Optimizers with suitable learning rates; those of the first two are optimal in theory."""
    root = (MOST**0.5, LEAST**0.5)
    friction = ((root[0] - root[1]) / (root[0] + root[1])) ** 2
    decaying = cosine(0.3, steps)  # normalized updates shrink only by a schedule
    return {
        "sgd": sgd(2 / (MOST + LEAST)),
        "momentum": sgd((2 / (root[0] + root[1])) ** 2, momentum=friction),
        "adam": adam(decaying),
        # In the first steps its basis still turns; without a warm-up rounding decides how far they lead away.
        "soap": soap(warmup_cosine(0.3, steps, warmup=0.1), weight_decay=0.0, precondition_frequency=1),
    }


def losses(tx, hessian, steps):
    """The loss before each step, averaged over 8 starting points: the rows of one matrix."""

    def loss(x):
        return 0.5 * jnp.mean(jnp.sum(x @ hessian * x, axis=-1))

    def step(carry, _):
        x, state = carry
        value, grads = jax.value_and_grad(loss)(x)
        updates, state = tx.update(grads, state, x)
        return (apply_updates(x, updates), state), value

    start = jax.random.normal(jax.random.key(1), (8, SIZE))
    return jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), length=steps))()[1]


def main(steps=400):
    """Prints the final loss in both valleys."""
    print(f"loss after {steps} steps{''.join(f'{name:>12s}' for name in VALLEYS)}")
    final = {}
    for name, tx in optimizers(steps).items():
        final[name] = [float(losses(tx, hessian, steps)[-1]) for hessian in VALLEYS.values()]
        print(f"{name:21s}" + "".join(f"{loss:12.2g}" for loss in final[name]))
    return final


if __name__ == "__main__":
    main()
