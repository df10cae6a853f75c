r"""Format a comparison's summary as a LaTeX table for a paper; it needs ``\usepackage{booktabs}``. Imports no JAX."""

from __future__ import annotations

import re
from collections.abc import Callable

from minigpt_flax.compare.paired_tests import LEVEL
from minigpt_flax.compare.statistics import CandidateResult, Summary
from minigpt_flax.text import counted, printable

ESCAPES = {
    **{character: "\\" + character for character in "{}$&#%_"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",  # active in some languages of babel
    "`": r"\char96{}",
    "-": "-{}",  # no dash of two or three
    "[": "{[}",  # no optional argument
    "]": "{]}",
}
ABSENT = "--"
LABEL = "tab:comparison"


def escape(text: str) -> str:
    r"""Text as LaTeX, in one line.

    >>> escape(r"adamw(b2=0.99) 5% $x_1$ \end{tabular}")
    'adamw(b2=0.99) 5\\% \\$x\\_1\\$ \\textbackslash{}end\\{tabular\\}'
    """
    line = " ".join(printable(text).split())
    return "".join(ESCAPES.get(character, character) for character in line)


def latex(summary: Summary) -> str:
    r"""The summary as a ``table`` environment: loss and difference with 95 % intervals, the lowest loss in bold."""
    columns = _used_columns(summary)
    head = ["Optimizer", *columns]
    rows = [[rf"\texttt{{{escape(r.name)}}}", *(cell(r) for cell in columns.values())] for r in summary.results]
    line = lambda cells: f"    {' & '.join(cells)} \\\\"
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}; names in other scripts need XeLaTeX or LuaLaTeX",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{caption(summary)}}}",
            rf"  \label{{{LABEL}}}",
            rf"  \begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"    \toprule",
            line(head),
            r"    \midrule",
            *map(line, rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _used_columns(summary: Summary) -> dict[str, Callable[[CandidateResult], str]]:
    """The columns that hold a value."""
    return {title: cell for title, cell in _columns(summary).items() if any(cell(r) != ABSENT for r in summary.results)}


def _columns(summary: Summary) -> dict[str, Callable[[CandidateResult], str]]:
    """Title and cells of each column; the length of the runs has one if candidates differ in it."""
    length = lambda r: ABSENT if r.length is None else r"${} \times {}$".format(*r.length)
    return {
        "Loss (nats/token)": lambda r: _loss(r, r.name == summary.best),
        **({r"Steps $\times$ tokens": length} if summary.lengths_differ else {}),
        "Difference (nats/token)": lambda r: _difference(summary, r.name),
        "$p$": lambda r: _p(summary, r.name),
        "Learning rate": lambda r: _number(r.lr, ".2g", r"^\ast" * bool(r.edge)),
        "Steps": lambda r: _number(r.steps, ".0f"),
        "Speedup": lambda r: ABSENT if r.speedup is None else rf"${r.speedup:.2f}\times$",
        "B/param.": lambda r: _number(r.state_bytes, ".1f"),
        "ms/step": lambda r: ABSENT if r.ms_range is None else "--".join(map(two_digits, r.ms_range)),
        "Diverged": lambda r: f"{len(r.diverged_seeds)}/{r.ended}" if r.ended else ABSENT,
    }


def two_digits(value: float) -> str:
    """A number with two significant digits and without an exponent, if it is of ordinary size.

    >>> two_digits(1234.0), two_digits(1.26)
    ('1200', '1.3')
    """
    return f"{float(f'{value:.2g}'):g}"


def _loss(result: CandidateResult, bold: bool) -> str:
    if result.mean is None:
        return ABSENT
    low, high = result.interval or (0.0, 0.0)
    mean = f"{result.mean:.4f}"
    error = "" if result.interval is None else rf" \pm {(high - low) / 2:.4f}"
    return rf"$\mathbf{{{mean}}}{error}$" if bold else f"${mean}{error}$"


def _difference(summary: Summary, name: str) -> str:
    difference, interval = summary.difference(name)
    if difference is None:
        return ABSENT
    return f"${difference:+.4f}$" + ("" if interval is None else " $[{:+.4f}, {:+.4f}]$".format(*interval))


def _p(summary: Summary, name: str) -> str:
    test = summary.against_baseline(name)
    if test is None or test.corrected is None:
        return ABSENT
    return _number(test.corrected, ".2g", r"^\dagger" * test.significant)


def _number(value: float | None, form: str, mark: str = "") -> str:
    r"""A number in math mode, with its exponent as a power of ten.

    >>> _number(3e-05, ".2g"), _number(None, ".2g")
    ('$3 \\times 10^{-5}$', '--')
    """
    if value is None or value != value:
        return ABSENT
    return "$" + re.sub(r"e([-+]?)0*(\d+)", _power, format(value, form)) + mark + "$"


def _power(exponent: re.Match[str]) -> str:
    return rf" \times 10^{{{exponent[1].replace('+', '')}{exponent[2]}}}"


def caption(summary: Summary) -> str:
    """Says what the numbers are: the number of seeds, the test and its family."""
    counts = sorted({len(result.losses) for result in summary.results})
    seeds = f"$n = {counts[0]}$" if len(counts) == 1 else f"$n = {counts[0]}$ to ${counts[-1]}$"
    baseline = rf"\texttt{{{escape(summary.baseline)}}}"
    family = counted(len(summary.tests), "planned test")
    goal = "" if summary.target is None else f" a validation loss of {summary.target:g}"
    sentences = [
        rf"Final validation loss, mean over {seeds} seeds with its 95\,\% $t$ interval"
        + "; the lowest is bold" * bool(summary.best),
        rf"Difference: to {baseline} with the same seeds, with its 95\,\% $t$ interval",
        rf"$p$: the larger one of Wilcoxon's signed-rank test and the paired $t$ test against {baseline}, with Holm's "
        rf"correction for {family}; $\dagger$: significant at {LEVEL:g}",
    ]
    if any(result.steps is not None for result in summary.results):
        sentences.append(rf"Steps: to{goal or f' the final loss of {baseline}'}")
    if any(result.edge for result in summary.results):
        sentences.append(r"$\ast$: the lowest or highest learning rate tried")
    return ". ".join(sentences) + "."
