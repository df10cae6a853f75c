"""Tests for `minigpt_flax.model.attention_kernels`: a kernel that defines first derivatives only."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.data.tokenizers.ids import Ids
from minigpt_flax.model.attention import ATTENTION, Kernel, attend
from minigpt_flax.model.attention_kernels import differentiable_twice
from minigpt_flax.spec import parse
from minigpt_flax.train.build import chosen_probes, loss_sum, make_setup
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.step import make_step


def opaque(function, *arguments):
    """A function of arrays that can't be differentiated, like a kernel call."""
    return jax.pure_callback(
        jax.jit(function), jax.eval_shape(function, *arguments), *arguments, vmap_method="sequential"
    )


def kernel(q, k, v, *, documents=None, scale=None):
    plain = lambda q, k, v, documents: attend(q, k, v, documents=documents, scale=scale)

    @jax.custom_vjp
    def run(q, k, v, documents):
        return opaque(plain, q, k, v, documents)

    def gradients(q, k, v, documents, along):
        return jax.vjp(lambda *qkv: plain(*qkv, documents), q, k, v)[1](along)

    run.defvjp(
        lambda *given: (opaque(plain, *given), given),
        lambda kept, along: (*opaque(gradients, *kept, along), None),
    )
    return run(q, k, v, documents)


FAST = differentiable_twice(kernel, attend)
SCALES = [None, 0.3]


def given(batch=2):
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v = (jax.random.normal(key, (batch, 6, heads, 4)) for key, heads in zip(keys[:3], (4, 2, 2), strict=True))
    return q, k, v


def loss(mix, scale, q, k, v):
    return jnp.sum(jnp.sin(mix(q, k, v, scale=scale)))


def product(mix, scale, qkv, along):
    slope = jax.grad(functools.partial(loss, mix, scale), argnums=(0, 1, 2))
    return jax.vjp(slope, *qkv)[1](along)


def test_the_kernel_alone_has_no_second_derivative():
    with pytest.raises(ValueError, match="Pure callbacks do not support"):
        product(kernel, None, given(), given())


@pytest.mark.parametrize("scale", SCALES)
def test_value_gradient_and_hessian_vector_product(scale):
    qkv, along = given(), tuple(jnp.cos(a) for a in given())
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    close(FAST(*qkv, scale=scale), attend(*qkv, scale=scale))
    for fast, exact in zip(
        jax.jit(lambda *qkv: product(FAST, scale, qkv, along))(*qkv), product(attend, scale, qkv, along), strict=True
    ):
        close(fast, exact)
    slopes = [jax.grad(functools.partial(loss, mix, scale), argnums=(0, 1, 2))(*qkv) for mix in (FAST, attend)]
    jax.tree.map(close, *slopes)


def test_vmapped_with_different_documents():
    qkv = given(batch=3)
    documents = jnp.array([[0, 0, 1, 1, 2, 2], [0] * 6, [0, 1, 1, 1, 1, 1]])
    parts = [a[:, None] for a in (*qkv, documents)]

    def slope(mix, q, k, v, documents):
        return jax.grad(lambda q: jnp.sum(mix(q, k, v, documents=documents) ** 2))(q)

    found = jax.vmap(functools.partial(slope, FAST))(*parts)
    np.testing.assert_allclose(found[:, 0], slope(attend, *qkv, documents), atol=1e-5)


def test_gradients_run_only_the_kernels():
    program = jax.jit(jax.grad(functools.partial(loss, FAST, None))).lower(*given()).as_text()
    assert program.count("@xla_ffi_python_cpu_callback") == 2 and "exponential" not in program


@pytest.mark.parametrize("remat", ["none", "full"])
def test_sophia_and_sharpness_differentiate_a_kernel_twice(monkeypatch, remat):
    monkeypatch.setitem(ATTENTION, "cudnn", Kernel(FAST, None, ("float32",), drops=False))
    plan = make_setup(
        resolve({"opt": "sophia", "layers": 2, "context": 8, "width": 8, "remat": remat}, "nano"), Ids(11)
    )
    model = dataclasses.replace(plan.model, attention="cudnn")
    probes = chosen_probes((parse("sharpness(every=1)", "probe"),))
    step = make_step(loss_sum(model), plan.tx, plan.schedule, key=jax.random.key(0), layout=plan.layout, probes=probes)
    _, metrics = jax.eval_shape(step, jax.eval_shape(plan.init), jax.ShapeDtypeStruct((2, 9), "int32"))
    assert "sharpness" in list(metrics)
