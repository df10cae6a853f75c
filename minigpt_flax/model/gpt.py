"""Decoder-only transformer of GPT-2 (Radford et al. 2019), with newer components as options.

    x = token embedding (+ position embedding), optionally normalized
    for each block:  x = x + attention(norm(x));  x = x + mlp(norm(x))
    logits = head(norm(x))

Every parameter has an explicit name, given here or in its submodule, and never a number from the order of the code, so
checkpoints stay valid when code is reordered. Parameters of the blocks are stacked over layers:
``blocks/attention/query/kernel`` has the shape (layers, D, D).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from minigpt_flax.errors import UserError
from minigpt_flax.model.attention import MAX_LOGITS, Attention
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.document_mask import number_documents, restart_positions
from minigpt_flax.model.dropout import Dropout
from minigpt_flax.model.embedding import look_up
from minigpt_flax.model.initializers import INITS, normal
from minigpt_flax.model.linear import scaled
from minigpt_flax.model.lm_head import Head, logits_of, softcap_of, uncapped_logits
from minigpt_flax.model.loss import chunked_losses, device_memory, losses_of_logits, tokens_per_chunk
from minigpt_flax.model.mlp import Mlp
from minigpt_flax.model.norm import Norm
from minigpt_flax.model.position import POSITIONS
from minigpt_flax.model.scan import apply_layers

Params = dict[str, Any]  # a nested dict of float32 arrays


ATTENTION_PATH = "blocks/attention"
REMAT: dict[str, Callable[..., bool] | None] = {  # activations of a block that are saved for the backward pass
    "none": None,  # all
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # products with weights; recomputes attention
}


class Block(nn.Module):
    """Attention, then the MLP; each reads the normalized residual stream and adds to it."""

    config: ModelConfig

    def setup(self) -> None:
        """Declare the submodules."""
        self.norm_1, self.norm_2 = Norm(self.config), Norm(self.config)
        self.attention, self.mlp = Attention(self.config), Mlp(self.config)
        self.residual_dropout = Dropout(self.config.dropout, self.config.batch_axis)

    def __call__(
        self, x: Float[Array, "B T D"], documents: Int[Array, "B T"] | None = None, *, deterministic: bool
    ) -> Float[Array, "B T D"]:
        """Apply the block to the residual stream."""
        drop = functools.partial(self.residual_dropout, deterministic=deterministic)
        x = self.add(x, drop(self.attention(self.norm_1(x), documents, deterministic=deterministic)))
        return self.add(x, drop(self.mlp(self.norm_2(x))))

    def add(self, x: Float[Array, "B T D"], branch: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Add the output of a branch to the residual stream."""
        return x + scaled(branch, self.config.residual_scale)

    def project(
        self, x: Float[Array, "B T D"], positions: Int[Array, " T"] | Int[Array, "B T"]
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
        """Compute queries, keys and values, for attention over a KV cache."""
        return self.attention.project(self.norm_1(x), positions)

    def after_attention(self, x: Float[Array, "B T D"], heads: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
        """Add the output of such an attention to the stream, and apply the rest of the block."""
        x = self.add(x, self.attention.attention_output(heads))
        return self.add(x, self.mlp(self.norm_2(x)))


class GPT(nn.Module):
    """Token ids in, logits of the next token out."""

    config: ModelConfig

    def setup(self) -> None:
        """Declare the submodules around the blocks."""
        config, init = self.config, normal(INITS[self.config.init_scheme].embedding)
        self.token_embedding = nn.Embed(config.vocab_size, config.width, embedding_init=init)
        if POSITIONS[config.position].table:
            self.position_embedding = nn.Embed(config.context, config.width, embedding_init=init)
        if config.embedding_norm:
            self.embedding_norm = Norm(config)
        self.embedding_dropout = Dropout(config.dropout, config.batch_axis)
        self.final_norm = Norm(config)
        self.head = Head(config)

    def __call__(self, tokens: Integer[Array, "B T"], *, deterministic: bool = True) -> Float[Array, "B T V"]:
        """Predict the token after each position from that position and all earlier ones of its document.

        Args:
          tokens: token ids, at most ``config.context`` per row.
          deterministic: False applies dropout, with the key of the collection ``dropout``.

        Returns:
          float32 logits.

        Raises:
          UserError: the sequence is longer than the context.
        """
        return self.unembed(self.hidden_states(tokens, documents_of(self.config, tokens), deterministic))

    def losses(
        self, tokens: Integer[Array, "B T"], targets: Integer[Array, "B T"], *, deterministic: bool = True
    ) -> Float[Array, "B T"]:
        """Compute `token_losses` of the predictions within documents, chunk by chunk if there are many logits."""
        config = self.config
        x = self.final_norm(self.hidden_states(tokens, documents_of(config, tokens), deterministic))
        chunk = config.loss_chunk
        if chunk is None:
            chunk = tokens_per_chunk(targets.size, config.vocab_size, device_memory())
        unembed = functools.partial(uncapped_logits, config, *self.head(self.token_embedding.embedding))
        losses_of = losses_of_logits(softcap_of(config))
        return chunked_losses(unembed, x, targets, chunk or targets.size, losses_of)

    def hidden_states(
        self, tokens: Integer[Array, "B T"], documents: Int[Array, "B T"] | None, deterministic: bool
    ) -> Float[Array, "B T D"]:
        """Return the residual stream after the last block."""
        length = tokens.shape[1]
        if length > self.config.context:
            raise UserError(
                f"a sequence of {length} tokens is longer than the context of {self.config.context}; shorten it"
            )
        positions = jnp.arange(length) if documents is None else restart_positions(documents)
        x = self.embedding_dropout(self.embed(tokens, positions), deterministic=deterministic)
        return self.apply_blocks(x, documents, deterministic)

    def embed(
        self, tokens: Integer[Array, "B T"], positions: Int[Array, " T"] | Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Embed tokens at these positions: the start of the residual stream."""
        x = look_up(self.token_embedding.embedding, tokens)
        if POSITIONS[self.config.position].table:
            x = x + look_up(self.position_embedding.embedding, positions if positions.ndim == 2 else positions[None])
        if self.config.embedding_norm:
            x = self.embedding_norm(x)
        return scaled(x, self.config.embedding_scale).astype(self.config.dtype)

    @nn.compact
    def apply_blocks(
        self, x: Float[Array, "B T D"], documents: Int[Array, "B T"] | None, deterministic: bool
    ) -> Float[Array, "B T D"]:
        """Apply the blocks in order, as a loop or unrolled; their parameters are stacked over layers in both cases."""
        config, block = self.config, Block(self.config, parent=None)
        plain_block = Block(_plain(config), parent=None)
        key = None if deterministic or config.dropout == 0 else self.make_rng("dropout")

        def init(key: Array) -> Params:
            one = lambda key: plain_block.init(key, jnp.zeros((1, 1, config.width)), deterministic=True)["params"]
            return cast(Params, jax.vmap(one)(jax.random.split(key, config.layers)))

        wanted = [MAX_LOGITS] if self.is_mutable_collection(MAX_LOGITS) and not self.is_initializing() else []

        def body(x: Array, layer: tuple[Params, Array]) -> tuple[Array, Params]:
            params, i = layer
            rngs = {} if key is None else {"dropout": jax.random.fold_in(key, i)}
            how = {"deterministic": deterministic, "rngs": rngs, "mutable": wanted}
            return cast(tuple[Array, Params], block.apply({"params": params}, x, documents, **how))

        if (policy := REMAT[config.remat]) is not None:
            body = jax.checkpoint(body, policy=policy, prevent_cse=not config.scan_layers)
        layers = self.param("blocks", init), jnp.arange(config.layers)
        x, found = apply_layers(body, x, layers, loop=config.scan_layers)
        for name in wanted:
            self.put_variable(name, ATTENTION_PATH, found[name]["attention"][name])
        return x

    def unembed(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Convert the final residual stream to float32 logits."""
        return logits_of(self.config, *self.head(self.token_embedding.embedding), self.final_norm(x))


def documents_of(config: ModelConfig, tokens: Integer[Array, "B T"]) -> Int[Array, "B T"] | None:
    """Number the documents that attention is limited to; None if it is not limited."""
    return None if config.end_of_text is None else number_documents(tokens, config.end_of_text)


def _plain(config: ModelConfig) -> ModelConfig:
    """The configuration for initialization, which runs on one token: too few for an attention kernel."""
    return dataclasses.replace(config, attention="plain")


@functools.partial(jax.jit, static_argnames="config")
def init_params(config: ModelConfig, key: Array) -> Params:
    """Draw initial weights with the initialization scheme of the configuration, by default GPT-2's.

    Args:
      config: configuration of the model.
      key: random key.

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
    """Apply the model as a pure function of its parameters; see `GPT`.

    Args:
      config: configuration of ``params``.
      params: tree like that of `init_params`.
      tokens: token ids.
      deterministic: False applies dropout.
      dropout_key: random key of this pass; required if ``deterministic`` is False and ``config.dropout`` is above 0.

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
    """Compute the loss of each prediction: `token_losses` of `apply`, without storing all logits if they are many.

    Args:
      config: configuration of ``params``. Its ``loss_chunk`` sets the tokens whose logits are computed at once; with
        its ``end_of_text``, predictions use only their own document.
      params: tree like that of `init_params`.
      tokens: token ids.
      targets: the next token of each.
      deterministic: False applies dropout.
      dropout_key: as in `apply`.

    Returns:
      Losses in nats, float32.
    """
    return losses_and_max_logits(
        config, params, tokens, targets, deterministic=deterministic, dropout_key=dropout_key, collections=()
    )[0]


def losses_and_max_logits(
    config: ModelConfig,
    params: Mapping[str, Any],
    tokens: Integer[Array, "B T"],
    targets: Integer[Array, "B T"],
    *,
    deterministic: bool = True,
    dropout_key: Array | None = None,
    collections: Collection[str] = (MAX_LOGITS,),
) -> tuple[Float[Array, "B T"], dict[str, Float[Array, "layers heads"]]]:
    """Compute `losses`, and the largest attention logit of each head in each layer, by the path of its module.

    Args:
      config: configuration of ``params``.
      params: tree like that of `init_params`.
      tokens: token ids.
      targets: the next token of each.
      deterministic: False applies dropout.
      dropout_key: as in `apply`.
      collections: empty computes no logits and returns an empty dict.

    Returns:
      Losses in nats, and logits, float32.
    """
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    call = functools.partial(GPT(config).apply, rngs=rngs, method="losses", mutable=list(collections))
    found, sown = cast(tuple[Array, Any], call({"params": params}, tokens, targets, deterministic=deterministic))
    return found, dict(sown.get(MAX_LOGITS, {}))
