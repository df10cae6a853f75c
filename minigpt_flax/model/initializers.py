"""Weight initialization: the standard deviation of each kind of matrix in the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from flax.linen import initializers
from jax.nn.initializers import Initializer

from minigpt_flax.model.config import ModelConfig


class Init(NamedTuple):
    """One scheme: standard deviations of normal distributions. In all of them, biases start at 0 and scales at 1.

    Attributes:
      embedding: token and position embeddings.
      first: (configuration, fan-in) -> matrices that read the residual stream.
      output: configuration -> matrices that write to it.
      head: the head, if it is not tied to the embedding.
    """

    embedding: float
    first: Callable[[ModelConfig, int], float]
    output: Callable[[ModelConfig], float]
    head: float


def gpt2_first(config: ModelConfig, fan_in: int) -> float:
    """0.02, at the width that the configuration names: entries shrink with the root of the width."""
    del fan_in
    return 0.02 if config.init_width is None else 0.02 * (config.init_width / config.width) ** 0.5


def gpt2_output(config: ModelConfig) -> float:
    """``2 layers`` branches write to the stream, and their sum has the variance of a single one."""
    return gpt2_first(config, config.width) / (2 * (config.init_layers or config.layers)) ** 0.5


INITS: dict[str, Init] = {
    # Radford et al. 2019
    "gpt2": Init(embedding=0.02, first=gpt2_first, output=gpt2_output, head=0.02),
    # modded-nanogpt (Jordan et al. 2024): initially every token passes through unchanged and all logits are 0. The
    # variance 0.33 / inputs is that of PyTorch's linear layers, and shrinks with the width already.
    "zero_out": Init(
        embedding=1.0,
        first=lambda config, fan_in: math.sqrt(0.33 / fan_in),
        output=lambda config: 0.0,
        head=0.0,
    ),
}


def normal(std: float) -> Initializer:
    """Return the initializer of a standard deviation."""
    return initializers.normal(std) if std else initializers.zeros
