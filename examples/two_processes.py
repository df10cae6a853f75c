"""Two processes on this machine train one model: ``python examples/two_processes.py``.

On several hosts, you or SLURM would start each process with the address of process 0. Here the script starts both. Each
process has one device and half of every batch. Only process 0 prints and writes, and the numbers agree with those of a
single process. Flags are passed to both: ``python examples/two_processes.py --steps 100 --opt lion``.
"""

import os
import socket
import subprocess
import sys

COUNT = 2


def free_port():
    """Returns an unused port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(*flags):
    """Trains, and returns the larger exit status of the two."""
    peers = f"coordinator=127.0.0.1:{free_port()},processes={COUNT},process="
    train = [sys.executable, "-m", "minigpt_flax", "train", "--preset=nano", "--steps=200", "--mesh=data=2", *flags]
    on_cpu = os.environ | {"JAX_PLATFORMS": "cpu"}  # two processes can't share one accelerator
    processes = [subprocess.Popen([*train, f"--multihost={peers}{i}"], env=on_cpu) for i in range(COUNT)]
    return max(process.wait() for process in processes)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
