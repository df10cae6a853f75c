"""Presets: values of ``RunConfig`` fields as typed on the command line, and a one-line note on each. Imports no JAX."""

from __future__ import annotations

from typing import Any

NANO = {
    "opt": "adamw(b2=0.99, weight_decay=0.1)",
    "schedule": "warmup_cosine(warmup=0.05, floor=0.1)",
    "clip": "clip_by_norm(1.0)",
    "steps": 2000,
    "batch_size": 12,
    "layers": 4,
    "heads": 4,
    "width": 128,
    "context": 64,
    "dropout": 0.0,
    "bias": False,
}
PRESETS: dict[str, dict[str, Any]] = {
    "nano": NANO,
    "nanogpt": {**NANO, "lr": 1e-3},
    "demo": {**NANO, "steps": 1500, "eval_every": 250, "lr": 3e-3, "schedule": "warmup_cosine(warmup=0.1, floor=0.0)"},
    "sprint": {
        **NANO,
        "opt": 'muon(ns_steps=4, preconditioning="aol")',  # a product less each, for the same orthogonality
        "lr": 0.03,
        "schedule": "warmup_cosine(warmup=0.05, floor=0.0)",
        "steps": 300,
        "eval_every": 300,
        "norm": "rmsnorm",
        "position": "rope",
        "mlp": "relu2",
        "qk_norm": True,
    },
    "char": {
        **NANO,
        "lr": 1e-3,
        "schedule": "warmup_cosine(warmup=0.02, floor=0.1)",
        "steps": 5000,
        "batch_size": 64,
        "layers": 6,
        "heads": 6,
        "width": 384,
        "context": 256,
        "dropout": 0.2,
    },
    "course": {
        **NANO,
        "opt": "adamw(b1=0.9, b2=0.999, eps=1e-08, weight_decay=0.01)",
        "lr": 1e-4,
        "schedule": "cosine",
        "steps": 1000,
    },
}
GPT2 = {  # on top of the sizes, as Karpathy's llm.c trains each; its warm-up is 700 steps in all of them
    "opt": "adamw(b2=0.95, weight_decay=0.1)",
    "clip": "clip_by_norm(1.0)",
    "tokens_per_step": 1 << 19,
    "context": 1024,
    "norm": "layernorm",
    "position": "learned",
    "mlp": "gelu_tanh",
    "bias": True,
    "dropout": 0.0,
    "tokenizer": "gpt2",
    "dtype": "bfloat16",
}
PRESETS |= {
    "gpt2": {
        **GPT2,
        "lr": 6e-4,
        "schedule": "warmup_cosine(warmup=0.0371, floor=0.0)",
        "steps": 18_865,
        "batch_size": 32,
        "layers": 12,
        "heads": 12,
        "width": 768,
    },
    "gpt2-medium": {
        **GPT2,
        "lr": 3e-4,
        "schedule": "warmup_cosine(warmup=0.01167, floor=0.0)",
        "steps": 60_000,
        "batch_size": 32,
        "layers": 24,
        "heads": 16,
        "width": 1024,
    },
    "gpt2-large": {
        **GPT2,
        "lr": 2.5e-4,
        "schedule": "warmup_cosine(warmup=0.002447, floor=0.0)",
        "steps": 286_102,
        "batch_size": 16,
        "layers": 36,
        "heads": 20,
        "width": 1280,
    },
    "gpt2-xl": {
        **GPT2,
        "lr": 6e-4,
        "schedule": "warmup_cosine(warmup=0.021875, floor=0.1)",
        "tokens_per_step": 1 << 20,
        "steps": 32_000,
        "batch_size": 8,
        "layers": 48,
        "heads": 25,
        "width": 1600,
    },
}
# modded-nanogpt's optimizer benchmark (Jordan et al., track 3): model, data and batch are fixed; the goal is an
# optimizer that reaches a loss of 3.28 in fewer than the 3250 steps of this one. Gradients are summed over the tokens
# of a step there and averaged here, so each eps is divided by the number of tokens.
SPEEDRUN_TOKENS = 1 << 19
SPEEDRUN_AUX = f"b1=0.8, b2=0.95, eps={1e-10 / SPEEDRUN_TOKENS:.4g}, weight_decay=0.001"
PRESETS["speedrun"] = {
    "opt": f"muon(ns_coeffs=(2.0, -1.5, 0.5), ns_steps=12, eps={1e-7 / SPEEDRUN_TOKENS:.4g}, weight_decay=0.05, "
    "debias=False, ns_dtype='bfloat16')",
    "lr": 0.025,
    "group": (
        f"embedding=adamw({SPEEDRUN_AUX}, lr=0.7)",
        f"head=adamw({SPEEDRUN_AUX}, lr=0.004)",
        f"vector=adamw({SPEEDRUN_AUX}, mask=None, lr=0.015)",
    ),
    "schedule": "wsd(warmup=0, cooldown=0.7, shape='linear')",
    "clip": "none",
    "steps": 3250,
    "batch_size": 64,
    "tokens_per_step": SPEEDRUN_TOKENS,
    "eval_every": 125,
    "val_tokens": 10 << 20,
    "tokenizer": "gpt2",
    "vocab_size": 50_304,
    "layers": 12,
    "heads": 6,
    "width": 768,
    "context": 1024,
    "norm": "rmsnorm",
    "norm_eps": 2.0**-23,
    "position": "half_rope",
    "rope_base": 1024.0,
    "mlp": "relu2",
    "bias": True,
    "norm_bias": False,
    "head_bias": True,
    "tie_head": False,
    "embedding_norm": True,
    "qk_norm": True,
    "qk_norm_scale": False,
    "attention_scale": 0.12,
    "softcap": 15.0,
    "softcap_form": "algebraic",
    "init_scheme": "zero_out",
    "dropout": 0.0,
    "dtype": "bfloat16",
}
PRESET_NOTES = {
    "nano": "0.8 M parameters, a tuned learning rate per optimizer; CPU default",
    "nanogpt": "nanoGPT's CPU recipe: nano with AdamW at 1e-3",
    "demo": "nano with fewer steps and a higher lr, for `make demo`",
    "sprint": "nanoGPT's loss of 2000 steps on tiny Shakespeare, in 300 steps",
    "char": "nanoGPT's GPU recipe, 10.7 M parameters; GPU and TPU default",
    "course": "the course's MiniGPT settings: AdamW 1e-4, cosine over 1000 steps",
    "gpt2": "GPT-2, 124 M parameters, llm.c's recipe; requires --data",
    "gpt2-medium": "GPT-2 medium, 355 M parameters",
    "gpt2-large": "GPT-2 large, 774 M parameters",
    "gpt2-xl": "GPT-2 XL, 1,558 M parameters",
    "speedrun": "modded-nanogpt's optimizer benchmark, 162 M; requires --data",
}


def default_preset(backend: str) -> str:
    """Returns the default preset for a JAX backend."""
    return CPU if backend == "cpu" else ACCELERATOR


CPU, ACCELERATOR = "nano", "char"  # presets by device
