"""60-step runs of EleutherAI/nanoGPT-mup, standard, mup and CompleteP, replayed by our model, wrapper and step."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxopt_mini import ParamLayout, adamw, chain, clip_by_norm
from jaxopt_mini.wrappers import multipliers, scale_units
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import init_params
from minigpt_flax.model.huggingface import from_gpt2, to_gpt2
from minigpt_flax.model.initializers import INITS
from minigpt_flax.model.layout import layout as model_layout
from minigpt_flax.train.build import loss_sum
from minigpt_flax.train.optimizer import decay_mask
from minigpt_flax.train.state import init_state
from minigpt_flax.train.step import make_step

GOLDEN = Path(__file__).parents[2] / "golden" / "mup"
RUNS = json.loads((GOLDEN / "mup.json").read_text())["runs"]
LOSS, GRAD_NORM, FINAL_NORM = 1e-5, 2e-4, 1e-5
QUICK = ("mup_w32", "completep_w32_l1")


def models(recorded):
    """The recorded model and its base, with the reference's factors."""
    given, completep = recorded["model"], recorded["branch"] == "completep"
    m, depth = given.get("mup_width_multiplier", 1.0), given.get("depth_multiplier", 1.0)
    width, layers, heads = given["n_embd"], given["n_layer"], given["n_head"]
    base = ModelConfig(
        vocab_size=given["vocab_size"],
        context=given["block_size"],
        width=round(width / m),
        layers=round(layers / depth),
        heads=round(heads / m),
        bias=given["bias"],
    )
    scaled = given.get("mup_enabled", False)
    numbers = {
        "attention_scale": heads / width if scaled and not given.get("mup_disable_attention_scaling") else None,
        "embedding_scale": given.get("mup_input_alpha", 1.0),
        "logit_scale": given.get("mup_output_alpha", 1.0) / m,
        "residual_scale": depth ** -given.get("depth_alpha_exp", 1.0),
        "init_width": base.width,
        "init_layers": base.layers if completep else None,
    }
    sizes = {"width": width, "layers": layers, "heads": heads}
    return ModelConfig(**{**vars(base), **sizes, **numbers}), base


def weights(recorded, model):
    units = np.load(GOLDEN / recorded["units"])
    stds = recorded["init_std"]
    tensors = {name: np.float32(std) * units[name].astype(np.float32) for name, std in stds.items()}
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    zeros = to_gpt2(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), plain(model))
    scales = {name: np.ones_like(leaf) for name, leaf in zeros.items() if "ln_" in name and name.endswith("weight")}
    return from_gpt2(zeros | scales | tensors, plain(model))


def plain(model):
    """The model without factors, of which GPT-2's format knows nothing."""
    sizes = {name: getattr(model, name) for name in ("vocab_size", "context", "width", "layers", "heads", "bias")}
    return ModelConfig(**sizes)


def optimizer(recorded, model, base, layout):
    given, completep = recorded["optimizer"], recorded["branch"] == "completep"
    shapes, small = (jax.eval_shape(lambda of=of: init_params(of, jax.random.key(0))) for of in (model, base))
    alpha = recorded["model"].get("depth_alpha_exp", 1.0)
    how = {"layout": layout, "alpha": alpha, "decay": "independent" if completep else "unscaled"}
    factors = multipliers(shapes, small, **how)
    alike = (
        max(jax.tree.leaves(factors.gradient)) if completep else 1.0
    )  # the reference scales eps alike, or not at all
    factors = factors._replace(gradient=jax.tree.map(lambda _: alike, shapes))
    eps = recorded["groups"][0]["eps"] * alike
    schedule = np.load(GOLDEN / f"{recorded['name']}.npz")["lr"]
    rate = lambda count: jax.numpy.asarray(schedule, "float32")[count]
    b1, b2 = given["betas"]
    keywords = {"b1": b1, "b2": b2, "eps": eps, "weight_decay": given["weight_decay"], "mask": decay_mask(layout)}
    return rate, chain(clip_by_norm(given["grad_clip"]), scale_units(adamw(rate, **keywords), factors))


def replay(name):
    recorded = {**RUNS[name], "name": name}
    model, base = models(recorded)
    params = weights(recorded, model)
    layout = jax.tree.map(lambda a: ParamLayout(a.role, a.stacked, a.inputs, a.outputs), model_layout(params))
    schedule, tx = optimizer(recorded, model, base, layout)
    step = jax.jit(make_step(loss_sum(model), tx, schedule, key=jax.random.key(0), layout=layout))
    state, history = init_state(params, tx), []
    for batch in np.load(GOLDEN / "batches.npz")["tokens"]:
        state, metrics = step(state, np.int32(batch))
        history.append(metrics)
    return jax.device_get(history), to_gpt2(state.params, plain(model))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in RUNS], ids=RUNS
)
def test_losses_gradient_norms_and_weights_are_reproduced(name):
    history, tensors = replay(name)
    expected = dict(np.load(GOLDEN / f"{name}.npz"))
    ours = {key: np.array([metrics[key] for metrics in history]) for key in ("loss", "grad_norm")}
    ends = {key.partition("/")[2]: value for key, value in expected.items() if key.startswith("final_norm/")}
    final = {key: abs(norm(tensors, key) / value - 1) for key, value in ends.items() if value}
    found = [
        np.max(np.abs(ours["loss"] - expected["loss"])),
        np.max(np.abs(ours["grad_norm"] / expected["grad_norm"] - 1)),
        max(final.values()),
    ]
    print(name, found)
    assert found[0] <= LOSS
    assert found[1] <= GRAD_NORM
    assert found[2] <= FINAL_NORM


def norm(tensors, name):
    """Norm of a tensor, or of the named part of a fused bias."""
    whole, slash, part = name.partition("/")
    if not slash:
        return np.linalg.norm(tensors[whole])
    return np.linalg.norm(dict(zip(("query", "key", "value"), np.split(tensors[whole], 3), strict=True))[part])


@pytest.mark.parametrize("name", RUNS)
def test_initial_standard_deviations_are_the_references(name):
    """Relative to the embedding's; CompleteP of the reference has no factor of the base's depth."""
    recorded = RUNS[name]
    model, base = models(recorded)
    init, stds = INITS["gpt2"], recorded["init_std"]
    depth = (2 * base.layers) ** 0.5 if recorded["branch"] == "completep" else 1.0
    ours = {"c_attn": init.first(model, model.width), "c_proj": init.output(model) * depth}
    scale = stds["transformer.wte.weight"] / init.embedding
    for part, std in ours.items():
        assert stds[f"transformer.h.0.attn.{part}.weight"] == pytest.approx(std * scale)
