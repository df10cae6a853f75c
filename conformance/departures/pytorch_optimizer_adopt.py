"""pytorch_optimizer: `ADOPT` clips with the bound of the next step.

The first call only initializes the second moment. The authors' code [counts the steps after it][1] and clips the
first real step at 1^0.25 = 1. Here the [counter includes that call][2] (`adopt.py:207`), and the first real step is
clipped at 2^0.25 = 1.19 (`adopt.py:180`). The docstring gives `step ** 0.25` (`adopt.py:19`). Decoupled decay also acts
in the first call.

Prints `-1.18920 expected: -1.0`.

[1]: https://github.com/iShohei220/adopt/blob/6468572b4b3688a2f056b796b071da540568520e/src/adopt/adopt.py
[2]: https://github.com/kozistr/pytorch_optimizer
"""

import torch
from pytorch_optimizer import ADOPT

p = torch.nn.Parameter(torch.zeros(1))
optimizer = ADOPT([p], lr=1.0, betas=(0.0, 0.99))
for grad in (1.0, 100.0):
    p.grad = torch.tensor([grad])
    optimizer.step()
print(p.item(), "expected: -1.0")
