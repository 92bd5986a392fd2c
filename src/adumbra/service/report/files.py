"""Writes a back-test's report into a folder: report.html, report.json, frontier.csv; each whole, or not at all."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from adumbra.schema.errors import InputError
from adumbra.service.backtests import BacktestReport
from adumbra.service.report.page import page
from adumbra.store.files import replace_file


def checked_folder(folder: Path) -> None:
    """Makes the folder where it isn't there yet. Raises InputError where it can't be one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} can't be the report's folder ({error.strerror})", "give another --out") from None


def write_report(report: BacktestReport, folder: Path) -> None:
    """Writes the three files into a folder that is there, in place of older ones."""
    columns, rows = report.frontier()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    replace_file(folder / "frontier.csv", text.getvalue().encode())
    plain = json.dumps(_plain(report.to_dict()), ensure_ascii=False, allow_nan=False, indent=1)
    replace_file(folder / "report.json", plain.encode())
    replace_file(folder / "report.html", page(report).encode())


def _cell(value: Any) -> Any:
    """A cell of a CSV: nothing for what isn't known; no text from outside is in it."""
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


def _plain(value: Any) -> Any:
    """Data that JSON can hold: NaN becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
