"""HeavyBall: `caution=True` treats a gradient of 0 as a positive one.

The mask [compares sign bits][1] (`utils.py:3724`), with the comment "Mask if they point in different directions". The
sign bit of 0.0 is that of a positive number: where the gradient is 0 (an unseen row of an embedding), a positive
update is applied and a negative one is masked. The authors' mask is [`exp_avg * grad > 0`][2], which masks both.
`cautious_weight_decay=True` has the same comparison.

Prints `[-1.34316, 0.0] expected: both 0, or both of the same size`.

[1]: https://github.com/HomebrewML/HeavyBall
[2]: https://github.com/kyleliang919/C-Optim/blob/2c0517c4db2e50b56d389ba4803eab1f4b3b8ae3/c_adamw.py
"""

import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"
import heavyball
import torch

p = torch.nn.Parameter(torch.zeros(2))
optimizer = heavyball.AdamW([p], lr=1.0, caution=True)
for grad in ([1.0, -1.0], [0.0, 0.0]):
    p.grad, before = torch.tensor(grad), p.detach().clone()
    optimizer.step()
print((p - before).tolist(), "expected: both 0, or both of the same size")
