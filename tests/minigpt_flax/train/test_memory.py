"""A run that can't fit is refused before it is traced; one that fits never is."""

import dataclasses
import math

import jax
import pytest

from minigpt_flax.errors import Failed, UserError
from minigpt_flax.model import gpt
from minigpt_flax.model.config import MLP_NAMES, ModelConfig
from minigpt_flax.train import memory
from minigpt_flax.train.config.presets import PRESETS
from minigpt_flax.train.config.run_config import RunConfig, resolve
from minigpt_flax.train.memory import Limit, weights

GB = 10**9


@pytest.fixture
def machine(monkeypatch):
    """Sets the memory of the machine."""

    def of(size, **more):
        have = Limit(size, "this machine", **more)
        monkeypatch.setattr(memory, "limit", lambda: have)
        monkeypatch.setattr(memory, "host_limit", lambda: have)

    return of


@pytest.mark.parametrize("mlp", MLP_NAMES)
@pytest.mark.parametrize("more", [{}, {"kv_heads": 1, "tie_head": False}, {"position": "rope", "hidden": 24}])
def test_the_weights_are_counted_to_the_last_matrix(mlp, more):
    model = ModelConfig(vocab_size=11, context=8, layers=3, heads=4, width=48, mlp=mlp, **more)
    shapes = jax.eval_shape(lambda: gpt.init_params(model, jax.random.key(0)))
    exact = sum(leaf.size for leaf in jax.tree.leaves(shapes) if leaf.size >= 48 * 8)
    counted = sum(weights(model, 11).values())
    assert 0.97 * exact <= counted <= sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"vocab_size": 10**9},
            "--vocab-size 1,000,000,000 --width 128: .*, .* lower --vocab-size or --width",
        ),
        ({"width": 10**9, "heads": 2}, "--width 1,000,000,000 .*: lower --width"),
        ({"hidden": 2 * 10**9}, "--hidden 2,000,000,000"),
        ({"context": 10**9}, "--context 1,000,000,000 --width 128: .* lower --context or --width"),
        ({"context": 10**9, "position": "rope"}, "activations of a micro-batch"),
        ({"batch_size": 10**9}, "--batch-size 1,000,000,000 .* activations of a micro-batch .* lower --batch-size"),
        ({"accum": 10**9}, "--accum 1,000,000,000 .*the tokens of one step"),
        ({"layers": 10_000, "width": 1 << 16, "heads": 2}, "--layers 10,000"),
    ],
)
def test_what_does_not_fit_is_refused_at_once_with_what_to_lower(machine, wrong, message):
    machine(25 * GB)
    with pytest.raises(UserError, match=message) as error:
        memory.require_training(resolve(wrong, "nano"))
    assert "\n" not in str(error.value) and "25.0 GB" in str(error.value)


def test_presets_fit_where_they_are_known_to_run(machine):
    machine(150 * GB, shared=False)  # an H200
    for name in PRESETS:
        memory.require_training(resolve({}, name), 50304)
    machine(4 * GB)
    for name in ("nano", "char", "gpt2"):
        memory.require_training(dataclasses.replace(resolve({}, name), batch_size=1), 50304)


def test_states_and_caches_that_do_not_fit_are_refused(machine):
    machine(GB)
    memory.require_training(resolve({}, "nano"), 65, state=GB // 100, devices=8)
    with pytest.raises(UserError, match="the optimizer state"):
        memory.require_training(resolve({}, "nano"), 65, state=GB // 4, devices=8)  # eight copies share the memory
    with pytest.raises(UserError, match="100 runs at once need 2.00 GB"):
        memory.require_runs(GB // 50, 100)
    with pytest.raises(UserError, match="--num 100,000: .* lower --num to at most 3,"):
        memory.require_cache(ModelConfig(vocab_size=65), 100_000)


def test_a_compiled_step_that_does_not_fit_is_not_run(machine):
    compiled = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((100, 100), "float32")).compile()
    machine(10**6)
    memory.require_planned(compiled.memory_analysis())
    machine(10**4)
    with pytest.raises(Failed, match="lower --batch-size"):
        memory.require_planned(compiled.memory_analysis())


def test_the_memory_of_this_machine_is_found():
    assert 10**8 < memory.host_limit().size < math.inf
    memory.require_training(RunConfig())


def test_limits_of_control_groups(tmp_path):
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text("0::/a/b\n3:cpu,memory:/c\n")
    for path, text in (("a/memory.max", "500"), ("a/b/memory.max", "max"), ("memory/c/memory.limit_in_bytes", "700")):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    assert sorted(memory._cgroups(root, own)) == [500, 700]
