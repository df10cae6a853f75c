"""``train``: from the command line to a run. JAX is imported after the command line is checked."""

from __future__ import annotations

import sys
from typing import Any

from minigpt_flax.cli import parser
from minigpt_flax.cli.parser import Request
from minigpt_flax.train.parallel import xla_flags
from minigpt_flax.train.parallel.agreement import require_same_flags, require_same_programs
from minigpt_flax.train.parallel.multihost import joined, start_jax
from minigpt_flax.train.stop import Stop

SUMMARY = "Train a GPT."
SAME = ("resume", "out", "name", "stop_after", "profile", "change")  # not in RunConfig, equal in all processes
declare = parser.declare


def run(**values: Any) -> int:
    """Lists names, documents one, or trains; returns the exit status.

    Raises:
      UserError: the request is invalid.
      TrainingFailed: the run can't continue: it diverged, or the disk is full.
    """
    request = parser.requested(values)
    if request.list or request.explain is not None:
        from minigpt_flax.cli.list_explain import show

        return show(request)
    return train(request)


def train(request: Request) -> int:
    """Trains; returns 0, or 128 + the signal that stopped the run. Signals are handled from before JAX's import on."""
    with Stop() as stop:
        try:
            xla_flags.require_jit()
            xla_flags.apply_workarounds()
            if request.multihost is None:  # else several processes may share the cores of one machine
                xla_flags.device_per_core()
            with joined(request.multihost, stop):
                require_same_programs()
                require_same_flags({name: getattr(request, name) for name in SAME})
                start_jax()
                _train(request, stop)
        except KeyboardInterrupt:
            print("quit without saving; earlier checkpoints are intact", file=sys.stderr)
        return stop.status


def _train(request: Request, stop: Stop) -> None:
    from minigpt_flax.console.reporters import reporter_for  # takes seconds: JAX
    from minigpt_flax.train.run import start_or_resume
    from minigpt_flax.train.session import RunOptions, Session

    options = RunOptions(
        out=request.out,
        name=request.name,
        stop_after=request.stop_after,
        profile=request.profile,
        manage_cache=True,
        compile_cache=request.compile_cache,
        trust=request.trust,
        change=request.change,
        notices=request.notices(),
    )
    reporter = reporter_for(request.output, request.watch)
    start_or_resume(Session(request.given, request.preset, options, reporter, stop), request.resume)
