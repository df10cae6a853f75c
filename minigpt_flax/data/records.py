"""Read files of records, one document each: JSON lines, JSON, CSV, TSV and Parquet; all but JSON as a stream."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from minigpt_flax.data.compressed import naming, open_bytes
from minigpt_flax.data.documents import LINE, Piece, read_jsonl, record_piece
from minigpt_flax.data.encodings import advice
from minigpt_flax.errors import UserError, damaged
from minigpt_flax.invocation import show

ROWS = 1 << 10  # rows of a Parquet file in memory


def read_json(path: Path, field: str) -> Iterator[Piece]:
    """Read a list of JSON objects, or objects in lines, which many ``.json`` files contain.

    Raises:
      UserError: it is neither, a list has more than `LINE` bytes, or an object lacks the field.
    """
    with open_bytes(path) as file:
        content = file.read(LINE + 1)
    if len(content) > LINE and content.lstrip().startswith(b"["):
        raise UserError(
            f"'{path}' is a list of more than {LINE:,} bytes; write one object per line: "
            f"jq -c '.[]' {show(path)} > {show(path.with_suffix('.jsonl'))}"
        )
    try:
        values = json.loads(content)
    except UnicodeDecodeError as error:
        raise UserError(f"the file '{path}' is not UTF-8; {advice(path, content, error.start)}") from error
    except (ValueError, RecursionError):
        yield from read_jsonl(path, field)  # which names the line that is wrong
        return
    for number, record in enumerate(values if isinstance(values, list) else [values]):
        where = f"'{path}', record {number},"
        if isinstance(record, str):
            record = {field: record}
        if not isinstance(record, dict):
            raise UserError(f'{where} is not a JSON object such as {{"text": "..."}}; fix or remove it')
        yield record_piece(record, field, where)


def read_table(path: Path, field: str, delimiter: str) -> Iterator[Piece]:
    """Read one document per row of a table whose first row names the columns; a missing cell is empty.

    Raises:
      UserError: there is no such column, it is not UTF-8, or a quote is never closed.
    """
    csv.field_size_limit(LINE)
    with open_bytes(path) as file:
        rows = csv.reader(io.TextIOWrapper(file, "utf-8", newline=""), delimiter=delimiter, strict=True)
        try:
            names = next(rows, [])
            for row in rows:
                record = dict(zip(names, row + [""] * (len(names) - len(row)), strict=False))
                if row:
                    yield record_piece(record, field, f"'{path}', line {rows.line_num},")
        except csv.Error as error:
            raise UserError(f"'{path}', line {rows.line_num}, is damaged: {error}") from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"the file '{path}' is not UTF-8; {advice(path, bytes(error.object), error.start)}"
            ) from error


def read_parquet(path: Path, field: str) -> Iterator[Piece]:
    """Read one document per row of a Parquet file.

    Raises:
      UserError: the package `pyarrow` is missing, or the file is damaged or lacks the column.
    """
    try:
        from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{show(path)} needs the package pyarrow: pip install pyarrow") from error
    try:
        with naming(path), parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                record_piece(dict.fromkeys(names), field, f"'{path}'")
            number = 0
            for batch in file.iter_batches(ROWS, columns=[field]):
                for text in batch.column(0).to_pylist():
                    yield record_piece({field: text}, field, f"'{path}', row {number},")
                    number += 1
    except ArrowException as error:
        raise damaged(show(path), error) from error


RECORDS: dict[str, Callable[[Path, str], Iterator[Piece]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
    ".json": read_json,
    ".csv": partial(read_table, delimiter=","),
    ".tsv": partial(read_table, delimiter="\t"),
}
"""Files of records by suffix."""
