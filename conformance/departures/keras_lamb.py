"""Keras: `Lamb` leaves weight decay out of its trust ratio.

In [Algorithm 2 of the paper][1] the ratio is |x| / |r + lambda x| and multiplies both parts. Here the [decay is
applied before the step, by the base class][2], and the [ratio sees the Adam update alone][3]. The argument is
documented for all optimizers alike: ["If set, weight decay is applied"][4]. With a gradient of 0 the paper's step has
length lr |x|.

Prints `0.99900 expected: 0.9`.

[1]: https://arxiv.org/abs/1904.00962
[2]: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/base_optimizer.py#L952
[3]: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/lamb.py#L132
[4]: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/base_optimizer.py#L1132
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
import keras

p = keras.Variable([1.0])
keras.optimizers.Lamb(0.1, weight_decay=0.01).apply([keras.ops.zeros(1)], [p])
print(float(p.value[0]), "expected: 0.9")
