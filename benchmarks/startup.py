"""From the start of the process to the first step: ``python -m benchmarks.startup [--repeats N]``.

``--help``; ``import jaxopt_mini``, and whose time that is; and the preset ``nano`` with an empty cache of compiled
programs (cold) and with what that run has left there (warm), each in processes of their own. The first step counts as
done when its line is in ``metrics.jsonl``. The results go to ``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import RESULTS, publish
from benchmarks.timing import spread
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, whole

ROOT = Path(__file__).parents[1]
TRAIN = [sys.executable, str(ROOT / "train.py")]
IMPORT = [sys.executable, "-c", "import jaxopt_mini"]
BARS = {"help": 0.7, "import": 1.5, "cold": 8.0, "warm": 5.0}  # seconds
OWNERS = {"jaxopt_mini": "jaxopt_mini", "optax": "optax", "chex": "optax", "absl": "optax"}  # the rest is JAX or Python
REPEATS = 3
PATIENCE = 300.0  # seconds
LOOK = 0.005  # seconds between two looks


def seconds_of(command: Sequence[str]) -> float:
    """Time of a process, from its start to its end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - start


def import_split() -> dict[str, float]:
    """Seconds of importing ``jaxopt_mini`` by whose modules take them, as Python counts them.

    What JAX needs (NumPy, SciPy, ...) is counted as JAX's.
    """
    command = [IMPORT[0], "-X", "importtime", *IMPORT[1:]]
    said = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True, cwd=ROOT).stderr
    split = {"python": 0.0, "jax": 0.0, "optax": 0.0, "jaxopt_mini": 0.0}
    for own, _, module in re.findall(r"^import time:\s*(\d+) \|\s*(\d+) \|\s*([\w.]+)$", said, re.MULTILINE):
        top = module.split(".")[0]
        split[OWNERS.get(top, "python" if top in sys.stdlib_module_names else "jax")] += int(own) / 1e6
    return split


def first_step_seconds(cache: Path, out: Path) -> float:
    """Time until a run has done its first step.

    Args:
      cache: folder of compiled programs.
      out: an empty folder for the run.

    Raises:
      RuntimeError: the run ended before.
    """
    command = [*TRAIN, "--preset=nano", f"--out={out}", "--name=run", f"--compile-cache={cache}"]
    metrics = out / "run" / "metrics.jsonl"
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=alone()) as process:
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                    raise RuntimeError(f"no first step; {' '.join(command)} ended with {process.returncode}")
                time.sleep(LOOK)
            return time.perf_counter() - start
        finally:
            process.kill()


def alone() -> dict[str, str]:
    """The environment without a cache that it may name."""
    return {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of each way to start, one a round."""
    seconds: dict[str, list[float]] = {name: [] for name in BARS}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            seconds["help"].append(seconds_of([*TRAIN, "--help"]))
            seconds["import"].append(seconds_of(IMPORT))
            for name in ("cold", "warm"):
                seconds[name].append(first_step_seconds(folder / "cache", folder / name))
    return seconds


def table(seconds: dict[str, list[float]]) -> str:
    """The times, for people."""
    rows = []
    for name, values in seconds.items():
        times = spread(values)
        verdict = "within" if times["median"] <= BARS[name] else "OVER"
        spread_text = f"{times['least']:.2f} to {max(values):.2f}"
        rows.append(f"  {name:6s}{times['median']:7.2f} s  ({spread_text})  {verdict} {BARS[name]:g}")
    return "\n".join(rows)


def run(arguments: Sequence[str]) -> int:
    """Measures."""
    parser = Parser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--repeats", metavar="N", type=whole, default=REPEATS, help=f"rounds [{REPEATS}]")
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse(list(arguments))
    seconds = measure(given["repeats"])
    split = import_split()
    found = {"repeats": given["repeats"], "seconds": {name: spread(values) for name, values in seconds.items()}}
    told = f"  import: {', '.join(f'{owner} {part:.2f} s' for owner, part in split.items())}, each its own modules"
    publish(given["out"], "startup", "start-up", f"{table(seconds)}\n{told}", {**found, "import_seconds": split})
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.startup", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
