"""``compare RUN RUN ...``: a table of what runs came to, and their curves over each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minigpt_flax.errors import UserError
from minigpt_flax.lab.records import Record, RunRecord, read_run, show
from minigpt_flax.train.cli import Parser

SUMMARY = "Compare runs: final and best validation loss, speed, and a picture."
COLUMNS = ("run", "steps", "final loss", "best loss", "bits/char", "tokens/s")


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folders", nargs="+", metavar="RUN", help="the runs' folders")
    parser.add_argument("--out", default="compare.png", metavar="FILE", help="picture to write [compare.png]")


def run(*, folders: list[str], out: str) -> int:
    """Prints the table, writes the picture.

    Raises:
      UserError: one isn't the folder of a run, or the picture can't be written.
    """
    runs = _named([read_run(folder) for folder in folders])
    print(table(runs))
    from minigpt_flax.lab.plots import overlay  # takes half a second

    try:
        overlay({name: run.records for name, run in runs.items()}, Path(out))
    except (OSError, ValueError) as error:
        raise UserError(f"can't write the picture {out}: {error}; give --out FILE.png") from error
    print(f"\nLoss +- standard error, nats/token, over the whole validation split.\nCurves: {show(out)}")
    return 0


def _named(records: Sequence[RunRecord]) -> dict[str, RunRecord]:
    """The runs by name; a name that several have gets a number."""
    named: dict[str, RunRecord] = {}
    for record in records:
        same = sum(other.name == record.name for other in named.values())
        named[f"{record.name} ({same + 1})" if same else record.name] = record
    return named


def table(runs: dict[str, RunRecord]) -> str:
    """One line a run, the lowest best loss first.

    Args:
      runs: by name.

    Returns:
      Text of 80 columns where the names are short.
    """
    ordered = sorted(runs.items(), key=lambda item: item[1].best["val_loss"] if item[1].best else float("inf"))
    rows = [COLUMNS, *(_row(name, record) for name, record in ordered)]
    columns = []
    for i, cells in enumerate(zip(*rows, strict=True)):
        width = max(map(len, cells))
        columns.append([cell.rjust(width) if i else cell.ljust(width) for cell in cells])
    return "\n".join("  ".join(row) for row in zip(*columns, strict=True))


def _row(name: str, record: RunRecord) -> tuple[str, ...]:
    speed, final = record.tokens_per_second, record.final
    bits = final.get("val_bits_per_char") if final else None
    return (
        name,
        f"{record.steps}/{record.config.get('steps', '?')}",
        _loss(final),
        _loss(record.best),
        "-" if bits is None else f"{bits:.3f}",
        "-" if speed is None else f"{speed:,.0f}",
    )


def _loss(record: Record | None) -> str:
    return "-" if record is None else f"{record['val_loss']:.4f} +- {record['val_sem']:.4f}"
