"""Curves in the terminal: of 80 columns, whatever is in them; a line where there is no room."""

import io

import numpy as np
from rich.console import Console
from rich.live import Live

from minigpt_flax.console import terminal
from minigpt_flax.console.live_plot import Curves, page
from minigpt_flax.train.config.run_config import resolve

STEPS = [(step, 4.0 / np.sqrt(step), 1e-3 * step / 300, 1.0) for step in range(1, 301)]


def metrics(step):
    return {"loss": np.float32(4 / step), "lr": np.float32(1e-3), "grad_norm": np.float32(1)}


def watched(width, height):
    """What a terminal of this size shows of three steps."""
    curves = Curves(resolve({"steps": 300}, "nano"), 0)
    out = io.StringIO()
    curves.console = Console(file=out, force_terminal=True, width=width, height=height)
    curves.live = Live(console=curves.console, auto_refresh=False, transient=True)
    curves.bar.live.console = curves.console
    with curves:
        drawing = curves.live.is_started
        for step in (1, 2, 3):
            curves(step, metrics(step))
            curves.shown = curves.drawn = 0.0
        curves.validated(3, {"val_loss": 1.5, "val_sem": 0.1})
    return drawing, out.getvalue()


def test_a_page_has_the_size_it_is_given():
    for width, height in ((80, 22), (61, 17), (100, 28)):
        lines = page(STEPS, [(100, 0.5), (200, 0.4)], width, height)
        assert len(lines) == height
        assert {len(line) for line in lines} <= {width, width - width % 2}
    text = "\n".join(lines)
    assert all(name in text for name in ("loss", "validation", "learning rate", "gradient norm"))


def test_a_loss_that_is_no_number_leaves_the_rest():
    broken = [*STEPS, (301, np.nan, 1e-3, np.inf)]
    assert len(page(broken, [], 80, 22)) == len(page(broken[-1:] + STEPS[:1], [], 80, 22)) == 22
    assert page(broken[-1:], [], 80, 22) == page([], [], 80, 22) == ["no number yet ..."]


def test_a_large_terminal_shows_curves_and_a_small_one_a_line():
    drawing, text = watched(80, 24)
    assert drawing and "learning rate" in text and "validation loss 1.5000" in text and "3/300" in text
    drawing, text = watched(80, 10)
    assert not drawing and "learning rate" not in text and "3/300" in text


def test_a_validation_that_takes_long_says_so(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "PATIENCE", 0.0)
    progress = terminal.Progress(resolve({"steps": 40}, "nano"), 20)
    assert not progress.validating(lambda: False)() and progress.validating(lambda: True)()
    progress.clock.paused, progress.clock.pauses = 130.0, 2
    progress.validating(lambda: False)()
    first, _, last = capsys.readouterr().out.splitlines()
    assert first == "step 20/40 validating, 0:00" and last == f"{first} of about 1:05"


def test_elsewhere_there_are_lines():
    curves = Curves(resolve({"steps": 40}, "nano"), 0)
    out = io.StringIO()
    curves.console = Console(file=out, width=80)
    with curves:
        for step in range(1, 41):
            curves(step, metrics(step))
    assert "step 40/40 loss 0.1000" in out.getvalue() and "\x1b" not in out.getvalue()
