"""Parameters for tests that don't care which: drawn by NumPy, as compiling the real initialisation takes seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.model.gpt import init_params


@pytest.fixture(scope="session")
def draw():
    """Returns ``draw(config, stddev=0.02, seed=0) -> params``: normal, around 1 for scales and around 0 elsewhere."""

    def draw(config, stddev=0.02, seed=0):
        random = np.random.default_rng(seed)
        shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))

        def one(path, leaf):
            centre = float(path[-1].key == "scale")
            return jnp.asarray(random.normal(centre, stddev, leaf.shape), leaf.dtype)

        return jax.tree.map_with_path(one, shapes)

    return draw
