"""Format a comparison over widths as text of 80 columns, Markdown, CSV, JSON and LaTeX. Imports no JAX."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from minigpt_flax.compare.latex import ABSENT, escape
from minigpt_flax.compare.tables import WIDTH, markdown_text
from minigpt_flax.compare.transfer import Curve, Family, Transfer
from minigpt_flax.text import aligned, counted, cut

HEAD = ("candidate", "width", "best lr", "loss", "shift", "regret")
LONGEST = 40  # columns of a candidate's name
LEGEND = (
    "best lr, loss: lowest point of a parabola through the three best learning rates, over their logarithm",
    "shift: octaves from the best lr of the narrowest width",
    "regret: loss at the narrowest width's best lr, above the lowest; nats per token",
)


def cells(transfer: Transfer) -> list[tuple[str, ...]]:
    """The rows of the table."""
    rows = []
    for family in transfer.families:
        for curve in family.curves:
            best = curve.optimum
            rate, loss = (f"{best.lr:.2g}", f"{best.loss:.4f}") if best else (f"{curve.edge or 'none'}*", "-")
            first = curve is family.curves[0]
            shift, regret = (None, None) if first else (family.shift(curve), family.regret(curve))
            rows.append(
                (family.name, str(curve.width), rate, loss, _signed(shift, ".2f"), _signed(regret, ".3f", sign=""))
            )
    return rows


def _signed(value: float | None, form: str, sign: str = "+") -> str:
    return "-" if value is None else format(value, sign + form)


def findings(transfer: Transfer) -> list[str]:
    """What each optimizer's best learning rate does, as sentences."""
    return [sentence for family in transfer.families for sentence in _finding(family)]


def _finding(family: Family) -> list[str]:
    first, last = family.curves[0], family.curves[-1]
    shift, regret = family.shift(last), family.regret(last)
    if shift is None:
        return [f"{family.name}: not decided: {'; '.join(_obstacles(family))}"]
    seeds = ", ".join("not decided" if one is None else f"{one:+.2f}" for one in family.shifts(last))
    each = f" (by seed: {seeds})" if len(last.by_seed) > 1 else ""
    moved = f"the best lr changes by {shift:+.2f} octaves from width {first.width} to {last.width}{each}"
    cost = "" if regret is None else f"; the best lr of width {first.width} {_cost(regret)} at {last.width}"
    return [f"{family.name}: {moved}{cost}"]


def _cost(regret: float) -> str:
    return "diverges" if math.isinf(regret) else f"costs {regret:.3f} nats"


def _obstacles(family: Family) -> list[str]:
    """Why the shift between the narrowest and the widest width is not decided."""
    reasons = []
    for curve in (family.curves[0], family.curves[-1]):
        if curve.optimum is not None:
            continue
        if curve.missing:
            reasons.append(f"{curve.missing} runs at width {curve.width} have not ended")
        elif curve.edge:
            more = "lower" if curve.edge == "lowest" else "higher"
            reasons.append(f"at width {curve.width} the {curve.edge} lr is the best: give {more} ones with --lr")
        else:
            reasons.append(f"every run at width {curve.width} diverged: give lower ones with --lr")
    return reasons


def text(transfer: Transfer) -> str:
    """The result for a terminal: table, legend and findings."""
    rows = [(cut(name, LONGEST), *rest) for name, *rest in (HEAD, *cells(transfer))]
    return "\n\n".join(("\n".join(aligned(rows)), _wrapped(LEGEND), _wrapped([*findings(transfer), about(transfer)])))


def _wrapped(sentences: Sequence[str]) -> str:
    wrap = lambda sentence: textwrap.wrap(sentence, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(line for sentence in sentences for line in wrap(sentence))


def about(transfer: Transfer) -> str:
    """The length of the runs, and the number of seeds."""
    return f"({counted(transfer.steps, 'step')}, mean of {counted(len(transfer.seeds), 'seed')})"


def markdown(transfer: Transfer) -> str:
    """The result as a Markdown page."""
    notes = [*findings(transfer), about(transfer), *LEGEND]
    return "\n".join([markdown_table(transfer), "", *(f"- {markdown_text(note)}" for note in notes), ""])


def markdown_table(transfer: Transfer) -> str:
    """The table alone."""
    rows = [HEAD, ("---",) * len(HEAD), *(tuple(map(markdown_text, row)) for row in cells(transfer))]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def latex(transfer: Transfer) -> str:
    """The result as a ``tabular`` environment."""
    line = lambda row: f"  {' & '.join(ABSENT if cell == '-' else escape(cell) for cell in row)} \\\\"
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{tabular}}{{l{'r' * (len(HEAD) - 1)}}}",
            r"  \toprule",
            line(HEAD),
            r"  \midrule",
            *map(line, cells(transfer)),
            r"  \bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def rows(transfer: Transfer) -> list[dict[str, Any]]:
    """One dictionary per optimizer, parametrization and width."""
    return [_row(family, curve) for family in transfer.families for curve in family.curves]


def _row(family: Family, curve: Curve) -> dict[str, Any]:
    best = curve.optimum
    return {
        "name": family.name,
        "spec": family.spec,
        "parametrization": family.parametrization,
        "width": curve.width,
        "lr": best.lr if best else None,
        "loss": best.loss if best else None,
        "edge": curve.edge,
        "shift": family.shift(curve),
        "regret": _finite(family.regret(curve)),
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value


def as_csv(transfer: Transfer) -> str:
    """The table as CSV, with all digits."""
    found, out = rows(transfer), io.StringIO()
    writer = csv.DictWriter(out, list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue()


def as_values(transfer: Transfer) -> dict[str, Any]:
    """The whole result as JSON values; the loss of a diverged run is None."""
    losses = lambda curve: {f"{lr:g}": _finite(loss) for lr, loss in curve.items()}
    curves = [
        {**_row(family, curve), "shifts": family.shifts(curve), "missing": curve.missing}
        | {"losses": {str(seed): losses(by_rate) for seed, by_rate in curve.by_seed.items()}}
        for family in transfer.families
        for curve in family.curves
    ]
    return {"steps": transfer.steps, "seeds": list(transfer.seeds), "widths": curves}


def as_json(transfer: Transfer) -> str:
    """The whole result as JSON text."""
    return json.dumps(as_values(transfer), indent=2, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Transfer], str]] = {
    "latex": latex,
    "markdown": markdown,
    "csv": as_csv,
    "json": as_json,
}
