"""Write the results of a comparison into its folder: tables, and figures. Imports no JAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt_flax.compare import tables, transfer_tables
from minigpt_flax.compare.comparison import Comparison
from minigpt_flax.compare.statistics import CandidateRuns, Summary
from minigpt_flax.compare.transfer import Transfer, transfer_of
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs import files

FORMS = {"results.json": tables.as_json, "results.csv": tables.as_csv, "results.md": tables.markdown}
FIGURES = ("loss", "time", "final", "rates", "target", "schedules", "ratios")
PICTURES = ("png", "svg", "pdf")  # formats of the figures
DEFAULT_PICTURES = PICTURES[:2]
RESULTS = frozenset({*FORMS, *(f"{name}.{form}" for name in (*FIGURES, "widths") for form in PICTURES)})
WIDTH_FORMS = {
    "results.json": transfer_tables.as_json,
    "results.csv": transfer_tables.as_csv,
    "results.md": transfer_tables.markdown,
}


def write_results(
    candidates: Sequence[CandidateRuns], summary: Summary, folder: Path, pictures: Sequence[str] = DEFAULT_PICTURES
) -> list[str]:
    """Writes tables and figures; returns the names of the files.

    Args:
      candidates: the candidates compared.
      summary: their summary.
      folder: where to write.
      pictures: formats of the figures, out of ``PICTURES``.

    Raises:
      UserError: the folder can't be written.
    """
    _write(folder, {name: form(summary) for name, form in FORMS.items()})
    from minigpt_flax.compare.figures import save_figures  # takes half a second

    return [*FORMS, *save_figures(list(candidates), summary, folder, pictures)]


def write_comparison(
    comparison: Comparison,
    candidates: Sequence[CandidateRuns],
    summary: Summary,
    folder: Path,
) -> ComparisonResult:
    """Writes tables and figures of a comparison into its folder.

    Raises:
      UserError: the folder can't be written.
    """
    if not comparison.widths:
        write_results(candidates, summary, folder)
        return ComparisonResult(summary, folder)
    transfer = transfer_of(comparison, candidates)
    write_transfer(transfer, folder)
    return ComparisonResult(summary, folder, transfer)


def write_transfer(transfer: Transfer, folder: Path, pictures: Sequence[str] = DEFAULT_PICTURES) -> list[str]:
    """Writes the tables and the figure of a comparison over widths; returns the names of the files.

    Raises:
      UserError: the folder can't be written.
    """
    _write(folder, {name: form(transfer) for name, form in WIDTH_FORMS.items()})
    from minigpt_flax.compare.transfer_figure import save_figure  # takes half a second

    return [*WIDTH_FORMS, *save_figure(transfer, folder, pictures)]


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    try:
        files.make_folder(folder)
        for name, text in texts.items():
            files.replace(folder / name, text)
    except OSError as error:
        raise UserError(f"can't write into {show(folder)}: {error.strerror}") from error


@dataclass(frozen=True)
class ComparisonResult:
    """The results of a comparison; ``print`` shows them as a table.

    Attributes:
      summary: candidates and paired tests, the lowest mean loss first.
      folder: of the comparison, with tables, figures and all runs.
      transfer: best learning rates by width; None without ``widths``.
    """

    summary: Summary
    folder: Path
    transfer: Transfer | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table: one dictionary per candidate, with ``name``, ``lr``, ``mean``, ``sem``, ``losses``, ...

        With widths, one per optimizer, parametrization and width: ``name``, ``width``, ``lr``, ``shift``, ``regret``,
        ...
        """
        if self.transfer is not None:
            return transfer_tables.rows(self.transfer)
        return tables.as_values(self.summary)["standings"]

    def __str__(self) -> str:
        """The table and the findings, in 80 columns."""
        return tables.text(self.summary) if self.transfer is None else transfer_tables.text(self.transfer)
