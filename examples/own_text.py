"""Train a GPT on your own text, from Python.

``minigpt_flax.train`` takes the flags of ``train.py`` as keywords, with underscores. A callback prints the loss, and
``minigpt_flax.load`` opens the trained model, here to continue a prompt. A text of 100 kB or more works best; without a
file, the text is Python's own documentation::

    python examples/own_text.py
    python examples/own_text.py book.txt

It prints the loss every 50 steps and a sample. The validation loss is 1.64 nats per character.
"""

import os
import sys

import minigpt_flax as mg

FIELDS = {"preset": "nano", "opt": "muon", "schedule": "wsd", "steps": 300}


def print_loss(step, metrics):
    """A callback: called after every step."""
    if step == 1 or step % 50 == 0:
        print(f"step {step:4d}  loss {metrics['loss']:.4f}")


def main(*sources, prompt="The ", **fields):
    """Trains on the sources, and prints losses and a sample.

    Args:
      *sources: files, folders or patterns, as for ``--data``; none takes the preset's data.
      prompt: what the sample continues.
      **fields: flags of ``train.py``, with underscores.
    """
    result = mg.train(data=sources or None, quiet=True, callbacks=[print_loss], **FIELDS | fields)
    print(f"validation loss {result.val_loss:.4f} nats/token, saved in {os.path.relpath(result.folder)}\n")
    model = mg.load(result.folder)
    print(model.generate(prompt, max_tokens=300, temperature=0.8))
    return result.val_loss


if __name__ == "__main__":
    main(*sys.argv[1:])
