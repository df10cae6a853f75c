"""Fine-tune a GPT-2 from a Hugging Face folder, in your own loop.

The loop is plain JAX and Optax. ``partition`` freezes the embeddings, which then have no optimizer state, and decays
only the matrices. Without a folder, the script trains a small GPT-2 on Python's documentation, exports it in Hugging
Face's format, and fine-tunes it on Python source code::

    python examples/finetune_gpt2.py
    python examples/finetune_gpt2.py FOLDER book.txt 3e-5

FOLDER holds ``config.json``, ``model.safetensors`` and ``tokenizer.json``; 3e-5 is a learning rate for GPT-2's weights.
It prints the loss every 20 steps, and ends with::

    test loss 4.7021 before, 4.0556 after, in nats/token (75 sequences)
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import minigpt_flax as mg
from jaxopt_mini import adam, adamw, chain, clip_by_norm, partition, warmup_cosine
from minigpt_flax.data.tokenizers.folder import read_folder
from minigpt_flax.model.huggingface import load_gpt2


def small_gpt2(out, steps=300):
    """Trains a small model and exports it in Hugging Face's format."""
    sizes = {"layers": 2, "bias": True, "mlp": "gelu_tanh", "tokenizer": "bpe(vocab_size=512)"}
    mg.train(preset="nano", steps=steps, out=out, name="run", quiet=True, **sizes)
    export = [sys.executable, "-m", "minigpt_flax", "export", f"{out}/run", "--out", f"{out}/gpt2", "--quiet"]
    subprocess.run(export, check=True)
    return f"{out}/gpt2"


def label(path, leaf):
    """The group of a parameter in ``partition``."""
    return "frozen" if path[-1].key == "embedding" else "matrix" if path[-1].key == "kernel" else "vector"


def main(folder, text=argparse.__file__, lr=1e-3, steps=100, batch=8):
    """Fine-tunes on the text, and prints the loss on its last tenth before and after."""
    config, params = load_gpt2(Path(folder))
    model, tokenizer = mg.GPT(config), read_folder(Path(folder))
    tokens, length = tokenizer.encode(Path(text).read_text(encoding="utf-8")), config.context + 1
    rows = jnp.asarray(tokens[: len(tokens) // length * length]).reshape(-1, length)
    train, test = jnp.split(rows, [len(rows) * 9 // 10])

    rate = warmup_cosine(float(lr), steps)
    groups = {"frozen": optax.set_to_zero(), "matrix": adamw(rate, weight_decay=0.1), "vector": adam(rate)}
    tx = chain(clip_by_norm(1.0), partition(groups, jax.tree.map_with_path(label, params)))

    def loss(params, rows):
        return model.apply({"params": params}, rows[:, :-1], rows[:, 1:], method="losses").mean()

    @jax.jit
    def step(params, state, rows):
        value, grads = jax.value_and_grad(loss)(params, rows)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, test_loss = tx.init(params), jax.jit(lambda params: loss(params, test))
    before = test_loss(params)
    for t in range(steps):
        params, state, value = step(params, state, jax.random.choice(jax.random.key(t), train, (batch,)))
        if t % 20 == 0:
            print(f"step {t:4d}  loss {value:.4f}")
    after = test_loss(params)
    print(f"test loss {before:.4f} before, {after:.4f} after, in nats/token ({len(test)} sequences)")
    return before, after


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(*sys.argv[1:] or [small_gpt2(scratch)])
