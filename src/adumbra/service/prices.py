"""Prices of a core, a GB and a Mbps: from a file of the user's, or fitted to the bundled catalogue. Applies none."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from adumbra.profile.catalog import load_catalog
from adumbra.profile.money import UnitPrices, fit_prices
from adumbra.schema.errors import InputError
from adumbra.schema.sizing import RESOURCES

_HOW = "write lines such as: cpu_cores,0.031 under a first line: resource,usd_per_hour"
_MAX_BYTES = 65_536


def prices_from(path: Path | None) -> UnitPrices:
    """Dollars an hour for a unit of each resource: of a CSV with the columns resource and usd_per_hour, or the catalogue's.

    Raises InputError with file, line and how to mend it.
    """
    return fit_prices(load_catalog()) if path is None else read_prices(path)


def read_prices(path: Path) -> UnitPrices:
    """The prices of a file. Raises InputError."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})", "give a file of prices") from None
    if len(raw) > _MAX_BYTES:
        raise InputError(f"{path} is too large for a file of prices", _HOW)
    try:
        rows = list(csv.reader(raw.decode("utf-8-sig").splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV ({error})", _HOW) from None
    found: dict[str, float] = {}
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells == ["resource", "usd_per_hour"]:
            continue
        name, price = _price(cells, f"{path}:{number}")
        if name in found:
            raise InputError(f"{path}:{number}: {name} has two prices", "keep one")
        found[name] = price
    if not found:
        raise InputError(f"{path} has no prices", _HOW)
    return UnitPrices(found, str(path))


def _price(cells: list[str], where: str) -> tuple[str, float]:
    if len(cells) != 2 or cells[0] not in RESOURCES:
        raise InputError(f"{where}: {','.join(cells)[:60]!r} is no price of a resource ({', '.join(RESOURCES)})", _HOW)
    try:
        price = float(cells[1])
    except ValueError:
        price = math.nan
    if not (math.isfinite(price) and price >= 0):
        raise InputError(
            f"{where}: {cells[1][:40]!r} is no price", "give US dollars an hour for one core, GB or Mbps, 0 or more"
        )
    return cells[0], price
