"""Handwritten digits in Flax NNX, with Muon.

``nnx.Optimizer`` accepts these optimizers like Optax's. Here gradients are clipped, Muon updates the hidden matrices,
and AdamW the rest. The data, 1797 images of 8 x 8 pixels, comes with scikit-learn; in a clone of the repository,
``pip install ".[examples]"`` installs it::

    python examples/digits_nnx.py

It prints the loss every 50 steps, and ends with::

    test accuracy 98.1% (360 images)
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

from jaxopt_mini import chain, clip_by_norm, muon, warmup_cosine


class Network(nnx.Module):
    """A multilayer perceptron with two hidden layers."""

    def __init__(self, rngs, width=128):
        self.layers = nnx.List([nnx.Linear(64, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)])
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        """Images, (B, 64), to logits, (B, 10)."""
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(x)


def digits():
    """Training and test sets: images and their digits."""
    data = load_digits()
    images, labels = jnp.asarray(data.data, jnp.float32) / 16, jnp.asarray(data.target)
    order = jax.random.permutation(jax.random.key(0), len(labels))
    train, test = order[:1437], order[1437:]
    return (images[train], labels[train]), (images[test], labels[test])


@nnx.jit
def step(network, optimizer, x, y):
    """Takes one optimizer step and returns the loss."""

    def loss(network):
        return optax.softmax_cross_entropy_with_integer_labels(network(x), y).mean()

    value, grads = nnx.value_and_grad(loss)(network)
    optimizer.update(network, grads)
    return value


def main(steps=400, batch=128):
    """Trains the network and prints its test accuracy."""
    (x, y), (x_test, y_test) = digits()
    network = Network(nnx.Rngs(0))
    tx = chain(clip_by_norm(1.0), muon(warmup_cosine(0.01, steps)))
    optimizer = nnx.Optimizer(network, tx, wrt=nnx.Param)
    for t in range(steps):
        rows = jax.random.choice(jax.random.fold_in(jax.random.key(1), t), len(y), (batch,))
        value = step(network, optimizer, x[rows], y[rows])
        if t % 50 == 0 or t == steps - 1:
            print(f"step {t:4d}  loss {value:.4f}")
    accuracy = float(jnp.mean(network(x_test).argmax(-1) == y_test))
    print(f"test accuracy {accuracy:.1%} ({len(y_test)} images)")
    return accuracy


if __name__ == "__main__":
    main()
