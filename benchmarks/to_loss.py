"""Time to nanoGPT's loss: ``python -m benchmarks.to_loss --data TEXT --peers DIR [--repeats N]``.

Wall-clock from the start of a process, with an empty cache of compiled programs, to the end of its training:
``train.py --preset sprint`` against nanoGPT's own ``train.py`` by its recipe for a CPU (2000 steps, eager, without its
evaluations), on the same text, in turn. Both final models are judged on the whole validation split, the last tenth, in
windows that don't overlap. The text is tiny Shakespeare where the figures are to be compared with nanoGPT's README. The
results go to ``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.results import RESULTS, publish
from benchmarks.startup import TRAIN, alone
from benchmarks.timing import ratios, spread
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, whole
from minigpt_flax.errors import UserError
from minigpt_flax.train.config.run_config import resolve

PRESET, LOSS = "sprint", 1.898  # nats/character, where nanoGPT's run ends on tiny Shakespeare
BAR = 0.40
REPEATS = 3
CONTEXT = 64
RECIPE = {  # its README's, for a CPU; an evaluation of one batch before the first step and after the last, and no more
    "device": "cpu",
    "compile": False,
    "eval_interval": 2000,
    "eval_iters": 1,
    "log_interval": 100,
    "block_size": CONTEXT,
    "batch_size": 12,
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "max_iters": 2000,
    "lr_decay_iters": 2000,
    "dropout": 0.0,
}


def ours(text: Path, folder: Path) -> dict[str, float]:
    """A run of the preset: seconds of the whole process, and the loss of its last validation."""
    command = [*TRAIN, f"--preset={PRESET}", f"--data={text}", f"--out={folder}", "--name=run"]
    start = time.perf_counter()
    subprocess.run([*command, f"--compile-cache={folder / 'cache'}"], check=True, capture_output=True, env=alone())
    seconds = time.perf_counter() - start
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    loss = next(record["val_loss"] for record in reversed(records) if "val_loss" in record)
    return {"seconds": seconds, "val_loss": loss}


def nanogpt(text: Path, folder: Path, source: Path) -> dict[str, float]:
    """NanoGPT's run: seconds, and the loss of its model."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
    data = _as_its_own(text.read_text("utf-8"), folder / "data" / "shakespeare_char")
    flags = [f"--{name}={value}" for name, value in RECIPE.items()]
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py", *flags]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "val_loss": _judged(folder, data)}


def _as_its_own(text: str, folder: Path) -> np.ndarray:
    """Writes the files that its ``prepare.py`` would; returns the validation split."""
    letters = sorted(set(text))
    number = {letter: i for i, letter in enumerate(letters)}
    tokens = np.array([number[letter] for letter in text], np.uint16)
    cut = int(0.9 * len(tokens))
    folder.mkdir(parents=True, exist_ok=True)
    tokens[:cut].tofile(folder / "train.bin")
    tokens[cut:].tofile(folder / "val.bin")
    meta = {"vocab_size": len(letters), "itos": dict(enumerate(letters)), "stoi": number}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return tokens[cut:]


def _judged(folder: Path, tokens: np.ndarray) -> float:
    """Mean loss of its saved model over all windows that don't overlap."""
    import torch  # pyright: ignore[reportMissingImports]

    saved = torch.load(next(folder.glob("out*/ckpt.pt")), weights_only=True)
    module = peers.load("model", folder)
    model = module.GPT(module.GPTConfig(**saved["model_args"])).eval()
    model.load_state_dict(saved["model"])
    rows = torch.from_numpy(tokens.astype(np.int64))[: (len(tokens) - 1) // CONTEXT * CONTEXT + 1]
    inputs, targets = rows[:-1].view(-1, CONTEXT), rows[1:].view(-1, CONTEXT)
    with torch.no_grad():
        losses = [
            model(*part)[1].item() * len(part[0]) for part in zip(inputs.split(64), targets.split(64), strict=True)
        ]
    return sum(losses) / len(inputs)


def measure(text: Path, source: Path, repeats: int) -> dict[str, Any]:
    """Runs in turn."""
    found: dict[str, list[dict[str, float]]] = {"ours": [], "nanoGPT": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            found["ours"].append(ours(text, Path(scratch) / "ours"))
            found["nanoGPT"].append(nanogpt(text, Path(scratch) / "nanoGPT", source))
    seconds = {name: [run["seconds"] for run in runs] for name, runs in found.items()}
    return {
        "repeats": repeats,
        "steps": resolve({}, PRESET).steps,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "val_loss": {name: [run["val_loss"] for run in runs] for name, runs in found.items()},
        "ours_over_nanoGPT": ratios(seconds["ours"], seconds["nanoGPT"]),
    }


def table(found: dict[str, Any]) -> str:
    """The times, for people."""
    rows = [
        f"  {name:8s}{times['median']:7.1f} s  validation loss {', '.join(f'{x:.3f}' for x in found['val_loss'][name])}"
        for name, times in found["seconds"].items()
    ]
    ratio = found["ours_over_nanoGPT"]["median"]
    rows.append(f"  ours / nanoGPT: {ratio:.2f}  {'within' if ratio <= BAR else 'OVER'} {BAR:.2f}")
    reached = max(found["val_loss"]["ours"]) <= LOSS
    rows.append(f"  a loss of {LOSS} is {'reached' if reached else 'NOT reached'}")
    return "\n".join(rows)


def run(arguments: Sequence[str]) -> int:
    """Measures."""
    parser = Parser(prog="python -m benchmarks.to_loss", description=__doc__)
    parser.add_argument("--data", metavar="TEXT", type=Path, required=True, help="a text file")
    parser.add_argument("--peers", metavar="DIR", type=Path, required=True, help="folder that has nanoGPT")
    parser.add_argument("--repeats", metavar="N", type=whole, default=REPEATS, help=f"rounds [{REPEATS}]")
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse(list(arguments))
    if absent := peers.why_not("nanoGPT/model", given["peers"]):
        raise UserError(f"nanoGPT can't take part: {absent}")
    found = measure(given["data"].resolve(), given["peers"] / "nanoGPT", given["repeats"])
    publish(given["out"], "to_loss", "time to loss", table(found), found)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.to_loss", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
