"""The figures of the written pages, against the files and the code that they come from.

A claim is a pattern with one group per figure, and the values of these figures. A value must round to the digits that
the page prints. A claim that no longer matches its page fails, and so does a figure of the README without a claim.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import jax
import optax
import pytest

from benchmarks.answers import page as answers
from benchmarks.coordinates import OUT as COORDINATES, table as coordinates_table
from benchmarks.results import RESULTS
from benchmarks.transfer import read as recorded_transfer
from jaxopt_mini import OPTIMIZERS
from minigpt_flax.compare.paired_tests import compare_pair
from minigpt_flax.compare.transfer_tables import markdown_table
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import resolve
from tests.cases import CASES
from tests.jaxopt_mini.test_departures import DEPARTURES, NARROW_STATES

ROOT = Path(__file__).parents[1]
NANO_TOKENS = 12 * 64  # of a step of ``nanogpt``
GPT2 = 124_439_808  # its parameters
WORDS = {
    "twelve": 12, "thirteen": 13, "eighteen": 18, "twenty-eight": 28, "fifty": 50, "sixty-five": 65,
    "六十五": 65, "二十八": 28, "十八": 18,
}  # fmt: skip


@cache
def measured(section: str, machine: str = "amd-epyc-2-cores") -> dict[str, Any]:
    """A section of a results file."""
    return json.loads((RESULTS / f"{machine}.json").read_text("utf-8"))[section]


def gpu(section: str, row: str) -> dict[str, Any]:
    """A row measured on the H200."""
    return measured(f"gpu {section}", "1-x-nvidia-h200")["rows"][row]


@cache
def deviations() -> dict[str, tuple[str, float]]:
    """Source and largest deviation of every recorded trajectory."""
    return json.loads((ROOT / "docs" / "deviations.json").read_text("utf-8"))


def with_reference() -> int:
    """Optimizers that are compared with Optax or with a recorded trajectory."""
    return sum(bool(case.optax or case.goldens) for case in CASES.values())


def beyond_optax() -> set[str]:
    """Optimizers that neither ``optax`` nor ``optax.contrib`` has."""
    return {name for name in OPTIMIZERS if not (hasattr(optax, name) or hasattr(optax.contrib, name))}


def share_of_steps(name: str) -> float:
    """Steps to AdamW's final loss, in percent of AdamW's."""
    standings = {row["name"]: row for row in measured("reference, pydocs")["standings"]}
    return 100 * standings[name]["steps"] / measured("reference, pydocs")["steps"]


def faults(key: str) -> int:
    """Runs or signals, over both kinds of signal; every run was identical."""
    kinds = [found for found in measured("faults").values() if isinstance(found, dict) and "signals" in found]
    assert all(found["identical"] == found["runs"] for found in kinds)
    return sum(found[key] for found in kinds)


@cache
def parameters(preset: str) -> int:
    """Parameters of a preset on its data, counted from the shapes of its tensors."""
    return sum(leaf.size for leaf in jax.tree.leaves(build(resolve({}, preset)).shapes))


def step_ms() -> float:
    """Milliseconds of a step of ``nanogpt``, whose model is that of ``demo``."""
    return measured("step nanogpt")["ms_per_step"]["ours"]["median"]


def over_nanogpt(choose: Callable) -> float:
    """Our time of a step of ``nanogpt`` over the peer's; ``choose`` is ``min`` or ``max`` over the configurations."""
    times = {name: spread["median"] for name, spread in measured("step nanogpt")["ms_per_step"].items()}
    return choose(times["ours"] / times[peer] for peer in measured("step nanogpt")["ours_over"]["ours"])


def part(name: str) -> float:
    """Milliseconds of a step of ``nanogpt`` on one core that a part accounts for."""
    found = measured("parts")
    return (1 - found["over"][name]["median"]) * found["ms_per_step"]["as it is"]["median"]


def overhead(name: str) -> float:
    """Percent that the loop adds to a step."""
    return 100 * (measured("loop")["ratios"][name]["median"] - 1)


@dataclass(frozen=True)
class Claim:
    """Figures on a page.

    Attributes:
      page: the file.
      pattern: matches the figures in their context, one group for each.
      values: their values, from a file or from the code.
    """

    page: str
    pattern: str
    values: Callable[[], tuple[float, ...]]


def demo(step: str) -> tuple[float, float]:
    """Validation loss of ``make demo``, and its standard error."""
    found = measured("pages, demo")[step]
    return found["val_loss"], found["val_sem"]


DEMO = {name: rf"step {name}: validation loss ([\d.]+) \+- ([\d.]+), best" for name in ("500", "1000", "1500")}


def false_verdicts() -> float:
    """The largest error rate of ``compare`` in the simulations."""
    return max(row[tests] for row in measured("verdicts")["error"] for tests in row if tests.startswith("compare"))


def over_widths(parametrization: str):
    """AdamW's losses over learning rates and widths."""
    return next(one for one in recorded_transfer().families if one.name == f"adamw, {parametrization}")


def widths() -> tuple[int, int]:
    """The narrowest and the widest model."""
    curves = over_widths("mup").curves
    return curves[0].width, curves[-1].width


def shift(parametrization: str) -> float:
    """Octaves that AdamW's best learning rate moves from the narrowest to the widest model."""
    family = over_widths(parametrization)
    return abs(family.shift(family.curves[-1]))


README = [
    (r"\*\*(Sixty-five) JAX optimizers", lambda: (len(OPTIMIZERS),)),
    (r"all (\d+) tested step by step against a reference", lambda: (with_reference(),)),
    (r"(Twelve) optimizers on one small GPT", lambda: (len(measured("reference, pydocs")["standings"]),)),
    (r"GPT \(([\d.]+) M parameters, text of the Python documentation, ([\d,]+) steps\)", lambda: (
        parameters("demo") / 1e6, measured("reference, pydocs")["steps"])),
    (r"([\d.]+) M-parameter GPT", lambda: (parameters("demo") / 1e6,)),
    (r"in (\d+) % and (\d+) % of its steps", lambda: (share_of_steps("muon"), share_of_steps("soap"))),
    (r"against (\d+) trajectories recorded", lambda: (len(deviations()),)),
    (r"deviation is ([\d.e-]+) of\s+the distance", lambda: (max(size for _, size in deviations().values()),)),
    (r"(Twenty-eight) optimizers that Optax lacks", lambda: (len(beyond_optax()),)),
    (r"(Eighteen) bugs of Optax", lambda: (len({name.partition(",")[0] for name in DEPARTURES}),)),
    (r"at most ([\d.]+) % found a difference", lambda: (100 * false_verdicts(),)),
    (r"(\d+) recorded trajectories, every step \| at most ([\d.e-]+) of the movement \(Shampoo\)", lambda: (
        len(deviations()), max(deviations()[file][1] for file in deviations() if file.startswith("shampoo")))),
    (r"nanoGPT \| (\d+) training losses .* \| ([\d.e-]+) nats without biases, ([\d.e-]+) with", lambda: (
        100, *(measured("pages, nanogpt")[way]["loss"] for way in ("without biases", "with biases")))),
    (r"takes (\d+) ms \(([\d.]+)k tokens/s\), ([\d.]+) to ([\d.]+) of nanoGPT's time", lambda: (
        step_ms(), NANO_TOKENS / step_ms(), over_nanogpt(min), over_nanogpt(max))),
    (r"(\d+) runs, killed by (\d+) signals", lambda: (faults("runs"), faults("signals"))),
    (r"from width (\d+) to (\d+), AdamW's best learning rate changes by ([\d.]+) octaves\s+with muP and by ([\d.]+)",
     lambda: (*widths(), shift("mup"), shift("standard"))),
]  # fmt: skip
CHINESE = [
    (
        r"宽度从 (\d+) 增至 (\d+) 时.*只变化 ([\d.]+) 个倍频程.*变化 ([\d.]+) 个",
        lambda: (*widths(), shift("mup"), shift("standard")),
    ),
    (r"最多只有 ([\d.]+) % 的比较", lambda: (100 * false_verdicts(),)),
    (r"\*\*(六十五)个 JAX 优化器", lambda: (len(OPTIMIZERS),)),
    (r"没有的(二十八)个优化器", lambda: (len(beyond_optax()),)),
    (r"的(十八)处错误", lambda: (len({name.partition(",")[0] for name in DEPARTURES}),)),
]
PRINTED = [(r"(808,960) parameters", lambda: (parameters("demo"),))] + [
    (pattern, lambda step=step: demo(step)) for step, pattern in DEMO.items()
]
OPTAX = [
    (r"The (\d+) optimizers that also exist in `optax`", lambda: (len(OPTIMIZERS) - len(beyond_optax()),)),
    (r"(Twenty-eight) optimizers that Optax lacks", lambda: (len(beyond_optax()),)),
]
HOME = [
    (r"(Sixty-five) JAX optimizers", lambda: (len(OPTIMIZERS),)),
    (r"all (\d+) tested", lambda: (with_reference(),)),
]
SPEED = [
    (r"on one core\s+takes (\d+) % longer", lambda: (
        100 * (measured("parts")["over"]["gradients of weights without a copy"]["median"] - 1),)),
    (r"takes ([\d.]+) to ([\d.]+) of nanoGPT's time", lambda: (over_nanogpt(min), over_nanogpt(max))),
    (r"One core needs (\d+) ms", lambda: (measured("parts")["ms_per_step"]["as it is"]["median"],)),
    (r"Norms take ([\d.]+) ms, softmax ([\d.]+) ms", lambda: (part("no normalisation"), part("no softmax"))),
    (r"With\s+both cores a step takes (\d+) ms", lambda: (measured("step nanogpt")["ms_per_step"]["ours"]["median"],)),
    (r"takes ([\d.]+) of Optax's time", lambda: (measured("muon gpt2")["ratios"]["optax"]["median"],)),
    (r"adds (\d+) % to a step, and without probes (\d+) %", lambda: (overhead("loop with probes"), overhead("loop"))),
    (r"`gpt2` took (\d+) ms per\s+step", lambda: (gpu("train, logits in chunks", "gpt2, base")["ms"],)),
    (r"measured in the same run, took (\d+) ms", lambda: (gpu("nanogpt, logits in chunks", "gpt2, nanoGPT")["ms"],)),
    (r"take ([\d.]+) ms instead of ([\d.]+)", lambda: (gpu("loss", "one pass")["ms"], gpu("loss", "plain")["ms"])),
    (r"A step of `gpt2` takes (\d+) ms, (\d+)k tokens/s", lambda: (
        gpu("train", "gpt2, base")["ms"], gpu("train", "gpt2, base")["tokens_per_second"] / 1e3)),
    (r"a whole step ([\d.]+)\s+s, (\d+)k tokens/s, MFU (\d+) %", lambda: (
        gpu("train", "gpt2, whole step")["ms"] / 1e3, gpu("train", "gpt2, whole step")["tokens_per_second"] / 1e3,
        100 * gpu("train", "gpt2, whole step")["mfu"])),
    (r"MFU of 50 %, a step may take only (\d+) ms", lambda: (
        2 * gpu("train", "gpt2, base")["ms"] * gpu("train", "gpt2, base")["mfu"],)),
    (r"in ([\d.]+) ms: ([\d.]+) TB/s", lambda: (
        gpu("optimizer", "adamw")["update_ms"],
        28 * GPT2 / gpu("optimizer", "adamw")["update_ms"] / 1e9)),
    (r"update is\s+([\d.]+) % of a step", lambda: (100 * gpu("optimizer", "adamw")["share"],)),
]  # fmt: skip
COMPARE = [
    (r"at most ([\d.]+) % end with a false \*beats\*; with the t-test", lambda: (100 * false_verdicts(),)),
    (r"with the t-test alone, it is up to\s+([\d.]+) %", lambda: (
        100 * max(row["t, all pairs"] for row in measured("verdicts")["error"]),)),
    (r"wins ([\d.]+) % of comparisons with\s+10 seeds,\s+here ([\d.]+) %", lambda: tuple(
        100 * row[test] for row in measured("verdicts")["survivors"] for test in ("t", "compare") if row["seeds"] == 10
    )),
    (r"with six seeds in ([\d.]+) % of comparisons, with ten in ([\d.]+) %", lambda: tuple(
        100 * row["compare"] for row in measured("verdicts")["power"]
        if (row["noise"], row["difference"]) == ("normal", 2.0) and row["seeds"] in (6, 10))),
    (r"take ([\d.]+) times as long\s+together", lambda: (measured("compare, together")["ratio"],)),
    (r"average, at a cost of ([\d.]+) full runs", lambda: (
        mean(case["search"]["cost"] for case in searches(slice(6))),)),
    (r"is ([\d.]+) nats\s+above the best of 13", lambda: searched("search", slice(6))),
    (r"halving is ([\d.]+) nats above it at [\d.]+ full\s+runs, and the best of five full runs ([\d.]+)\.", lambda: (
        *searched("halving", slice(6)), *searched("one of five", slice(6)))),
    (r"six other settings, it is ([\d.]+), ([\d.]+) and ([\d.]+)\.", lambda: tuple(
        value for way in ("search", "halving", "one of five") for value in searched(way, slice(6, None)))),
    (r"AdamW and 80 steps \(([\d.]+) and ([\d.]+)\)", lambda: tuple(
        measured("search")["cases"]["adamw, 80 steps"][way]["regret"] for way in ("search", "halving"))),
    (r"with a standard error of ([\d.]+) nats", lambda: (mean(case["error"] for case in searches(slice(None))),)),
    (r"better rates there \(([\d.]+)\)", lambda: (
        measured("search")["cases"]["adamw, 80 steps"]["extended"]["regret"],)),
    (r"with Lion \(([\d.]+) instead of (-[\d.]+)\)", lambda: extension("lion")),
    (r"`wsd` \(([\d.]+) instead of ([\d.]+)\)", lambda: extension("adamw, wsd")),
    (r"gains\s+nothing: ([\d.]+) instead of ([\d.]+) nats", lambda: (
        *searched("extended", slice(None)), *searched("search", slice(None)))),
    (r"a cost of ([\d.]+) instead of ([\d.]+) full", lambda: tuple(
        mean(case[way]["cost"] for case in searches(slice(None))) for way in ("extended", "search"))),
    (r"at most ([\d.]+) % end with a false \*beats\*; without", lambda: (
        100 * max(row["auto"] for row in measured("sequential")["error"]),)),
    (r"without this correction, it is up\s+to ([\d.]+) %", lambda: (
        100 * max(row["naive"] for row in measured("sequential")["error"]),)),
    *(
        (rf"{name} +([\d.]+) \+-[\d.]+ +([\d.]+) ", lambda name=name: example(name, "mean", "lr"))
        for name in ("muon", "lion", "adamw")
    ),
    (r"first (\d+) steps agree to ([\d.e-]+)", lambda: (
        measured("compare, together")["steps"], measured("compare, together")["largest difference of losses"])),
]  # fmt: skip
TUNE = [
    (r"is ([\d.]+) nats above the best setting of the\s+grid", lambda: tuned("regret")),
    (r"takes five times as many steps, it is ([\d.]+)", lambda: tuned("regret of the grid")),
    (
        r"(\d+) steps, (\d+) settings of AdamW",
        lambda: tuple(measured("tune")["cases"]["adamw"][key] for key in ("steps", "settings")),
    ),
]
COUNTS = {
    "docs/start/install.md": r"devices and (\d+), the number of optimizers",
    "docs/zh/start/install.md": r"优化器的个数 (\d+)",
    "docs/start/optimizers.md": r"a page for each of the (\d+)",
    "docs/project/comparison.md": r"optimizers selectable in a run \| (\d+)",
    "docs/zh/index.md": r"(六十五)个 JAX 优化器",
    "docs/project/design.md": r"and all (\d+) are compared",
}
DEVICES = [
    (r"same losses in every digit: ([\d.]+), ([\d.]+), and a validation\s+loss of (\d\.\d+)", lambda: on_devices()),
    (r"step 10/20 loss ([\d.]+) lr", lambda: on_devices()[:1]),
    (r"step 20/20 loss ([\d.]+) lr", lambda: on_devices()[1:2]),
    (r"step 20: validation loss ([\d.]+) \+- ([\d.]+), best", lambda: (
        on_devices()[2], measured("pages, devices")["data=8"]["val_sem"])),
    *(
        (rf"\| {label} \| ([\d.]+) \| ([\d.]+) \|", lambda name=name: tuple(
            measured("pages, rounding")[name][way] for way in ("eight devices", "changed weights")))
        for name, label in (("soap", "SOAP"), ("galore", "GaLore"), ("dion", "Dion"))
    ),
]  # fmt: skip
FINE_TUNE = [
    (r"validation loss of ([\d.]+)\. The fine-tuned run reaches ([\d.]+) after", lambda: tuple(
        measured("pages, fine-tune")[name]["val_loss"] for name in ("small", "tuned"))),
]  # fmt: skip
DIFFERENCES = [(r"the state of (twelve) optimizers", lambda: (len(NARROW_STATES) + 1,))]
PRESETS = [
    (r"`demo` \|.* \| ([\d.]+), pydocs", lambda: demo("1500")[:1]),
    (r"`sprint` \|.* \| (\d+) s \| ([\d.]+) \|", lambda: (
        measured("to_loss")["seconds"]["ours"]["median"], measured("to_loss")["val_loss"]["ours"][0])),
    (r"one H200: ([\d.]+) s a step", lambda: (gpu("train", "gpt2, whole step")["ms"] / 1e3,)),
    (r"at (\d+) s a step", lambda: (measured("step char")["ms_per_step"]["ours"]["median"] / 1e3,)),
]  # fmt: skip


def searches(cases: slice) -> list[dict[str, Any]]:
    """The first six cases, with which the search was designed, or the others."""
    return list(measured("search")["cases"].values())[cases]


def searched(way: str, cases: slice) -> tuple[float]:
    """Mean regret of a way to find the learning rate."""
    return (mean(case[way]["regret"] for case in searches(cases)),)


def extension(case: str) -> tuple[float, ...]:
    """Regrets of the search with more long runs, and of the search."""
    return tuple(measured("search")["cases"][case][way]["regret"] for way in ("extended", "search"))


def tuned(key: str) -> tuple[float]:
    """Mean regret of the search of several hyperparameters, or of the whole grid."""
    return (mean(search[key] for search in measured("tune")["cases"]["adamw"]["searches"]),)


def example(name: str, *keys: str) -> tuple[float, ...]:
    """Values of a candidate in the comparison that the guide prints."""
    rows = {row["name"]: row for row in measured("compare, example")["standings"]}
    return tuple(rows[name][key] for key in keys)


def on_devices() -> tuple[float, float, float]:
    """The losses of the five runs on eight devices, which must print alike."""
    runs = [found for name, found in measured("pages, devices").items() if isinstance(found, dict) and "loss" in found]
    printed = {tuple(f"{x:.4f}" for x in (run["loss"]["10"], run["loss"]["20"], run["val_loss"])) for run in runs}
    assert len(runs) == 5 and len(printed) == 1
    return runs[0]["loss"]["10"], runs[0]["loss"]["20"], runs[0]["val_loss"]


CLAIMS = [
    Claim(page, pattern, values)
    for page, claims in {
        "README.md": README + PRINTED,
        "README.zh-CN.md": CHINESE + PRINTED,
        "docs/index.md": HOME,
        "docs/guides/performance.md": SPEED,
        "docs/guides/compare.md": COMPARE,
        "docs/guides/devices.md": DEVICES,
        "docs/guides/fine-tune.md": FINE_TUNE,
        "docs/guides/presets.md": PRESETS,
        "docs/optimizers/differences.md": DIFFERENCES,
        "docs/guides/from-optax.md": OPTAX,
        "docs/guides/tune.md": TUNE,
        **{page: [(pattern, lambda: (len(OPTIMIZERS),))] for page, pattern in COUNTS.items()},
    }.items()
    for pattern, values in claims
]
EXEMPT = {  # figures of the README's prose that are no measurements, and the one that is not recorded: why
    r"Python 3\.11": "a requirement; pyproject.toml",
    r"Optax 0\.2\.8": "a version; test_departures.py",
    r"PyTorch 2\.13": "a version; tests/golden/index.json",
    r"alpha = 0\.05": "a level; LEVEL in compare/paired_tests.py",
    r"Muon for 1,500 steps": "the command below this line",
    r"1,000 steps against 500 \+ 500": "tests/minigpt_flax/train/test_resume.py",
}
FIGURE = re.compile(r"\d[\d,]*\.\d+(?:e-?\d+)?|\d+(?:e-\d+)|\d+ ?%|\d[\d,]*\d{2}")


def number(text: str) -> Decimal:
    """A printed figure."""
    word = text.lower()
    return Decimal(WORDS[word] if word in WORDS else text.replace(",", ""))


def rounds_to(value: float, text: str) -> bool:
    """Whether a value rounds to a printed figure."""
    printed = number(text)
    step = Decimal(1).scaleb(int(printed.as_tuple().exponent))
    return abs(Decimal(value) - printed) <= step / 2 * Decimal("1.000001")


def read(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.page}: {claim.pattern}")
def test_a_figure_is_that_of_its_file(claim):
    found = [match.groups() for match in re.finditer(claim.pattern, read(claim.page))]
    assert found, "the page no longer says this: change or remove the claim"
    values = claim.values()
    for printed in found:
        assert len(printed) == len(values)
        assert all(map(rounds_to, values, printed)), f"the page says {printed}, the file {values}"


def prose(text: str) -> str:
    """A page with its code blanked out, and the addresses of its links."""
    blank = lambda match: re.sub(r"\S", " ", match[0])
    return re.sub(r"^```.*?^```|^    .*?$|\]\([^)]*\)|`[^`\n]*`", blank, text, flags=re.DOTALL | re.MULTILINE)


def test_every_figure_of_the_readme_has_a_claim():
    page = read("README.md")
    allowed = [claim.pattern for claim in CLAIMS if claim.page == "README.md"] + list(EXEMPT)
    covered = [match.span() for pattern in allowed for match in re.finditer(pattern, page)]
    figures = list(FIGURE.finditer(prose(page)))
    assert len(figures) > 15
    bare = [f[0] for f in figures if not any(start <= f.start() and f.end() <= end for start, end in covered)]
    assert not bare, "give each a claim, or an exemption with its reason"


@pytest.mark.parametrize("pattern", EXEMPT)
def test_an_exemption_is_needed(pattern):
    assert re.search(pattern, read("README.md"))


def test_a_wrong_figure_is_noticed():
    assert rounds_to(0.4334, "0.43") and rounds_to(9.25e-5, "9.3e-5") and rounds_to(50, "fifty")
    assert not rounds_to(0.4351, "0.43") and not rounds_to(9.2e-5, "9.3e-5") and not rounds_to(808_961, "808,960")


@pytest.mark.parametrize("name", ["decay", "geometry", "schedules"])
def test_an_answer_is_its_template_with_the_recorded_facts(name, tmp_path):
    recorded = measured(f"answers, {name}")
    shown = re.findall(rf"\]\(({name}-(\w+)\.svg)\)", read(f"docs/answers/{name}.md"))
    pictures = {label: file for file, label in shown}
    written = answers.write(tmp_path, name, {}, {**recorded, **pictures})
    assert written.read_text("utf-8") == read(f"docs/answers/{name}.md")


@pytest.mark.parametrize("part", ["pydocs", "shakespeare"])
def test_the_reference_comparison_has_the_recorded_results(part):
    text = read("docs/optimizers/results.md").split(f"<!-- part: {part} -->")[1].split("<!-- part: end -->")[0]
    rows = {cells[0]: cells for line in text.splitlines() if len(cells := line.strip("| ").split(" | ")) > 3}
    titles, recorded = rows.pop("candidate"), measured(f"reference, {part}")
    assert len([name for name in rows if not name.startswith("---")]) == len(recorded["standings"])
    columns = {"lr": "lr", "steps": "steps", "speed": "speedup", "B/par": "state_bytes", "div": "diverged"}
    for row in recorded["standings"]:
        cells = dict(zip(titles, rows[row["name"]], strict=True))
        assert cells["loss +- error"] == f"{row['mean']:.4f} +-{row['sem']:.4f}"
        shown = {title: cells[title].strip("x*") for title in columns if cells.get(title, "-") != "-"}
        assert "lr" in shown and all(rounds_to(row[columns[title]], text) for title, text in shown.items())
    losses = {row["name"]: {int(seed): loss for seed, loss in row["losses"].items()} for row in recorded["standings"]}
    for name in losses.keys() - {"adamw"}:
        test = compare_pair("adamw", losses["adamw"], name, losses[name], 0.0)
        sign = 1 if test.worse == name else -1
        low, high = sorted(sign * end for end in test.interval)
        assert f"- {name}: {sign * test.difference:+.4f} ({low:+.4f} to {high:+.4f})\n" in text


def test_a_relative_time_is_the_ratio_of_the_two_times_beside_it():
    rows = re.findall(
        r"\| ([\d.]+ m?s)\b[^|]*\| [^|]*? ([\d.]+ m?s)[^|]*?: \*\*([\d.]+)x\*\*", read("docs/project/benchmarks.md")
    )
    assert len(rows) > 8
    seconds = lambda text: float(text.split()[0]) * (1e-3 if text.endswith("ms") else 1)
    for ours, theirs, ratio in rows:
        assert seconds(ours) / seconds(theirs) == pytest.approx(float(ratio), abs=0.011)  # of rounded times


def test_the_guide_to_transfer_states_the_losses_of_rescaled_hyperparameters():
    found = measured("batch scaling")["results"]["adamw"]["as many tokens"]
    regret, text = found["regret"], read("docs/guides/transfer.md")
    for row, name in (
        ("predicted by the rules | 0.016", "rescaled"),
        ("predicted, with the learning rate of batch 12 | 0.0078", "only the learning rate kept"),
        ("predicted, with momentum rescaled too | 0.016", "momentum rescaled too"),
        ("predicted, with a warm-up of 5 % of the run | 0.016", "warm-up as at batch 12"),
        ("only the learning rate rescaled | 0.016", "only the learning rate rescaled"),
        ("nothing rescaled | 0.0078", "nothing rescaled"),
    ):
        assert f"| {row} | {regret[name]:.2f} |" in text
    kept = min(found["grids"]["as at batch 12"].values()) - found["tuned"]["loss"]
    assert f"as at batch 12 | 0.0055 | {kept:.2f} |" in text
    assert regret["rescaled"] <= 0.02


def test_the_guide_to_tuning_states_the_search_of_nano():
    path = ROOT / "benchmarks" / "results" / "tune"
    search, grid = (json.loads((path / f"nano-{name}.json").read_text("utf-8")) for name in ("search", "grid"))
    text = " ".join(read("docs/guides/tune.md").split())
    steps = (found["steps"]["search"] for found in (search, grid))
    assert "trains {:,} steps, and with `--budget 1000` the whole grid, {:,}.".format(*steps) in text
    assert f"a loss of {search['loss']:.3f} and that of the grid {grid['loss']:.3f}" in text
    judged = (mean(found["judged"]["best"]) for found in (search, grid))
    assert "it is {:.3f} and {:.3f}.".format(*judged) in text


def test_the_table_of_coordinate_checks_is_the_recorded_one():
    assert f"\n\n{coordinates_table()}\n\n" in (ROOT / "docs" / "guides" / "transfer.md").read_text("utf-8")
    for path in COORDINATES.glob("*.json"):
        found = json.loads(path.read_text("utf-8"))
        within = all(abs(slope["value"]) <= found["tolerance"] for slope in found["slopes"].values())
        assert within is (found["parametrization"] != "standard")
        assert found["passed"] is not None or path.stem in ("lion", "adafactor")  # named in the guide


def test_the_table_of_transfer_is_the_recorded_one():
    page = (ROOT / "docs" / "guides" / "transfer.md").read_text("utf-8")
    assert f"\n\n{markdown_table(recorded_transfer())}\n\n" in page
    widest = {family.name: family for family in recorded_transfer().families}
    shifts = {name: family.shift(family.curves[-1]) for name, family in widest.items()}
    for name in ("adamw", "lion", "soap"):
        assert shifts[f"{name}, standard"] < -1 and abs(shifts[f"{name}, mup"]) < 0.5


def test_the_table_of_verdicts_of_diagnose_is_the_recorded_one():
    section = read("docs/guides/diagnose.md").partition("## How often is it right?")[2].partition("\n## ")[0]
    shown = re.findall(r"^\| (.+: .+|.+ bound .+) \| (\d+) \| (\d+) \| (.+) \|$", section, re.MULTILINE)
    counts = measured("diagnosis, checkpoints")["counts"]
    recorded = {tuple(str(value) for value in row.values()) for row in counts}
    assert len(shown) == 12 and set(shown) <= recorded
