"""Text of others in a terminal, a plot and a page."""

import sys
import time
import unicodedata
import warnings

import pytest
from matplotlib.figure import Figure

from minigpt_flax import invocation
from minigpt_flax.report.html import _text
from minigpt_flax.runs import plots
from minigpt_flax.text import cut, printable, width

FOREIGN = [
    "cost$x_$y",
    "a$_{$b",
    r"m$\frac$",
    "实验一",
    "\x1b[31m\x07",
    "\u202ecod",
    "\u200b",
    "\udce9",
    "a\tb\nc",
    "<b>&",
]
NAMES = ["a", "my run", "cost$x_$y", "it's", '"q"', "-x", "~u", "a;b", "实验", "n\x1b]0;x\x07", "a\nb", "\u202ecod"]


def test_nothing_that_controls_a_terminal_is_printable():
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cs") and character not in "\t\n":
            shown = printable(character)
            visible_format = unicodedata.category(character) == "Cf" and shown == character
            assert visible_format or (shown.isascii() and shown.isprintable()), hex(code)
    for code in (0x1B, 0x9B, 0x7F, 0x0D, 0x202E, 0x2066, 0x200B, 0x200F, 0x2028, 0xFEFF, 0xD83D, 0xE0001):
        assert printable(chr(code)) != chr(code)
    assert printable("a\tb\r\n\u00e9实\U0001f600") == "a\tb\r\n\u00e9实\U0001f600"


@pytest.mark.parametrize(
    "text", [pytest.param(text, marks=[] if text in FOREIGN[2:5] else pytest.mark.slow) for text in FOREIGN]
)
def test_a_plot_shows_any_text(text, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = [{"step": 1, "loss": 1.0, "lr": 0.1, "grad_norm": 1.0}, {"step": 1, "val_loss": 1.0, "val_sem": 0.1}]
        for suffix in ("png", "svg", "pdf"):
            plots.curves(records, tmp_path / f"p.{suffix}", text)
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_a_dollar_sign_is_literal_in_a_plot():
    with plots.fonts_for("cost$x_$y"):
        figure = Figure()
        title = figure.suptitle(plots.plain("cost$x_$y"))
        preprocessed, is_mathematics = title._preprocess_math(title.get_text())
    assert (preprocessed, is_mathematics) == ("cost$x_$y", False)


def test_a_character_of_another_installed_font_is_drawn_with_it(tmp_path):
    """``STIXGeneral`` comes with Matplotlib and has letters that its default font lacks."""
    default = plots._characters_of(plots.font_manager.findfont("DejaVu Sans"))
    other = plots._characters_of(plots.font_manager.findfont("STIXGeneral"))
    letter = chr(min(code for code in other - default if chr(code).isprintable() and code > 0x2FF))
    assert plots.plain(letter) == letter
    with plots.fonts_for(letter):
        assert plots.rcParams["font.family"][-1] == plots.family_of(letter)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.curves([], tmp_path / "p.png", letter)


@pytest.mark.parametrize("text", FOREIGN)
def test_a_page_shows_any_text(text):
    shown = _text(text)
    assert shown.encode() and "<" not in shown and "\u202e" not in shown and "\x1b" not in shown


@pytest.mark.parametrize("name", NAMES)
def test_a_command_can_be_typed(name, tmp_path, monkeypatch):
    """A shell gives the program back the very name."""
    import subprocess

    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    typed = invocation.line("sample", "--step", "best", tmp_path / name, started="/usr/bin/minigpt")
    assert typed.startswith("minigpt sample --step best ") and printable(typed) == typed and "\n" not in typed
    said = subprocess.run(
        ["bash", "-c", f"minigpt() {{ printf '%s\\0' \"$@\"; }}; {typed}"], capture_output=True, check=True
    )
    assert said.stdout.decode().split("\0")[-2].removeprefix("./") == name


@pytest.mark.parametrize("folder", ["/", "home", "root"])
def test_a_command_is_right_from_any_folder(folder, tmp_path, monkeypatch):
    import subprocess

    monkeypatch.chdir({"/": "/", "home": tmp_path, "root": invocation.ROOT}[folder])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", [str(invocation.ROOT)])
    for command in ("train", "sample"):
        typed = invocation.line(command, "--help", started="train.py").replace("python ", f"{sys.executable} ", 1)
        said = subprocess.run(["bash", "-c", typed], capture_output=True, text=True)
        assert (said.returncode, said.stderr) == (0, ""), typed


def test_columns_of_wide_characters():
    assert width("实验") == 4


def test_a_text_is_cut_in_linear_time():
    started = time.process_time()
    assert cut("x" * 300_000, 10) == "x" * 8 + ".."
    assert time.process_time() - started < 2  # one that measured it again after each character took minutes
