"""Random parameters, as for the tests of models."""

from tests.minigpt_flax.model.conftest import draw as draw
