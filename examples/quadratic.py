"""Optimizers alone, on a long narrow valley: ``python examples/quadratic.py``.

The loss is a quadratic with curvatures from 1 to 1000. The steepest direction bounds the learning rate, and then the
flattest one takes long: plain descent needs steps in proportion to the ratio of the two, momentum to its square root.
Adam rescales every coordinate by itself. That helps where the valley lies along the coordinates, and much less where it
lies across them; a rule that sees a whole matrix, such as SOAP, turns its coordinates with the valley.
"""

import jax
import jax.numpy as jnp

from jaxopt_mini import adam, apply_updates, cosine, sgd, soap

SIZE, LEAST, MOST = 16, 1.0, 1000.0
curvatures = jnp.geomspace(LEAST, MOST, SIZE)
turn = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (SIZE, SIZE)))[0]
VALLEYS = {"along": jnp.diag(curvatures), "across": turn @ jnp.diag(curvatures) @ turn.T}


def contestants(steps):
    """The rules at rates that suit them; for the first two the best there are, by theory."""
    root = (MOST**0.5, LEAST**0.5)
    friction = ((root[0] - root[1]) / (root[0] + root[1])) ** 2
    falling = cosine(0.3, steps)  # who normalises the gradient must slow down by schedule
    return {
        "sgd": sgd(2 / (MOST + LEAST)),
        "momentum": sgd((2 / (root[0] + root[1])) ** 2, momentum=friction),
        "adam": adam(falling),
        "soap": soap(falling, weight_decay=0.0, precondition_frequency=1),
    }


def losses(tx, hessian, steps):
    """The loss before each step, of 8 points at once: the rows of one matrix."""

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
    """Prints the loss that is left after the last step, in both valleys."""
    print(f"loss after {steps} steps{''.join(f'{name:>12s}' for name in VALLEYS)}")
    left = {}
    for name, tx in contestants(steps).items():
        left[name] = [float(losses(tx, hessian, steps)[-1]) for hessian in VALLEYS.values()]
        print(f"{name:21s}" + "".join(f"{loss:12.2g}" for loss in left[name]))
    return left


if __name__ == "__main__":
    main()
