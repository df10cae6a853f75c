"""Several documents in one sequence: which token is in which, and where in its own document it stands.

A token that ends a text also begins the one after it, as in modded-nanogpt: the first token of a document is predicted
from the mark alone, the mark from the document before. Positions begin anew at every mark, so that a document has the
same losses in whatever sequence it lies.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Integer


def number_documents(tokens: Integer[Array, "B T"], end_of_text: int) -> Int[Array, "B T"]:
    """Counts the marks up to and with each token: tokens of one document have one number.

    >>> number_documents(jnp.array([[5, 6, 0, 7, 0]]), end_of_text=0)
    Array([[0, 0, 1, 1, 2]], dtype=int32)
    """
    return jnp.cumsum((tokens == end_of_text).astype(jnp.int32), axis=1)


def restart_positions(documents: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Counts the tokens before each in its own document.

    >>> restart_positions(jnp.array([[0, 0, 1, 1, 2]]))
    Array([[0, 1, 0, 1, 0]], dtype=int32)
    """
    place = jnp.broadcast_to(jnp.arange(documents.shape[1], dtype=jnp.int32)[None], documents.shape)
    begins = jnp.pad(documents[:, 1:] != documents[:, :-1], ((0, 0), (1, 0)))
    return place - jax.lax.cummax(jnp.where(begins, place, 0), axis=1)
