"""The one progress bar: it moves in a terminal, and elsewhere isn't shown. Imports Rich only when one is made."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from minigpt_flax.text import printable, tell

WIDTH = 20  # columns of the bar
FIRST_LINE, MAX_INTERVAL = 10.0, 60.0  # seconds to the first line without a terminal, and at most between two
REMIND = 60.0  # seconds between two lines about the same wait
T = TypeVar("T", bound="Progress")  # typing.Self is refused by the tests' check of types


class Reminder:
    """Says on standard error what this process waits for: at the first call that is due, and then each minute.

    Args:
      first: seconds to the first line.
    """

    def __init__(self, first: float = 0.0):
        self._next = time.monotonic() + first

    def __call__(self, text: str) -> None:
        """Prints a line if one is due."""
        if time.monotonic() >= self._next:
            tell(text, file=sys.stderr)
            self._next = time.monotonic() + REMIND


class Progress:
    """A bar with the text of its task beside it. Used as a context, which removes the bar at its end.

    Args:
      *columns: Rich's columns after the bar and the text; a name such as ``"TimeRemainingColumn"``, or text.
      shown: whether anything is printed.
      moving: whether the bar is shown, if this is a terminal.
      stderr: the stream: standard error instead of standard output.
      width: columns of the bar.
      auto_refresh: whether a thread redraws the bar; else :meth:`update` does.

    Attributes:
      console: prints lines above the bar.
      bar: Rich's ``Progress``.
    """

    def __init__(
        self,
        *columns: str,
        shown: bool = True,
        moving: bool = True,
        stderr: bool = False,
        width: int = WIDTH,
        auto_refresh: bool = True,
    ):
        from rich import progress as rich
        from rich.console import Console

        self.console = Console(highlight=False, soft_wrap=True, stderr=stderr, quiet=not shown)
        text = rich.TextColumn("{task.description}", markup=False)
        others = (getattr(rich, name)() if hasattr(rich, name) else name for name in columns)
        self.bar = rich.Progress(
            rich.BarColumn(width),
            text,
            *others,
            console=self.console,
            auto_refresh=auto_refresh,
            transient=True,
        )
        self._moving = shown and moving

    def __enter__(self: T) -> T:
        """Shows the bar."""
        self.bar.disable = not (self._moving and self.console.is_terminal)
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        """Removes the bar."""
        self.bar.stop()

    def add(self, text: str, total: int | None = None, done: int = 0) -> Any:
        """Adds a task and returns its number; without a total, its bar is indeterminate."""
        return self.bar.add_task(printable(text), total=total, completed=done)

    def update(self, task: Any, done: int, text: str | None = None, *, refresh: bool = False) -> None:
        """Sets the progress of a task, and its text if one is given."""
        description = None if text is None else printable(text)
        self.bar.update(task, completed=done, description=description, refresh=refresh)

    def remove(self, task: Any) -> None:
        """Removes a task."""
        self.bar.remove_task(task)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Shows an indeterminate bar during a task; without a terminal, a line now and then."""
        task, ended = self.add(f"{what} ..."), threading.Event()

        def report() -> None:
            begun, interval = time.monotonic(), FIRST_LINE
            while not ended.wait(interval):
                interval = min(2 * interval, MAX_INTERVAL)
                self.print(f"{what} ... {time.monotonic() - begun:.0f} s")

        thread = threading.Thread(target=report, daemon=True)
        if not self.console.is_terminal:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if thread.ident is not None:
                thread.join()
            self.remove(task)

    def print(self, line: str) -> None:
        """Prints a line above the bar, or without one."""
        self.console.print(printable(line), markup=False, emoji=False)
