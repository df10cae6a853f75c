"""HeavyBall: `mars=True` exchanges gamma and b1.

[`mars_correction(g, old_g, beta1, gamma)`][1] (`utils.py:3693`) is called with `mars_gamma` in the place of `beta1`
and beta1 in that of `gamma` (`chainable.py:689`). With b1 = 0.95 and gamma = 0.1 the difference of gradients has the
weight 0.95 * 0.1 / 0.9 = 0.106 in place of 0.1 * 0.95 / 0.05 = 1.9. The README describes the flag as the
[variance reduction of the paper][2].

Prints `tensor([1.1056]) expected: 2.9`.

[1]: https://github.com/HomebrewML/HeavyBall
[2]: https://arxiv.org/abs/2411.10438
"""

import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"
import heavyball
import torch

p = torch.nn.Parameter(torch.zeros(1))
optimizer = heavyball.AdamW([p], betas=(0.95, 0.99), mars=True, mars_gamma=0.1)
p.grad = torch.ones(1)  # the first corrected gradient is 1 + weight
optimizer.step()
print(optimizer.state_dict()["state"][0][0]["update_by_adam_exp_avg_0"], "expected: 2.9")
