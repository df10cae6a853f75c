"""A GPT on your own text, from Python: ``python examples/own_text.py book.txt``.

The steps of ``python train.py --data book.txt``: flags give a configuration, it gives the parts of a run, and these
train the model. Without a file, the text is the documentation that comes with Python.
"""

import sys

from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.sample import sample


def main(*sources, steps=300, **fields):
    """Trains on the sources, and prints losses and a sample.

    Args:
      *sources: sources as for ``--data``; none uses the preset's data.
      steps: optimizer steps.
      **fields: flags of ``train.py``, with underscores.
    """
    given = {"data": sources, "steps": steps, "opt": "muon", "schedule": "wsd", **fields}
    config = resolve({name: value for name, value in given.items() if value}, preset="nano")
    run = build(config)  # raises if a flag, the data or a size is wrong
    print(f"{len(run.data.parts[0].train):,} training tokens, vocabulary size {run.tokenizer.vocab_size}")

    state = run.init()
    for t in range(config.steps):
        state, metrics = run.step(state, run.batches(t))
        if t % 50 == 0:
            print(f"step {t:4d}  loss {metrics['loss']:.4f}")

    params = state.evaluation_params  # an average, if the optimizer maintains one
    results = run.evaluate(params)
    print(f"validation loss {results['val_loss']:.4f} +- {results['val_sem']:.4f} nats/token\n")
    print(sample(run.model, params, run.tokenizer, max_tokens=200, temperature=0.8, seed=0)[0])
    return results["val_loss"]


if __name__ == "__main__":
    main(*sys.argv[1:])
