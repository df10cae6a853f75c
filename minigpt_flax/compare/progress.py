"""Where a comparison stands: a moving line in a terminal, elsewhere a line for every run that ends."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from minigpt_flax.text import printable


class Meter:
    """Counts steps of the whole budget.

    Args:
      total: steps of all runs.
      told: whether anything is said at all.
      moving: whether there is a line to move, if this is a terminal.
    """

    def __init__(self, total: int, told: bool = True, moving: bool = True):
        self.console = Console(highlight=False, soft_wrap=True, quiet=not told)
        columns = [BarColumn(20), TextColumn("{task.description}", markup=False), TimeRemainingColumn()]
        hidden = not (told and moving and self.console.is_terminal)
        self.bar = Progress(*columns, console=self.console, transient=True, disable=hidden)
        self.task = self.bar.add_task("", total=total)
        self.done = 0  # steps of runs that are over

    def __enter__(self) -> Meter:
        """Begins."""
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        """Clears the line away."""
        self.bar.stop()

    def at(self, what: str, steps: int) -> None:
        """A run, or several together, stand at so many steps."""
        self.bar.update(self.task, completed=self.done + steps, description=printable(what))

    def over(self, steps: int, line: str | None = None) -> None:
        """Runs of so many steps in all are over, and there may be something to say of them."""
        self.done += steps
        self.bar.update(self.task, completed=self.done)
        if line is not None:
            self.console.print(Text(printable(line)))
