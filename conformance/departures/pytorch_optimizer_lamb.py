"""pytorch_optimizer: `Lamb` corrects one moment, its docstring says none.

The docstring: ["The default update follows version 3 of the paper without bias correction"][1] (`lamb.py:14`). By
default the step size is divided by 1 - b1^t (`base/optimizer.py:307`) all the same, and the second moment isn't
corrected: the first step is 10 times longer than without correction. Decay is decoupled by default and outside the
trust ratio.

Prints `0.09999 expected: 0.01, learning rate times the norm of the parameter`.

[1]: https://github.com/kozistr/pytorch_optimizer
"""

import torch
from pytorch_optimizer import Lamb

p = torch.nn.Parameter(torch.ones(1))
p.grad = torch.ones(1)
Lamb([p], lr=0.01, betas=(0.9, 0.999)).step()
print(1 - p.item(), "expected: 0.01, learning rate times the norm of the parameter")
