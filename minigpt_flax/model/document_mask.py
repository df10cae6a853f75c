"""Document masks: which document each token of a sequence belongs to, and its position in that document.

The end-of-text token also begins the next document, as in modded-nanogpt: the first token of a document is predicted
from it alone, and it is predicted from the document before. Positions restart at every end-of-text token, so a document
has the same losses in every sequence that contains it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Integer


def number_documents(tokens: Integer[Array, "B T"], end_of_text: int) -> Int[Array, "B T"]:
    """Number the documents: count the end-of-text tokens up to and including each token.

    >>> number_documents(jnp.array([[5, 6, 0, 7, 0]]), end_of_text=0)
    Array([[0, 0, 1, 1, 2]], dtype=int32)
    """
    return jnp.cumsum((tokens == end_of_text).astype(jnp.int32), axis=1)


def restart_positions(documents: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Return each token's position within its own document.

    >>> restart_positions(jnp.array([[0, 0, 1, 1, 2]]))
    Array([[0, 1, 0, 1, 0]], dtype=int32)
    """
    position = jnp.broadcast_to(jnp.arange(documents.shape[1], dtype=jnp.int32)[None], documents.shape)
    begins = jnp.pad(documents[:, 1:] != documents[:, :-1], ((0, 0), (1, 0)))
    return position - jax.lax.cummax(jnp.where(begins, position, 0), axis=1)
