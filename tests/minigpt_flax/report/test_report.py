"""The HTML page: complete, offline, small, and safe from markup in names and samples of runs; rendered in Chromium."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from minigpt_flax.__main__ import main
from minigpt_flax.compare import comparison as comparisons
from minigpt_flax.compare.comparison import Comparison
from minigpt_flax.report.html import VARIABLES
from minigpt_flax.runs.style import COLORS, INK, MUTED, blend, looks
from tests.minigpt_flax.made_runs import write

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
ATTACK = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


def report(*arguments):
    return main(["report", *map(str, arguments)])


@pytest.fixture
def pair(tmp_path):
    """A page of two runs, one of which tries to inject markup."""
    write(tmp_path / "good", [4.0, 3.0, 2.5], opt="adamw", samples="To be")
    write(tmp_path / "bad", [4.0, 3.2, None], opt=ATTACK, samples=ATTACK)
    assert report(tmp_path / "good", tmp_path / "bad", "--out", tmp_path / "r.html", "--title", ATTACK) == 0
    return tmp_path / "r.html"


def browse(page, *flags):
    fixed = (
        "--headless=new --no-sandbox --disable-gpu --hide-scrollbars --enable-logging=stderr --virtual-time-budget=2000"
    )
    command = [CHROMIUM, *fixed.split(), *flags, f"file://{page}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert "CONSOLE" not in done.stderr, done.stderr  # a script error, or a violation of the Content-Security-Policy
    return done.stdout


def test_data_of_a_run_never_becomes_markup(pair):
    text = pair.read_text()
    assert text.count("<script") == 2 and text.count("</script>") == 2  # the data and the page's script
    assert "<img" not in text


def test_the_page_makes_no_requests(pair):
    text = pair.read_text()
    assert "default-src 'none'" in text
    assert re.findall(r"https?://[^\"']+", text) == ["http://www.w3.org/2000/svg"]  # an XML namespace
    assert not re.search(r"\b(src|href)=(?!\"#)", text.replace("src=x", ""))  # only parts of the page itself
    assert not re.search(r"url\((?!#)", text) and "@import" not in text


def test_a_diverged_run_is_shown_as_diverged(pair):
    text = pair.read_text()
    assert '"state":"diverged"' in text and "diverged with seed 0" in text


@pytest.mark.slow
def test_twenty_long_runs_stay_small(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):
        path = write(tmp_path / f"run{i}", [4.0, 2.0 + i], opt=f"opt{i}", steps=2000)
        values = rng.uniform(1, 4, (2000, 12))
        names = ["loss", "lr", "grad_norm", *(f"update_ratio/layer_{k}" for k in range(9))]
        with (path / "metrics.jsonl").open("a") as file:
            for step, row in enumerate(values, start=1):
                pairs = ", ".join(f'"{name}": {value}' for name, value in zip(names, row, strict=True))
                file.write(f'{{"step": {step}, "tokens": {32 * step}, "seconds": {step / 7}, {pairs}}}\n')
    assert report(*sorted(tmp_path.glob("run*")), "--out", tmp_path / "r.html") == 0
    assert (tmp_path / "r.html").stat().st_size < 3e6


def test_runs_of_different_length_share_a_page(tmp_path):
    write(tmp_path / "short", [4.0, 3.0])
    write(tmp_path / "long", [4.0, 3.0, 2.0], steps=60, batch_size=8)
    assert report(tmp_path / "short", tmp_path / "long", "--out", tmp_path / "r.html") == 0
    text = tmp_path.joinpath("r.html").read_text()
    assert "2 runs of 20 to 60 steps, 640 to 3,840 tokens" in text
    assert "20x32" in text and "60x64" in text
    assert "no verdict: steps 20 batch_size 4 trains on 640 tokens and steps 60 batch_size 8 on 3,840" in text


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["good", "other"], "differ in tokenizer"),
        (["good", "missing"], "is not the folder of a run"),
        (["good", "good"], "given twice"),
    ],
)
def test_user_errors_are_one_line(tmp_path, monkeypatch, capfd, folders, said):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "good", [4.0, 3.0])
    write(tmp_path / "other", [4.0, 3.0], tokenizer="byte")
    assert report(*folders) == 2
    error = capfd.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_an_unwritable_page_is_reported(tmp_path, capfd):
    assert report(write(tmp_path / "good", [4.0, 3.0]), "--out", tmp_path / "none" / "r.html") == 2
    assert "can't write" in capfd.readouterr().err


@pytest.mark.slow
@needs_chromium
def test_chromium_runs_only_the_pages_script(pair):
    shown = browse(pair, "--dump-dom")
    assert 'data-ready="2"' in shown  # the script ran to its end
    assert "<title>taken" not in shown


@pytest.mark.slow
@needs_chromium
def test_chromium_draws_the_curves(pair, tmp_path):
    browse(pair, "--window-size=1280,1600", f"--screenshot={tmp_path / 'page.png'}")
    pixels = np.round(255 * imread(tmp_path / "page.png")[..., :3])
    for color in (line["color"] for line in looks(["adamw", ATTACK])):
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels - wanted).max(-1) < 16).sum() > 200  # the legend alone has 85


@pytest.fixture
def wide(tmp_path):
    """A page of many candidates with long names, one of which diverged, with three seeds each."""
    names = [
        "adamw(b2=0.99)",
        *(f"opt{i}(a_long_keyword_without_a_break={i / 7})" for i in range(9)),
        "\u5b9e\u9a8c\u4e00",
    ]
    for i, name in enumerate(names):
        for seed in range(3):
            end = None if (i, seed) == (3, 1) else 2.0 + 0.1 * i + 0.03 * seed
            write(tmp_path / f"{i}-{seed}", [4.0, 3.0, end], opt=name, seed=seed)
    assert report(*(path for path in tmp_path.iterdir()), "--out", tmp_path / "r.html") == 0
    return tmp_path / "r.html"


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A page of two candidates with three seeds."""
    tmp_path = tmp_path_factory.mktemp("three")
    for name, loss in (("adamw", 2.0), ("lion", 3.0)):
        for seed in range(3):
            write(tmp_path / f"{name}{seed}", [4.0, 3.5, loss + 0.3 * seed], opt=name, seed=seed)
    assert report(*sorted(tmp_path.iterdir()), "--out", tmp_path / "r.html") == 0
    return tmp_path / "r.html"


def test_the_curves_are_there_without_javascript(three):
    text = three.read_text()
    static = re.search(r'<div id="static">(.*?)</div>', text, re.DOTALL)[1]
    shown = re.findall(r"<text[^>]*>([^<]+)</text>", static)
    assert static.count('<svg role="img" aria-label=') == 2 and {"adamw", "lion", "2.3000", "3.3000"} <= set(shown)
    values = re.search(r'<details id="values">.*?</details>', text, re.DOTALL)[0]
    rows = [re.findall(r"<t[dh]>([^<]*)", row) for row in values.split("<tr>")[1:]]
    assert rows == [
        ["step", "adamw", "lion"],
        ["6", *["4.0000"] * 2],
        ["13", *["3.5000"] * 2],
        ["20", "2.3000", "3.3000"],
    ]
    assert '<div id="interactive" hidden>' in text


def test_the_picture_of_a_single_run_has_its_training(tmp_path):
    write(tmp_path / "one", [4.0, 3.0])
    assert report(tmp_path / "one", "--out", tmp_path / "r.html") == 0
    text = (tmp_path / "r.html").read_text()
    assert "gradient norm</text>" in text and '<section id="comparison">' not in text


def luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, two):
    """The contrast ratio of WCAG 2."""
    low, high = sorted(map(luminance, (one, two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_and_lines_have_contrast(three, scheme):
    blocks = re.findall(r":root \{(.*?)\}", three.read_text(), re.DOTALL)
    values = dict(re.findall(r"--(\w+): (#\w+);", blocks[["light", "dark", "print"].index(scheme)]))
    assert all(contrast(values["ink"], values[behind]) >= 4.5 for behind in ("page", "box", "mark"))
    text = [values[name] for name in ("soft", "bad")]
    text += [values[VARIABLES[color][2:]] for color in (INK, blend(MUTED), *map(blend, COLORS))]
    assert all(contrast(color, values["page"]) >= 4.5 for color in text)
    assert all(contrast(color, values["page"]) >= 3 for color in COLORS)


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["ArrowRight"], "adamw, mean of 3 seeds: val_loss 4 at 6 steps"),
        (["ArrowRight", "End"], "adamw, mean of 3 seeds: val_loss 2.3 at 20 steps"),
        (["ArrowRight", "End", "ArrowDown"], "lion, mean of 3 seeds: val_loss 3.3 at 20 steps"),
        (["ArrowRight", "ArrowUp", "ArrowRight", "+"], "lion, mean of 3 seeds: val_loss 3.5 at 13 steps"),
        (["ArrowRight", "Escape"], ""),
        (["single", "ArrowRight", "ArrowDown", "End"], "adamw, seed 1: val_loss 2.3 at 20 steps"),
    ],
)
def test_the_keyboard_reads_the_curves(three, tmp_path, keys, said):
    press = "canvas.dispatchEvent(new KeyboardEvent('keydown', {key}))"
    script = f"<script>for (const key of {keys}) key === 'single' ? seeds.click() : {press}</script></body>"
    text = re.sub("<meta http-equiv[^>]*>", "", three.read_text()).replace("</body>", script)
    (tmp_path / "keys.html").write_text(text)
    shown = browse(tmp_path / "keys.html", "--dump-dom")
    assert re.search(r'<div id="tip"[^>]*>([^<]*)</div>', shown)[1] == said


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280, 718])
@pytest.mark.parametrize("page", ["pair", "wide"])
def test_nothing_is_wider_than_the_screen(request, tmp_path, page, width):
    """718 pixels are the width of a printed page, with the style of paper."""
    path = request.getfixturevalue(page)
    frame = "<iframe src=r.html style='border:0;width:{}px;height:3000px'></iframe>"
    measure = "<script>document.documentElement.dataset.width = document.documentElement.scrollWidth</script></body>"
    text = re.sub("<meta http-equiv[^>]*>", "", path.read_text()).replace("</body>", measure)
    text = text.replace("@media print", "@media all") if width == 718 else text
    (tmp_path / "r.html").write_text(text)
    root = "document.documentElement.dataset.width"
    ask = f"<script>onload = () => {root} = frames[0].{root}</script>"
    (tmp_path / "frame.html").write_text(frame.format(width) + ask)
    shown = browse(tmp_path / "frame.html", "--dump-dom", "--allow-file-access-from-files")
    assert f'data-width="{width}"' in shown


def comparison_in(folder, losses):
    """A comparison with such losses of its candidates, each with three seeds."""
    comparison = Comparison("nano", {"steps": 40}, tuple(losses), (), (), False, (0, 1, 2))
    comparisons.save(comparison, folder)
    for candidate in comparison.candidates:
        for seed in comparison.seeds:
            config = comparison.config(candidate, seed=seed)
            path = comparison.path(folder, candidate, config)
            finals = [4.0, losses[candidate.name] + 0.01 * seed]
            write(path, finals, opt=candidate.name, seed=seed, lr=config.lr, steps=40)
    return folder


def test_candidates_of_two_comparisons_are_told_apart_by_their_folders(tmp_path, capfd):
    one = comparison_in(tmp_path / "x" / "c", {"adamw": 3.0, "lion": 2.0})
    two = comparison_in(tmp_path / "two", {"adamw": 3.5, "sgd": 2.5})
    assert report(one, two, "--out", tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text()
    groups = set(re.findall(r'"group":"([^"]*)"', page))
    assert groups == {"c: adamw", "lion", "two: adamw", "sgd"}
    assert page.count("c: adamw vs. two: adamw") == 1 and "3 tests" in page
    same = comparison_in(tmp_path / "y" / "c", {"adamw": 3.5, "lion": 2.5})
    assert report(one, same, "--out", tmp_path / "r.html") == 0
    groups = set(re.findall(r'"group":"([^"]*)"', (tmp_path / "r.html").read_text()))
    assert len(groups) == 4 and all("/c: " in group for group in groups)
    assert report(one, tmp_path / "x" / ".." / "x" / "c", "--out", tmp_path / "r.html") == 2
    assert "is given twice: name each folder once" in capfd.readouterr().err


def test_the_page_of_a_comparison_has_its_own_tests(tmp_path):
    folder = comparison_in(tmp_path / "c", {"adamw": 3.0, "lion": 2.0, "sgd": 2.2})
    path = folder / comparisons.FILE
    path.write_text(path.read_text().replace('"baseline": null', '"baseline": "sgd"'))
    assert report(folder, "--out", tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text()
    assert "lion vs. sgd" in page and "sgd vs. adamw" in page and "lion vs. adamw" not in page
    assert "95 %: " in page and "0/3 0-71%" in page and "paired by seed: same weights and batches" in page
