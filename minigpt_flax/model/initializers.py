"""Weight initialization: an initializer for each kind of matrix in the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flax.linen import initializers
from jax.nn.initializers import Initializer


class Init(NamedTuple):
    """One scheme. In all of them, biases start at 0 and scales at 1."""

    embedding: Initializer  # token and position embeddings
    first: Initializer  # matrices that read the residual stream
    output: Callable[[int], Initializer]  # matrices that write to it, given the number of layers
    head: Initializer  # the head, if it is not tied to the embedding


INITS: dict[str, Init] = {
    # Radford et al. 2019: 2 * layers branches write to the stream, and their sum has the variance of a single one.
    "gpt2": Init(
        embedding=initializers.normal(0.02),
        first=initializers.normal(0.02),
        output=lambda layers: initializers.normal(0.02 / (2 * layers) ** 0.5),
        head=initializers.normal(0.02),
    ),
    # modded-nanogpt (Jordan et al. 2024): initially every token passes through unchanged and all logits are 0. The
    # variance 0.33 / inputs is that of PyTorch's linear layers.
    "zero_out": Init(
        embedding=initializers.normal(1.0),
        first=initializers.variance_scaling(0.33, "fan_in", "normal"),
        output=lambda layers: initializers.zeros,
        head=initializers.zeros,
    ),
}
