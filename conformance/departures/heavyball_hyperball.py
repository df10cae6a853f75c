"""HeavyBall: `HyperBallAdamW` has no first moment.

The docstring says that one-dimensional parameters go ["through standard AdamW"][1] (`__init__.py:420`). The chain
starts with `scale_by_exp_avg_sq` (`__init__.py:466`), which divides the gradient by the root of its second moment. No
part of it averages gradients, and `betas[0]` has no effect, neither on vectors nor on matrices. The hyperball Adam of
modded-nanogpt and of Levanter has both moments.

Prints `0.0 expected: 0.67162, the momentum of the first gradient`.

[1]: https://github.com/HomebrewML/HeavyBall
"""

import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"
import heavyball
import torch

p = torch.nn.Parameter(torch.zeros(1))
optimizer = heavyball.HyperBallAdamW([p], lr=1.0, betas=(0.9, 0.99))
for grad in (1.0, 0.0):
    p.grad, before = torch.tensor([grad]), p.item()
    optimizer.step()
print(before - p.item(), "expected: 0.67162, the momentum of the first gradient")
