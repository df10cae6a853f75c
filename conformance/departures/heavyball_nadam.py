"""HeavyBall: `NAdam` with coupled weight decay adds weight to the parameters.

With `decoupled_weight_decay=False` (the default) the decay is added to the gradient, as in torch.optim.NAdam. The
last step then [subtracts `weight_decay` times the parameter from the update][1] (`utils.py:383`), which makes the
parameter grow by `lr * weight_decay` of itself at each step. With a large `eps` the adaptive part vanishes and the
growth remains.

Prints `1.10462 expected: at most 1`.

[1]: https://github.com/HomebrewML/HeavyBall
"""

import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"
import heavyball
import torch

p = torch.nn.Parameter(torch.ones(1))
optimizer = heavyball.NAdam([p], lr=0.1, weight_decay=0.1, eps=1e6)
for _ in range(10):
    p.grad = torch.zeros(1)
    optimizer.step()
print(p.item(), "expected: at most 1")
