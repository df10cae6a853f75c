"""pytorch_optimizer: the updates of `APOLLO` have the rank of the projection.

APOLLO finds the scale of each channel in a random low-rank projection and [multiplies the full gradient by it][1]:
unlike those of GaLore, its updates have full rank. Here the [projected gradient is scaled and projected back][2]
(`apollo.py:383` to `429`), and the update is confined to a random subspace. Decoupled decay is also multiplied by the
bias correction of the step size.

Prints `1.0 expected: 6.0, the rank of the gradient`.

[1]: https://github.com/zhuhanqing/APOLLO/blob/76b34725abcbd45aa47d8fdf831c8b5ba6d34dde/apollo_torch/apollo.py
[2]: https://github.com/kozistr/pytorch_optimizer
"""

import torch
from pytorch_optimizer import APOLLO

p = torch.nn.Parameter(torch.zeros(8, 6))
group = {"params": [p], "rank": 1, "update_proj_gap": 10, "scale": 1.0, "projection_type": "std"}
p.grad = torch.randn(8, 6)
APOLLO([group], lr=1.0).step()
print(float(torch.linalg.matrix_rank(p.detach())), "expected: 6.0, the rank of the gradient")
