"""The progress of a comparison: a moving line in a terminal, elsewhere one line per finished run."""

from __future__ import annotations

from minigpt_flax.progress import Progress


class ComparisonProgress(Progress):
    """Counts the steps of all runs.

    Args:
      total: steps of all runs.
      shown: whether anything is printed.
      moving: whether to show a progress bar, if this is a terminal.
    """

    def __init__(self, total: int, shown: bool = True, moving: bool = True):
        super().__init__("TimeRemainingColumn", shown=shown, moving=moving)
        self.task = self.add("", total)
        self.done = 0  # steps of finished runs

    def at(self, text: str, steps: int) -> None:
        """Shows the number of steps that the current runs have done."""
        self.update(self.task, self.done + steps, text)

    def over(self, steps: int, line: str | None = None) -> None:
        """Adds the steps of finished runs, and prints a line about them."""
        self.done += steps
        self.update(self.task, self.done)
        if line is not None:
            self.print(line)
