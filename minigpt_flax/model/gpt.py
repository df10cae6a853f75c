"""The decoder-only transformer of GPT-2 (Radford et al. 2019), with newer parts where the configuration asks for them.

    x = token embedding (+ position embedding)
    for each block:  x = x + attention(norm(x));  x = x + mlp(norm(x))
    logits = head(norm(x))

Every parameter is named here or in the part that owns it, never numbered by order of code, so a checkpoint outlives a
refactoring. Those of the blocks are stacked over layers: ``blocks/attention/query/kernel`` is (layers, D, D).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from minigpt_flax.errors import UserError
from minigpt_flax.model.attention import Attention
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.layers import over_layers
from minigpt_flax.model.linear import INIT_STDDEV, Dense, linear
from minigpt_flax.model.mlp import Mlp
from minigpt_flax.model.norm import Norm
from minigpt_flax.model.position import POSITIONS

Params = dict[str, Any]  # a nested dict of float32 arrays


class Block(nn.Module):
    """Attention, then the MLP, each reading a normalised copy of the residual stream and adding to it."""

    config: ModelConfig

    def setup(self) -> None:
        """Names the parts."""
        # 2 layers branches write to the stream; GPT-2 keeps the variance of their sum independent of depth.
        stddev = INIT_STDDEV / (2 * self.config.layers) ** 0.5
        self.norm_1, self.norm_2 = Norm(self.config), Norm(self.config)
        self.attention, self.mlp = Attention(self.config, stddev), Mlp(self.config, stddev)
        self.residual_dropout = nn.Dropout(self.config.dropout)

    def __call__(self, x: Float[Array, "B T D"], *, deterministic: bool) -> Float[Array, "B T D"]:
        """Adds what this block has found to the stream."""
        drop = functools.partial(self.residual_dropout, deterministic=deterministic)
        x = x + drop(self.attention(self.norm_1(x), deterministic=deterministic))
        return x + drop(self.mlp(self.norm_2(x)))

    def project(
        self, x: Float[Array, "B T D"], positions: Int[Array, " T"]
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
        """Makes queries, keys and values of the stream, for an attention that knows earlier keys and values too."""
        return self.attention.project(self.norm_1(x), positions)

    def join(self, x: Float[Array, "B T D"], mixed: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
        """Adds to the stream what such an attention has found, and all that comes after it in this block."""
        x = x + self.attention.join(mixed)
        return x + self.mlp(self.norm_2(x))


class GPT(nn.Module):
    """Tokens in, logits of the next token out."""

    config: ModelConfig

    def setup(self) -> None:
        """Names the parts."""
        config, init = self.config, nn.initializers.normal(INIT_STDDEV)
        self.token_embedding = nn.Embed(config.vocab_size, config.width, embedding_init=init)
        if POSITIONS[config.position].table:
            self.position_embedding = nn.Embed(config.context, config.width, embedding_init=init)
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.final_norm = Norm(config)
        if not config.tie_head:
            self.head = Dense(config.vocab_size, False, INIT_STDDEV)

    def __call__(self, tokens: Integer[Array, "B T"], *, deterministic: bool = True) -> Float[Array, "B T V"]:
        """Predicts the token after each position from that position and all earlier ones.

        Args:
            tokens: Token numbers, at most ``config.context`` in a row.
            deterministic: False drops out, with the key of the collection ``dropout``.

        Returns:
            float32 logits.

        Raises:
            UserError: If the sequence is longer than the context.
        """
        config, length = self.config, tokens.shape[1]
        if length > config.context:
            raise UserError(f"a sequence of {length} tokens is longer than the context of {config.context}; cut it")
        x = self.embedding_dropout(self.embed(tokens, jnp.arange(length)), deterministic=deterministic)
        return self.read_out(self._through_blocks(x, deterministic))

    def embed(self, tokens: Integer[Array, "B T"], positions: Int[Array, " T"]) -> Float[Array, "B T D"]:
        """Begins the residual stream of tokens at these positions."""
        x = self.token_embedding(tokens)
        if POSITIONS[self.config.position].table:
            x = x + self.position_embedding(positions)[None]
        return x

    def read_out(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Turns the end of the residual stream into float32 logits."""
        config, x = self.config, self.final_norm(x)
        logits = linear(x, self.token_embedding.embedding.T) if config.tie_head else self.head(x)
        logits = logits.astype(jnp.float32)
        return logits if config.softcap is None else config.softcap * jnp.tanh(logits / config.softcap)

    @nn.compact
    def _through_blocks(self, x: Float[Array, "B T D"], deterministic: bool) -> Float[Array, "B T D"]:
        """Runs the blocks one after the other; their parameters are stored stacked over layers however they run."""
        config, block = self.config, Block(self.config, parent=None)
        key = None if deterministic or config.dropout == 0 else self.make_rng("dropout")

        def init(key: Array) -> Params:
            one = lambda key: block.init(key, jnp.zeros((1, 1, config.width)), deterministic=True)["params"]
            return cast(Params, jax.vmap(one)(jax.random.split(key, config.layers)))

        def body(x: Array, layer: tuple[Params, Array]) -> tuple[Array, None]:
            params, i = layer
            rngs = {} if key is None else {"dropout": jax.random.fold_in(key, i)}
            return cast(Array, block.apply({"params": params}, x, deterministic=deterministic, rngs=rngs)), None

        layers = self.param("blocks", init), jnp.arange(config.layers)
        return over_layers(body, x, layers, loop=config.scan_layers)[0]


@functools.partial(jax.jit, static_argnames="config")
def init_params(config: ModelConfig, key: Array) -> Params:
    """Draws GPT-2's initial weights.

    Matrices and embeddings are normal with standard deviation 0.02, those that write to the residual stream 0.02 /
    sqrt(2 layers); biases are 0 and norm scales 1.

    Args:
        config: Sizes and parts.
        key: Random key.

    Returns:
        A plain nested dict of float32 arrays.
    """
    return cast(Params, GPT(config).init(key, jnp.zeros((1, 1), jnp.int32))["params"])


def apply(
    config: ModelConfig,
    params: Mapping[str, Any],
    tokens: Integer[Array, "B T"],
    *,
    deterministic: bool = True,
    dropout_key: Array | None = None,
) -> Float[Array, "B T V"]:
    """Runs the model as a function of its parameters; see `GPT`.

    Args:
        config: The configuration that made ``params``.
        params: A tree like that of `init_params`.
        tokens: Token numbers.
        deterministic: False drops out.
        dropout_key: Random key of this pass, needed when ``deterministic`` is False and ``config.dropout`` above 0.

    Returns:
        float32 logits.
    """
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    return cast(Array, GPT(config).apply({"params": params}, tokens, deterministic=deterministic, rngs=rngs))
