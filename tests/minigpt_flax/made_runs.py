"""Synthetic run folders, as training would leave them, with chosen losses."""

from __future__ import annotations

import json

from minigpt_flax.runs.records import RunRecord

CONFIG = {"opt": "adamw", "lr": 0.001, "steps": 20, "batch_size": 4, "context": 8, "tokenizer": "char", "data": ["x"]}


def run(losses, seed=0, env=None, **config):
    """A run validated at even distances."""
    config = CONFIG | {"seed": seed} | config
    steps = [config["steps"] * (i + 1) // len(losses) for i in range(len(losses))]
    records = [
        {"step": step, "tokens": 32 * step, "seconds": step / 10, "val_loss": loss, "val_sem": 0.01}
        for step, loss in zip(steps, losses, strict=True)
    ]
    return RunRecord("run", config, records, env or {})


def write(path, losses, samples="", **config):
    """The same as a folder."""
    record = run(losses, **config)
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(record.config))
    (path / "env.json").write_text(json.dumps({"data": {"name": "x", "sha256": "0" * 64}}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in record.records))
    (path / "samples.txt").write_text(samples)
    return path
