"""A candidate in a process of its own, with malloc's defaults or with huge pages, as in ours."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from minigpt_flax.train.parallel.xla_flags import HUGE_PAGES, TUNABLES


class Apart:
    """Calls a function that lives in another process, and waits for what it returns.

    Args:
      make: makes the function there; of a module's top level, as are its arguments' types.
      *args: its arguments.
      huge_pages: whether malloc asks for them there.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], *args: Any, huge_pages: bool = False):
        spawn, (self.line, theirs) = multiprocessing.get_context("spawn"), multiprocessing.Pipe()
        before = os.environ.pop(TUNABLES, None)
        try:
            if huge_pages:
                os.environ[TUNABLES] = f"{HUGE_PAGES}=1"
            spawn.Process(target=_serve, args=(theirs, make, args), daemon=True).start()
        finally:
            os.environ.pop(TUNABLES, None)
            if before is not None:
                os.environ[TUNABLES] = before
        theirs.close()
        self.line.recv()  # it is made

    def __call__(self) -> Any:
        """Calls it.

        Raises:
          EOFError: the other process ended; it has said why.
        """
        self.line.send(None)
        return self.line.recv()


def _serve(line: Connection, make: Callable[..., Callable[[], Any]], args: tuple[Any, ...]) -> None:
    function = make(*args)
    line.send(None)
    while True:
        try:
            line.recv()
        except EOFError:  # the other end has closed
            return
        line.send(function())
