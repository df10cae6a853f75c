"""Keras: `ScheduleFreeAdamW` applies weight decay to the wrong sequence.

The decay of the base class [shrinks the parameter][1], which holds y, before the step. The step [recovers x from it][2]
and leaves z as it is, so the decay only reaches the average, with a weight of 1 / beta_1. In the [authors' code][3]
decay moves z. With gradients of 0 their parameter falls to about 0; here z stays at its start and holds y at
1 - beta_1 of it. The average also has [equal weights][4] during the warm-up, where the authors weight by the squared
learning rate, and no method sets the parameters to x, the sequence ["used for evaluation"][5].

Prints `0.09999 expected: -0.0373`.

[1]: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/base_optimizer.py#L952
[2]: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/schedule_free_adamw.py#L164
[3]: https://github.com/facebookresearch/schedule_free/blob/70785b53e778d0e872c0bbb75ff4ee54ee10c291/schedulefree/adamw_schedulefree_reference.py
[4]: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/schedule_free_adamw.py#L159
[5]: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/schedule_free_adamw.py#L17
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
import keras

p = keras.Variable([1.0])
optimizer = keras.optimizers.ScheduleFreeAdamW(0.1, weight_decay=1.0)
for _ in range(100):
    optimizer.apply([keras.ops.zeros(1)], [p])
print(float(p.value[0]), "expected: -0.0373")
