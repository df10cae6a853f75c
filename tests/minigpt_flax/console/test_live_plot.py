"""Curves in the terminal: 80 columns wide whatever their data; one line in a small terminal."""

import io

import numpy as np
from rich.console import Console
from rich.live import Live

from minigpt_flax.console import terminal
from minigpt_flax.console.live_plot import LivePlot, page
from minigpt_flax.train.config.run_config import resolve

STEPS = [(step, 4.0 / np.sqrt(step), 1e-3 * step / 300, 1.0) for step in range(1, 301)]


def metrics(step):
    return {"loss": np.float32(4 / step), "lr": np.float32(1e-3), "grad_norm": np.float32(1)}


def watched(width, height):
    """The output of three steps in a terminal of this size."""
    curves = LivePlot(resolve({"steps": 300}, "nano"), 0)
    out = io.StringIO()
    curves.console = Console(file=out, force_terminal=True, width=width, height=height)
    curves.live = Live(console=curves.console, auto_refresh=False, transient=True)
    curves.bar.live.console = curves.console
    with curves:
        drawing = curves.live.is_started
        for step in (1, 2, 3):
            curves.on_step(step, metrics(step))
            curves.shown = curves.drawn = 0.0
        curves.on_validation(3, {"val_loss": 1.5, "val_sem": 0.1})
    return drawing, out.getvalue()


def test_a_page_has_the_requested_size():
    for width, height in ((80, 22), (61, 17), (100, 28)):
        lines = page(STEPS, [(100, 0.5), (200, 0.4)], width, height)
        assert len(lines) == height
        assert {len(line) for line in lines} <= {width, width - width % 2}
    text = "\n".join(lines)
    assert all(name in text for name in ("loss", "validation", "learning rate", "gradient norm"))


def test_a_non_finite_loss_is_left_out_of_the_curves():
    broken = [*STEPS, (301, np.nan, 1e-3, np.inf)]
    assert len(page(broken, [], 80, 22)) == len(page(broken[-1:] + STEPS[:1], [], 80, 22)) == 22
    assert page(broken[-1:], [], 80, 22) == page([], [], 80, 22) == ["no data yet ..."]


def test_a_large_terminal_shows_curves_and_a_small_one_a_line():
    drawing, text = watched(80, 24)
    assert drawing and "learning rate" in text and "validation loss 1.5000" in text and "3/300" in text
    drawing, text = watched(80, 10)
    assert not drawing and "learning rate" not in text and "3/300" in text


def test_a_long_validation_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "LINE_INTERVAL", 0.0)
    progress = terminal.ProgressBar(resolve({"steps": 40}, "nano"), 20)
    assert not progress.validating(lambda: False)() and progress.validating(lambda: True)()
    progress.clock.paused, progress.clock.pauses = 130.0, 2
    progress.validating(lambda: False)()
    first, _, last = capsys.readouterr().out.splitlines()
    assert first == "step 20/40 validating, 0:00" and last == f"{first} of about 1:05"


def test_without_a_terminal_there_are_lines():
    curves = LivePlot(resolve({"steps": 40}, "nano"), 0)
    out = io.StringIO()
    curves.console = Console(file=out, width=80)
    with curves:
        for step in range(1, 41):
            curves.on_step(step, metrics(step))
    assert "step 40/40 loss 0.1000" in out.getvalue() and "\x1b" not in out.getvalue()
