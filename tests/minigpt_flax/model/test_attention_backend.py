"""Tests for `minigpt_flax.model.attention_backend`, and for the kernels as far as possible without their devices."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from minigpt_flax.data.tokenizers.ids import Ids
from minigpt_flax.errors import UserError
from minigpt_flax.model import gpt
from minigpt_flax.model.attention import ATTENTION, Kernel, attend
from minigpt_flax.model.attention_backend import choose_attention, deviation, fallback_reason
from minigpt_flax.model.attention_kernels import cudnn, tpu
from minigpt_flax.model.config import ATTENTION_NAMES, DTYPE_NAMES, ModelConfig
from minigpt_flax.train.build import loss_sum, make_setup
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.step import make_step

CONFIG = ModelConfig(11, context=8, heads=4, kv_heads=2, width=32)


def test_names_match_the_table():
    assert tuple(ATTENTION) == ATTENTION_NAMES


@pytest.mark.parametrize("word", ["auto", "plain"])
def test_cpu_uses_plain_attention(word):
    assert choose_attention(CONFIG, word) == (CONFIG, "")


@pytest.mark.parametrize(("word", "device"), [("cudnn", "gpu"), ("tpu", "tpu")])
def test_a_kernel_of_another_device_falls_back_with_a_reason(word, device):
    assert choose_attention(CONFIG, word) == (CONFIG, f"{word} requires a {device}, this is a cpu")


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match=r"no attention is called 'cudn' \(did you mean 'cudnn'\?\); there are: auto"):
        choose_attention(CONFIG, "cudn")


def own(function, **parts):
    return Kernel(function, **{"backend": None, "dtypes": DTYPE_NAMES, "drops": False} | parts)


def forgets_the_future(q, k, v, **known):
    return attend(q[:, ::-1], k[:, ::-1], v[:, ::-1], **known)[:, ::-1]


@pytest.mark.parametrize(
    ("row", "parts", "why"),
    [
        (own(attend), {}, ""),
        (own(attend), {"dtype": "bfloat16", "end_of_text": 0}, ""),
        (own(attend), {"dropout": 0.1}, "does not support dropout, which is 0.1"),
        (own(attend, dtypes=("bfloat16",)), {}, "supports bfloat16, not float32"),
        (own(cudnn), {}, "fails here: "),
        (own(tpu), {}, "fails here: "),
        (own(forgets_the_future), {}, "computes wrong results here, by "),
    ],
)
def test_a_kernel_is_tried_before_it_is_used(row, parts, why):
    found = fallback_reason(row, dataclasses.replace(CONFIG, **parts))
    assert found.startswith(why) and bool(found) == bool(why)


def test_the_trial_compares_gradients_too():
    @jax.custom_vjp
    def wrong(q, k, v):
        return attend(q, k, v)

    wrong.defvjp(lambda q, k, v: (attend(q, k, v), (q, k, v)), lambda kept, ct: tuple(map(jnp.zeros_like, kept)))
    row = own(lambda q, k, v, **known: wrong(q, k, v))
    assert deviation(row, CONFIG) > 0.1


@pytest.mark.parametrize("documents", [False, True])
def test_the_tpu_kernel_lowers_for_a_tpu(documents):
    shapes = [jax.ShapeDtypeStruct((2, 256, heads, 64), "bfloat16") for heads in (4, 2, 2)]
    marks = jax.ShapeDtypeStruct((2, 256), "int32") if documents else None

    def gradients(q, k, v, marks):
        return jax.grad(lambda *qkv: jnp.sum(tpu(*qkv, documents=marks).astype(jnp.float32)), (0, 1, 2))(q, k, v)

    exported = jax.export.export(jax.jit(gradients), platforms=["tpu"])(*shapes, marks)
    assert exported.mlir_module().count("tpu_custom_call") >= 3  # forward, keys and values, queries


def test_a_kernel_gets_whole_contexts_in_its_own_dtype(monkeypatch):
    seen = []

    def picky(q, k, v, **known):
        seen.append((q.shape[1], q.dtype.name))
        return attend(q, k, v, **known)

    monkeypatch.setitem(ATTENTION, "cudnn", own(picky, dtypes=("bfloat16",)))
    plan = make_setup(resolve({"dtype": "bfloat16", "layers": 1, "context": 8, "width": 8}, "nano"), Ids(11))
    model = dataclasses.replace(plan.model, attention="cudnn")
    step = make_step(loss_sum(model), plan.tx, plan.schedule, key=jax.random.key(0))
    params = jax.eval_shape(lambda: gpt.init_params(model, jax.random.key(0)))
    assert jax.tree.structure(params) == jax.tree.structure(plan.shapes) and not seen
    jax.eval_shape(step, jax.eval_shape(plan.init), jax.ShapeDtypeStruct((2, 9), "int32"))
    assert set(seen) == {(8, "bfloat16")}


def test_the_trial_passes_inputs_as_arguments():
    def mix(q, k, v, **known):
        assert all(isinstance(a, jax.core.Tracer) for a in (q, k, v, known["documents"]))
        return attend(q, k, v, **known)

    assert deviation(own(mix), dataclasses.replace(CONFIG, end_of_text=0)) == 0
