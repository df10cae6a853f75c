"""HeavyBall: `SOAP(precondition_frequency=10)` refreshes its bases after 11, then after 9 calls.

The optimizer [adds 1 / precondition_frequency][1] (`utils.py:3563`) in each call and refreshes when the sum passes an
integer. Ten times 0.1 is 0.9999999999999999 in floating point, so the first refresh comes one call late. The second
sum is 2.0000000000000004, so the second comes on time. Frequencies whose reciprocal is exact, as 1, 2 and 4, aren't
affected. All optimizers of the SOAP family share the counter. It also counts the first call, which only initializes;
the authors' code [counts the steps after it][2].

Prints `[11.0, 20.0, 30.0] expected: a refresh after every 10 calls`.

[1]: https://github.com/HomebrewML/HeavyBall
[2]: https://github.com/nikhilvyas/SOAP/blob/a1e553530fde97d0e6b307d7c82ac6d38b072340/soap.py
"""

import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"
import heavyball
import torch

p, steps = torch.nn.Parameter(torch.zeros(4, 4)), []
optimizer = heavyball.SOAP([p], precondition_frequency=10)
for step in range(1, 31):
    p.grad = torch.eye(4)
    optimizer.step()
    steps += [float(step)] if optimizer._is_preconditioning else []
print(steps, "expected: a refresh after every 10 calls")
