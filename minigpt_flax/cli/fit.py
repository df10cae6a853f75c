"""One request from beginning to end, and the exit status. Imports no JAX: the signals are taken over before that."""

from __future__ import annotations

import sys

from minigpt_flax.cli.parser import Request
from minigpt_flax.train.parallel import xla_flags
from minigpt_flax.train.parallel.agreement import require_same_programs, require_same_request
from minigpt_flax.train.parallel.multihost import joined, start_jax
from minigpt_flax.train.stop import Stop


def fit(request: Request) -> int:
    """Trains.

    Returns:
      The exit status: 0, or 128 + the signal that ended it.

    Raises:
      UserError: what was asked for can't be done.
      Failed: the run can't go on (it diverged, the disk is full).
    """
    with Stop() as stop:
        try:
            xla_flags.require_jit()
            xla_flags.mend()
            if request.multihost is None:  # else the cores of a machine are divided among processes
                xla_flags.device_per_core()
            with joined(request.multihost, stop):
                require_same_programs()
                require_same_request(request)
                start_jax()
                from minigpt_flax.train.run import sit  # takes seconds

                sit(request, stop)
        except KeyboardInterrupt:
            print("quit without saving; the last checkpoint is intact", file=sys.stderr)
        return stop.status
