"""Many learning rates and seeds in one program.

An optimizer is a pair of pure functions, and its learning rate may be traced. Therefore two ``jax.vmap``, over learning
rates and over seeds, train 104 small networks in parallel, in one compiled program. Each one fits a sine::

    python examples/lr_sweep.py

It prints the median loss of each of the 13 learning rates, and ends with::

    best learning rate 2.2e-01
"""

import jax
import jax.numpy as jnp

from jaxopt_mini import adamw, apply_updates, chain, clip_by_norm, warmup_cosine

x = jnp.linspace(-jnp.pi, jnp.pi, 64)[:, None]
y = jnp.sin(3 * x)


def init(key, width=32):
    """Random parameters of a network with one hidden layer."""
    first, second = jax.random.split(key)
    return {
        "first": {"kernel": jax.random.normal(first, (1, width)), "bias": jnp.zeros(width)},
        "second": {"kernel": jax.random.normal(second, (width, 1)) / width**0.5, "bias": jnp.zeros(1)},
    }


def loss(params):
    """Mean squared error."""
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    return jnp.mean((hidden @ params["second"]["kernel"] + params["second"]["bias"] - y) ** 2)


def train(lr, seed, steps):
    """The final loss, a pure function of the learning rate and the seed."""
    tx = chain(clip_by_norm(1.0), adamw(warmup_cosine(lr, steps), weight_decay=0.0))

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (apply_updates(params, updates), state), None

    params = init(jax.random.key(seed))
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=steps)
    return loss(params)


def main(steps=1000, rates=13, seeds=8):
    """Prints the median loss of each learning rate over the seeds, and the best learning rate."""
    grid = jnp.geomspace(1e-3, 10.0, rates)
    over_seeds = jax.vmap(lambda lr, seed: train(lr, seed, steps), in_axes=(None, 0))
    losses = jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))(grid, jnp.arange(seeds))
    medians = jnp.median(losses, axis=1)
    for lr, final in zip(grid, medians, strict=True):
        bar = "#" * round(8 * max(0.0, 5 + float(jnp.log10(final))))
        print(f"{lr:8.1e}  {final:8.5f}  {bar}")
    best = float(grid[jnp.nanargmin(medians)])
    print(f"best learning rate {best:.1e}")
    return best, medians


if __name__ == "__main__":
    main()
