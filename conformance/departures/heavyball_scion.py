"""HeavyBall: the first step of `Scion` replaces the parameters.

The [first call of `step`][1] (`chainable.py:1274`) overwrites every matrix with a random orthogonal one and every
vector with zeros, also those of a pretrained model. The docstring doesn't mention it. In the authors' code this is
[a method of its own, `init()`][2], which the user may call before training. The script takes a step with learning rate
0 and prints the norm of a matrix of ones.

Prints `2.0 expected: 3.4641`.

[1]: https://github.com/HomebrewML/HeavyBall
[2]: https://github.com/LIONS-EPFL/scion/blob/f58a393e010395a5913176be5673d8839caa6285/scion.py
"""

import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"
import heavyball
import torch

p = torch.nn.Parameter(torch.ones(4, 3))
p.grad = torch.ones(4, 3)
heavyball.Scion([p], lr=0.0).step()
print(p.norm().item(), "expected: 3.4641")
