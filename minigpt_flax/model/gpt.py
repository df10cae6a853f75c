"""The decoder-only transformer of GPT-2 (Radford et al. 2019), with newer parts where the configuration asks for them.

    x = token embedding (+ position embedding), as it is or normalised
    for each block:  x = x + attention(norm(x));  x = x + mlp(norm(x))
    logits = head(norm(x))

Every parameter is named here or in the part that owns it, never numbered by order of code, so a checkpoint outlives a
refactoring. Those of the blocks are stacked over layers: ``blocks/attention/query/kernel`` is (layers, D, D).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from minigpt_flax.errors import UserError
from minigpt_flax.model.attention import Attention
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.document_mask import number_documents, restart_positions
from minigpt_flax.model.dropout import Dropout
from minigpt_flax.model.embedding import look_up
from minigpt_flax.model.initializers import INITS
from minigpt_flax.model.lm_head import Head, bound_of, logits_of, unbounded_logits
from minigpt_flax.model.loss import chunked_losses, loss_of_logits, own_memory, tokens_at_once
from minigpt_flax.model.mlp import Mlp
from minigpt_flax.model.norm import Norm
from minigpt_flax.model.position import POSITIONS
from minigpt_flax.model.scan import over_layers

Params = dict[str, Any]  # a nested dict of float32 arrays


REMAT: dict[str, Callable[..., bool] | None] = {  # what of a block the forward pass keeps for the backward pass
    "none": None,  # everything
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # products with weights; attention is made again
}


class Block(nn.Module):
    """Attention, then the MLP, each reading a normalised copy of the residual stream and adding to it."""

    config: ModelConfig

    def setup(self) -> None:
        """Names the parts."""
        self.norm_1, self.norm_2 = Norm(self.config), Norm(self.config)
        self.attention, self.mlp = Attention(self.config), Mlp(self.config)
        self.residual_dropout = Dropout(self.config.dropout)

    def __call__(
        self, x: Float[Array, "B T D"], documents: Int[Array, "B T"] | None = None, *, deterministic: bool
    ) -> Float[Array, "B T D"]:
        """Adds what this block has found to the stream."""
        drop = functools.partial(self.residual_dropout, deterministic=deterministic)
        x = x + drop(self.attention(self.norm_1(x), documents, deterministic=deterministic))
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
        """Names the parts around the blocks."""
        config, init = self.config, INITS[self.config.init_scheme].embedding
        self.token_embedding = nn.Embed(config.vocab_size, config.width, embedding_init=init)
        if POSITIONS[config.position].table:
            self.position_embedding = nn.Embed(config.context, config.width, embedding_init=init)
        if config.embedding_norm:
            self.embedding_norm = Norm(config)
        self.embedding_dropout = Dropout(config.dropout)
        self.final_norm = Norm(config)
        self.head = Head(config)

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
        return self.read_out(self.stream(tokens, None, deterministic))

    def losses(
        self, tokens: Integer[Array, "B T"], targets: Integer[Array, "B T"], *, deterministic: bool = True
    ) -> Float[Array, "B T"]:
        """`token_losses` of the predictions, each from its own document, made chunk by chunk where there are many."""
        config = self.config
        documents = None if config.end_of_text is None else number_documents(tokens, config.end_of_text)
        x = self.final_norm(self.stream(tokens, documents, deterministic))
        at_once = config.loss_chunk
        if at_once is None:
            at_once = tokens_at_once(targets.size, config.vocab_size, own_memory())
        read_out = functools.partial(unbounded_logits, *self.head(self.token_embedding.embedding))
        losses_of = loss_of_logits(bound_of(config))
        return chunked_losses(read_out, x, targets, at_once or targets.size, losses_of)

    def stream(
        self, tokens: Integer[Array, "B T"], documents: Int[Array, "B T"] | None, deterministic: bool
    ) -> Float[Array, "B T D"]:
        """The residual stream after the last block."""
        length = tokens.shape[1]
        if length > self.config.context:
            raise UserError(
                f"a sequence of {length} tokens is longer than the context of {self.config.context}; cut it"
            )
        positions = jnp.arange(length) if documents is None else restart_positions(documents)
        x = self.embedding_dropout(self.embed(tokens, positions), deterministic=deterministic)
        return self.through_blocks(x, documents, deterministic)

    def embed(
        self, tokens: Integer[Array, "B T"], positions: Int[Array, " T"] | Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Begins the residual stream of tokens at these positions."""
        x = look_up(self.token_embedding.embedding, tokens)
        if POSITIONS[self.config.position].table:
            x = x + look_up(self.position_embedding.embedding, positions if positions.ndim == 2 else positions[None])
        if self.config.embedding_norm:
            x = self.embedding_norm(x)
        return x.astype(self.config.dtype)

    @nn.compact
    def through_blocks(
        self, x: Float[Array, "B T D"], documents: Int[Array, "B T"] | None, deterministic: bool
    ) -> Float[Array, "B T D"]:
        """Runs the blocks one after the other; their parameters are stored stacked over layers however they run."""
        config, block = self.config, Block(self.config, parent=None)
        drawing = Block(_plain(config), parent=None)
        key = None if deterministic or config.dropout == 0 else self.make_rng("dropout")

        def init(key: Array) -> Params:
            one = lambda key: drawing.init(key, jnp.zeros((1, 1, config.width)), deterministic=True)["params"]
            return cast(Params, jax.vmap(one)(jax.random.split(key, config.layers)))

        def body(x: Array, layer: tuple[Params, Array]) -> tuple[Array, None]:
            params, i = layer
            rngs = {} if key is None else {"dropout": jax.random.fold_in(key, i)}
            y = block.apply({"params": params}, x, documents, deterministic=deterministic, rngs=rngs)
            return cast(Array, y), None

        if (keep := REMAT[config.remat]) is not None:
            body = jax.checkpoint(body, policy=keep, prevent_cse=not config.scan_layers)
        layers = self.param("blocks", init), jnp.arange(config.layers)
        return over_layers(body, x, layers, loop=config.scan_layers)[0]

    def read_out(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Turns the end of the residual stream into float32 logits."""
        return logits_of(self.config, *self.head(self.token_embedding.embedding), self.final_norm(x))


def _plain(config: ModelConfig) -> ModelConfig:
    """What draws parameters: it runs on one token, which is too few for a kernel of attention, and in float32."""
    return dataclasses.replace(config, attention="plain")


@functools.partial(jax.jit, static_argnames="config")
def init_params(config: ModelConfig, key: Array) -> Params:
    """Draws initial weights, by the scheme of the configuration; GPT-2's unless it says otherwise.

    Args:
        config: Sizes and parts.
        key: Random key.

    Returns:
        A plain nested dict of float32 arrays.
    """
    return cast(Params, GPT(_plain(config)).init(key, jnp.zeros((1, 1), jnp.int32))["params"])


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


def losses(
    config: ModelConfig,
    params: Mapping[str, Any],
    tokens: Integer[Array, "B T"],
    targets: Integer[Array, "B T"],
    *,
    deterministic: bool = True,
    dropout_key: Array | None = None,
) -> Float[Array, "B T"]:
    """The loss of each prediction: `token_losses` of `apply`, without holding all logits where they are many.

    Args:
        config: The configuration that made ``params``. Its ``loss_chunk`` says how many tokens are read out at once;
            with its ``end_of_text``, a prediction knows its own document only.
        params: A tree like that of `init_params`.
        tokens: Token numbers.
        targets: The token that came after each.
        deterministic: False drops out.
        dropout_key: As in `apply`.

    Returns:
        Nats, float32.
    """
    rngs, told = {} if dropout_key is None else {"dropout": dropout_key}, {"deterministic": deterministic}
    found = GPT(config).apply({"params": params}, tokens, targets, **told, rngs=rngs, method="losses")
    return cast(Array, found)
