"""pytorch_optimizer: `GaLore` and `Fira` renew their first projection one step early.

[`update_proj_gap`][1] is the "number of steps between projection updates" (`utils/galore.py:52`). The authors' code
[passes the number of finished steps][2] and renews at steps 1, 11, 21. Here the counter includes the present step
(`galore.py:94`), and the first projection serves 9 steps. With projections that are renewed one step later both agree
with the recordings of their authors' code. `APOLLO` has the same counter.

Prints `[1.0, 10.0, 20.0] expected: [1.0, 11.0, 21.0]`.

[1]: https://github.com/kozistr/pytorch_optimizer
[2]: https://github.com/jiaweizzhao/GaLore/blob/2cc66f88cce189e505affbb91042a8e77f5bf4e9/galore_torch/adamw.py
"""

import torch
from pytorch_optimizer import GaLore

p, steps, last = torch.nn.Parameter(torch.zeros(4, 3)), [], None
group = {"params": [p], "rank": 1, "update_proj_gap": 10, "scale": 1.0, "projection_type": "std"}
optimizer = GaLore([group])
for step in range(1, 22):
    p.grad = torch.randn(4, 3)
    optimizer.step()
    basis = optimizer.state[p]["projector"].ortho_matrix
    steps, last = steps + [float(step)] * (basis is not last), basis
print(steps, "expected: [1.0, 11.0, 21.0]")
