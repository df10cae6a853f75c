"""The tables of a comparison: times with their spread, complete specs, and formats for documents."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest

from minigpt_flax.compare import latex, tables
from minigpt_flax.compare.statistics import CandidateRuns, summarize
from tests.minigpt_flax.made_runs import run

SPECIAL = "\\{}$&#%_^~<>|\"`'-[]*\n\x1b\u202e\u5b9e"


def entry(name, finals, slower=1.0, **config):
    runs = [run([4.0, 3.5, loss], seed, **{"opt": name, **config}) for seed, loss in enumerate(finals)]
    for i, each in enumerate(runs):
        for record in each.records:
            record["seconds"] *= slower * (1 + i)
    return CandidateRuns(name, runs, tuple(range(len(finals))))


def summary_of(*entries, **more):
    return summarize(entries, **more)


@pytest.fixture(scope="module")
def seven():
    losses = [2.0 + 0.01 * seed for seed in range(7)]
    better = [loss - 0.1 - 0.001 * seed**2 for seed, loss in enumerate(losses)]
    return summary_of(entry("adamw(b2=0.99)", losses), entry("muon", better), entry(SPECIAL, [*losses[:6], None]))


def test_identical_programs_have_the_same_times_however_the_machine_was_loaded():
    one, two = entry("adamw(b2=0.99, eps=1e-8)", [2.0, 2.1]), entry("adamw(b2=0.9)", [2.0, 2.2], slower=5.0, lr=0.1)
    schedule = entry("adamw", [2.0, 2.2], slower=9.0, schedule="wsd(cooldown=0.2)")
    other = entry("adamw(nesterov=True)", [2.0, 2.2], slower=3.0)
    results = {r.name: r for r in summary_of(one, two, schedule, other).results}
    spans = {name: result.ms_range for name, result in results.items()}
    assert spans[one.name] == spans[two.name] == spans[schedule.name] == pytest.approx((100, 1800))
    assert spans[other.name] == pytest.approx((300, 600))
    assert tables.text(summary_of(one, two, schedule, other)).count("100-1800") == 3


def test_a_single_time_has_no_spread_and_is_not_shown():
    shown = tables.text(summary_of(entry("one", [2.0]), entry("two", [2.1])))
    assert "ms" not in shown.split("\n")[0] and "secs" not in shown


def test_the_spec_of_every_candidate_is_complete():
    adamw, own = "adamw(b2=0.99, weight_decay=0.1)", "mine.py:factory"
    legend = tables.legend(summary_of(*(entry(opt.partition("(")[0], [2.0, 2.1], opt=opt) for opt in (adamw, own))))
    assert legend[-1] == f"adamw: {adamw}" and not any(own in line for line in legend)
    same = [entry(name, [2.0, 2.1], opt=adamw, schedule=name) for name in ("wsd", "cosine")]
    shown = tables.text(summary_of(*same))
    assert f"all: {adamw}" in shown and shown.count(adamw) == 1


@pytest.mark.parametrize(
    ("opts", "said"),
    [
        (
            {"adamw": "adamw(b2=0.99, weight_decay=0.1)", "nadamw": "nadamw"},
            "(note: adamw has b2 0.99, weight_decay 0.1 and nesterov False, nadamw 0.999, 0.0001 and True)",
        ),
        ({"adamw": "adamw(b2=0.99)", "adamw(b2=0.95)": "adamw(b2=0.95)"}, ""),  # what is compared
        (
            {"adamw": "adamw(eps=1e-7)", "adamw(b2=0.95)": "adamw(b2=0.95)"},
            "has eps 1e-07, adamw(b2=0.95) 1e-08)",
        ),
        ({"adam": "adam", "mine.py:f": "mine.py:f(b1=0.8)"}, "(note: adam has b1 0.9, mine.py:f 0.8)"),
        ({"adam": "adam", "nadam": "nadam(", "none": "no optimizer"}, ""),  # written by another release
        ({"wsd": "adamw(b2=0.99)", "cosine": "adamw(b2=0.99)"}, ""),
    ],
)
def test_keywords_that_are_not_compared_but_differ_are_named(opts, said):
    summary = summary_of(*(entry(name, [2.0, 2.1], opt=opt, schedule=name) for name, opt in opts.items()))
    (note,) = tables.confounders(summary) or [""]
    assert said in note and bool(said) == bool(note)


def unescaped(text):
    """What LaTeX would typeset; fails on a special character that isn't escaped."""
    backward = {escape: character for character, escape in latex.ESCAPES.items()}
    pattern = re.compile("|".join(map(re.escape, sorted(backward, key=len, reverse=True))))
    assert not re.search(r"[{}$&#%_^~\\\"`<>|\[\]-]", pattern.sub("", text))
    return pattern.sub(lambda found: backward[found[0]], text)


def test_every_character_is_escaped_in_latex():
    text = "".join(map(chr, range(32, 127)))
    assert unescaped(latex.escape(text)) == " ".join(text.split())
    assert unescaped(latex.escape(SPECIAL)) == SPECIAL.replace("\n\x1b\u202e", r" \x1b\u202e")


def test_the_latex_table_is_well_formed(seven):
    text = latex.latex(seven)
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    columns = re.search(r"\\begin\{tabular\}\{(l r*)\}".replace(" ", ""), text)[1]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 4 and all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)
    assert all(row.count("$") - row.count(r"\$") in range(0, 99, 2) for row in rows)
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    rules = [text.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert rules == sorted(rules) and r"\usepackage{booktabs}" in text


def test_latex_has_intervals_the_best_in_bold_and_says_how_it_was_tested(seven):
    text = latex.latex(seven)
    (bold,) = re.findall(r".*\\mathbf.*", text)
    best = seven.results[0]
    assert best.name == "muon" and rf"\texttt{{muon}} & $\mathbf{{{best.mean:.4f}}} \pm" in bold
    low, high = seven.tests[0].interval
    assert f"$[{-high:+.4f}, {-low:+.4f}]$" in bold and r"^\dagger$ &" in bold
    for said in (r"$n = 6$ to $7$ seeds", r"95\,\%", "signed-rank", "2 planned tests", r"\texttt{adamw(b2=0.99)}"):
        assert said in latex.caption(seven)


def test_a_candidate_with_diverged_runs_is_never_the_best():
    summary = summary_of(entry("one", [2.0, 2.1]), entry("two", [1.0, None]))
    assert summary.best == "one" and r"\mathbf{2.0500}" in latex.latex(summary)
    assert "**2.0500**" in tables.markdown(summary) and "**1.0000**" not in tables.markdown(summary)


def test_the_csv_has_all_digits_one_row_per_candidate_and_the_difference(seven):
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(seven))))
    assert [row["name"] for row in rows] == [r.name for r in seven.results]
    by_name = {row["name"]: row for row in rows}
    mine, base = by_name["muon"], by_name["adamw(b2=0.99)"]
    assert float(mine["mean"]) == seven.results[0].mean
    assert float(mine["difference"]) == pytest.approx(float(mine["mean"]) - float(base["mean"]), rel=1e-12)
    assert float(mine["difference_low"]) < float(mine["difference"]) < float(mine["difference_high"]) < 0
    assert float(mine["p_corrected"]) == seven.tests[0].corrected and base["p"] == base["difference"] == ""


def test_markdown_cells_have_no_markup_of_a_name(seven):
    lines = [line for line in tables.markdown(seven).splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1 and len(lines) == 5
    assert not re.search(r"(?<!\\)[<`]", "".join(lines))


def test_every_key_of_the_json_is_documented(seven):
    values = json.loads(tables.as_json(seven))
    page = (Path(__file__).parents[3] / "docs/guides/compare.md").read_text("utf-8")
    documented = set(re.findall(r"`(\w+)`", page[page.index("### Keys of") :]))
    assert {*values, *values["standings"][0], *values["pairs"][0]} <= documented


@pytest.mark.parametrize("form", tables.FORMATS)
def test_every_format_takes_any_result(form):
    entries = [entry("one", [2.0, None, 2.2]), entry("two", [None] * 3), CandidateRuns("three", [], (0, 1, 2))]
    summary = summary_of(*entries, target=1.5)
    for shown in (summary, dataclasses.replace(summary, target=None, tests=[])):
        assert tables.FORMATS[form](shown).endswith("\n")
