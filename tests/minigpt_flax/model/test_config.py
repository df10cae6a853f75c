"""Tests for `minigpt_flax.model.config`."""

import subprocess
import sys

import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.model import config as names
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.initializers import INITS
from minigpt_flax.model.lm_head import SOFTCAPS
from minigpt_flax.model.mlp import MLPS
from minigpt_flax.model.norm import NORMS
from minigpt_flax.model.position import POSITIONS


def test_names_match_the_tables():
    assert names.NORM_NAMES == tuple(NORMS)
    assert names.POSITION_NAMES == tuple(POSITIONS)
    assert names.MLP_NAMES == tuple(MLPS)
    assert set(names.MULTIPLES) == {name for name, row in POSITIONS.items() if row.frequencies is not None}
    assert names.SOFTCAP_NAMES == tuple(SOFTCAPS)
    assert names.INIT_NAMES == tuple(INITS)


def test_importing_the_configuration_imports_no_jax():
    code = "import sys, minigpt_flax.model.config; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"heads": 3}, "heads=3 does not divide width=128; the divisors are: 1, 2, 4, 8, 16, 32, 64, 128"),
        ({"kv_heads": 3}, "kv_heads=3 does not divide heads=4; the divisors are: 1, 2, 4"),
        (
            {"mlp": "swigl"},
            "unknown mlp 'swigl' (did you mean 'swiglu'?); it is one of: gelu, gelu_tanh, swiglu, relu2",
        ),
        ({"norm": "batch"}, "unknown norm 'batch'; it is one of: layernorm, rmsnorm"),
        (
            {"position": "Rope"},
            "unknown position 'Rope' (did you mean 'rope'?); it is one of: learned, rope, half_rope, none",
        ),
        (
            {"position": "rope", "width": 12},
            "position='rope' needs a head size that is a multiple of 2, but width=12 over heads=4 is 3; change width",
        ),
        (
            {"position": "half_rope", "width": 24},
            "position='half_rope' needs a head size that is a multiple of 4, but width=24 over heads=4 is 6",
        ),
        ({"rope_base": 1.0}, "rope_base must be above 1, got 1.0"),
        ({"attention_scale": 0.0}, "attention_scale must be above 0, got 0.0"),
        ({"softcap_form": "tan"}, "unknown softcap_form 'tan' (did you mean 'tanh'?); it is one of: tanh, algebraic"),
        ({"init_scheme": "zero"}, "unknown init_scheme 'zero'"),
        ({"dropout": 1.0}, "dropout must be below 1, got 1.0"),
        ({"dropout": -0.1}, "dropout must be at least 0, got -0.1"),
        ({"dropout": float("nan")}, "dropout must be a number, got nan"),
        ({"softcap": 0.0}, "softcap must be above 0, got 0.0"),
        ({"norm_eps": 0.0}, "norm_eps must be at least 1e-30, got 0.0"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"vocab_size": -1}, "vocab_size must be at least 1, got -1"),
        ({"context": 0}, "context must be at least 1, got 0"),
        ({"kv_heads": 0}, "kv_heads must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
    ],
)
def test_invalid_configurations_are_refused_in_one_line(wrong, says):
    with pytest.raises(UserError) as error:
        ModelConfig(**({"vocab_size": 65} | wrong))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_defaults_that_depend_on_other_sizes():
    config = ModelConfig(vocab_size=65, heads=8, width=64)
    assert (config.head_size, config.key_value_heads) == (8, 8)
    assert ModelConfig(vocab_size=65, heads=8, width=64, kv_heads=2).key_value_heads == 2
