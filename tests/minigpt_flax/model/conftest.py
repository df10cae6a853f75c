"""Random parameters for tests, drawn with NumPy: compiling the real initialization takes seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.model.gpt import init_params


@pytest.fixture(scope="session")
def draw():
    """Returns ``draw(config, stddev=0.02, seed=0) -> params``: normal, with mean 1 for scales and 0 otherwise."""

    def draw(config, stddev=0.02, seed=0):
        random = np.random.default_rng(seed)
        shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))

        def one(path, leaf):
            mean = float(path[-1].key == "scale")
            return jnp.asarray(random.normal(mean, stddev, leaf.shape), leaf.dtype)

        return jax.tree.map_with_path(one, shapes)

    return draw
