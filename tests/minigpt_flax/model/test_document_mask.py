"""Tests for `minigpt_flax.model.document_mask`."""

import jax.numpy as jnp
import numpy as np

from minigpt_flax.model.document_mask import number_documents, restart_positions


def test_by_the_definition():
    tokens = np.random.default_rng(0).integers(0, 4, (3, 20))
    documents = number_documents(jnp.asarray(tokens), 0)
    positions = restart_positions(documents)
    for row, numbers, places in zip(tokens, np.asarray(documents), np.asarray(positions), strict=True):
        number = place = 0
        for i, token in enumerate(row):
            place = 0 if token == 0 or i == 0 else place + 1
            number += token == 0
            assert (numbers[i], places[i]) == (number, place)
