"""A GPT on your own text, from Python: ``python examples/own_text.py book.txt``.

What ``python train.py --data book.txt`` does, in the open: words become parts, parts make steps. Without a file it
takes the documentation that comes with Python.
"""

import sys

from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.sample import sample


def main(*sources, steps=300, **words):
    """Trains on the sources; prints the losses and a sample.

    Args:
      *sources: whatever ``--data`` takes.
      steps: how many.
      **words: any flag of ``train.py``, with underscores.
    """
    given = {"data": sources, "steps": steps, "opt": "muon", "schedule": "wsd", **words}
    config = resolve({name: value for name, value in given.items() if value}, preset="nano")
    run = build(config)  # everything that can be wrong is found here
    print(f"{len(run.data.parts[0].train):,} tokens, {run.tokenizer.vocab_size} different ones")

    state = run.init()
    for t in range(config.steps):
        state, metrics = run.step(state, run.batches(t))
        if t % 50 == 0:
            print(f"step {t:4d}  loss {metrics['loss']:.4f}")

    params = state.evaluation_params  # an average, if the optimizer keeps one
    results = run.evaluate(params)
    print(f"validation loss {results['val_loss']:.4f} +- {results['val_sem']:.4f} nats/token\n")
    print(sample(run.model, params, run.tokenizer, max_tokens=200, temperature=0.8, seed=0)[0])
    return results["val_loss"]


if __name__ == "__main__":
    main(*sys.argv[1:])
