"""Keras: `Nadam`'s momentum schedule runs 250 times too fast.

The schedule is mu_t = beta_1 (1 - 0.5 * 0.96^(0.004 t)), as in [earlier Keras][1] (`schedule_decay=0.004`, "Default
parameters follow those provided in the paper") and in `torch.optim.NAdam`. Keras computes [0.96^t][2]: the momentum
is at its full value after 100 steps, not after 25 000. The docstring also says that epsilon is ["epsilon hat", not
the epsilon of Algorithm 1][3]; the code [adds it after the bias correction][4], as Algorithm 1 does.

Prints `mean factor of beta_1: 0.87182 expected: 0.50410`.

[1]: https://github.com/tensorflow/tensorflow/blob/r1.1/tensorflow/contrib/keras/python/keras/optimizers.py
[2]: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/nadam.py#L116
[3]: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/nadam.py#L28
[4]: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/nadam.py#L144
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
import keras

p = keras.Variable([0.0])
optimizer = keras.optimizers.Nadam(1.0)
for _ in range(100):
    optimizer.apply([keras.ops.ones(1)], [p])
mean = (float(optimizer._u_product.value) / 0.9**100) ** 0.01
print("mean factor of beta_1:", mean, "expected:", sum(1 - 0.5 * 0.96 ** (t / 250) for t in range(1, 101)) / 100)
