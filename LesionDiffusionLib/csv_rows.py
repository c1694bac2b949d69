"""Rows of the CSV tables that users write: worklists, lists of scans."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """The last of its lines in the file (a cell may span several), and the cells that are not empty."""

    line: int
    cells: Mapping[str, str]


def csv_rows(stream: Iterable[str]) -> list[Row]:
    """The rows of a CSV with a header, without those that are empty.

    Raises:
        ValueError: a row has more cells than the header; names its line.
        csv.Error: not a CSV.
    """
    reader = csv.DictReader(stream, strict=True)
    rows = []
    for cells in reader:
        if None in cells:
            raise ValueError(f"line {reader.line_num} has more cells than the header")
        rows.append(Row(reader.line_num, {k.strip(): v.strip() for k, v in cells.items() if v and v.strip()}))
    return [row for row in rows if row.cells]
