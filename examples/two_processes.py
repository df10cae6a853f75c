"""Two processes that train one model, on this machine: ``python examples/two_processes.py``.

On several hosts each would be started by hand, or by SLURM, with the address of the first; here both are started at
once. Each has one device and half of every batch. The first one prints and writes, and the numbers are those of a
single process. Flags go to both: ``python examples/two_processes.py --steps 100 --opt lion``.
"""

import os
import socket
import subprocess
import sys

COUNT = 2


def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(*flags):
    """Trains; returns the exit status of the worst."""
    meeting = f"coordinator=127.0.0.1:{free_port()},processes={COUNT},process="
    train = [sys.executable, "-m", "minigpt_flax", "train", "--preset=nano", "--steps=200", "--mesh=data=2", *flags]
    on_cpu = os.environ | {"JAX_PLATFORMS": "cpu"}  # two processes can't share one accelerator
    processes = [subprocess.Popen([*train, f"--multihost={meeting}{i}"], env=on_cpu) for i in range(COUNT)]
    return max(process.wait() for process in processes)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
