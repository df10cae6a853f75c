"""Train one model with two processes, as on two hosts.

On several hosts, you or SLURM start one process per host, each with the address of process 0. This script starts both
processes on this machine, then a single process with the same flags. Each of the two processes has half of every batch,
and only process 0 prints and writes::

    python examples/two_processes.py
    python examples/two_processes.py --steps 100 --opt lion

It prints the losses of both runs. They agree up to rounding, whose effect grows with the number of steps::

      20         3.1954       3.1954
"""

import json
import os
import socket
import subprocess
import sys

TRAIN = [sys.executable, "-m", "minigpt_flax", "train", "--preset=nano", "--steps=20", "--lr=1e-3", "--json"]
ON_CPU = os.environ | {"JAX_PLATFORMS": "cpu"}  # two processes can't share one accelerator


def free_port():
    """Returns an unused port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train(count, *flags):
    """Trains with ``count`` processes, and returns the losses that process 0 prints: step -> loss."""
    peers = f"coordinator=127.0.0.1:{free_port()},processes={count},process="
    processes = [
        subprocess.Popen(
            [*TRAIN, f"--mesh=data={count}", *flags, *([f"--multihost={peers}{i}"] if count > 1 else [])],
            env=ON_CPU,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(1)  # the process has printed the reason
    records = map(json.loads, printed[0].splitlines())
    return {record["step"]: record["loss"] for record in records if record["event"] == "step"}


def main(*flags):
    """Trains twice, and prints the losses side by side."""
    two, one = train(2, *flags), train(1, *flags)
    print("step  two processes  one process")
    for step in two:
        print(f"{step:4d}  {two[step]:13.4f}  {one[step]:11.4f}")
    return two, one


if __name__ == "__main__":
    main(*sys.argv[1:])
