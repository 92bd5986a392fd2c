"""Quantities as people write them, "200us", "10Gbps", "1%", to numbers in base units and back. Pure; no I/O."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from decimal import Decimal

_NUMBER = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z%µ/]*)\s*")

DURATION_S = {
    "ns": Decimal("1e-9"), "us": Decimal("1e-6"), "µs": Decimal("1e-6"), "ms": Decimal("1e-3"), "s": Decimal(1),
    "m": Decimal(60), "min": Decimal(60), "h": Decimal(3600), "d": Decimal(86400),
}  # fmt: skip
_KEPT_S = DURATION_S | {"w": Decimal(7 * 86400), "y": Decimal(365 * 86400)}
RATE_BPS = {
    "bps": Decimal(1), "kbps": Decimal(10**3), "Kbps": Decimal(10**3), "Mbps": Decimal(10**6), "Gbps": Decimal(10**9),
    "Tbps": Decimal(10**12),
}  # fmt: skip
HOURS_PER_MONTH = 730
"""As prices are told: a twelfth of a year."""
_PRICE = re.compile(r"\s*\$\s?([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(?:/|\s(?:an?|per)\s)\s*(h|hour|month|mo)\s*")
_SHARE = {"%": Decimal("0.01")}


def _quantity(text: object, units: dict[str, Decimal], example: str) -> float:
    match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f"{str(text)[:40]!r} has no unit that is known here; write it like {example} ({', '.join(units)})")
    return float(Decimal(match[1]) * units[match[2]])


def parse_duration_s(text: object) -> float:
    """Seconds of a duration such as "200us", "1s" or "24h". Raises ValueError saying how to write it."""
    return _quantity(text, DURATION_S, "200us")


def parse_keep_s(text: object) -> float:
    """Seconds of how long something is kept, such as "7d" or "2y". Raises ValueError saying how to write it."""
    return _quantity(text, _KEPT_S, "7d")


def parse_rate_bps(text: object) -> float:
    """Bits per second of a rate such as "10Gbps". Raises ValueError saying how to write it."""
    return _quantity(text, RATE_BPS, "10Gbps")


def parse_share(text: object) -> float:
    """A share from 0 to 1 of a percentage such as "0.5%". Raises ValueError saying how to write it."""
    share = _quantity(text, _SHARE, "1%")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{text} is not a share; write a percentage from 0% to 100%")
    return share


def parse_price_per_hour(text: object) -> float:
    """US dollars an hour of a price such as "$2.50/h" or "$1500/month" (of HOURS_PER_MONTH). Raises ValueError."""
    match = _PRICE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{str(text)[:40]!r} is no price over time; write it like $2.50/h or $1500/month, in US dollars")
    return float(Decimal(match[1]) / (HOURS_PER_MONTH if match[2].startswith("m") else 1))


def format_price_per_hour(price: float) -> str:
    """A price to read: $0.1008/h."""
    return f"${price:.4f}/h"


def format_number(value: float, digits: int = 3) -> str:
    """A figure to read, of so many significant digits and without an exponent: 1,270, 26.3, 0.0045; a dash for none."""
    if not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(digits - 1 - math.floor(math.log10(abs(rounded))), 0)
    text = f"{rounded:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text


def format_count(count: int, noun: str) -> str:
    """So many of something: 1 VM, 1,200 VMs."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_share(share: float | None, digits: int = 3) -> str:
    """A share to read, of which more than all may be asked: 0.45 %, 91.8 %, 1,270 %; a dash for none."""
    return "-" if share is None or not math.isfinite(share) else f"{format_number(share * 100, digits)} %"


def format_duration(seconds: float) -> str:
    """A duration to read: 7 d, 14 min 59 s, 250 ms, 30 us."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 0.9995:
        for unit in ("ms", "us", "ns"):
            scale = float(DURATION_S[unit])
            if seconds >= scale * 0.9995 or unit == "ns":
                return f"{seconds / scale:.3g} {unit}"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole % 86400 // 3600, "h"), (whole % 3600 // 60, "min"), (whole % 60, "s")]
    return " ".join([f"{count} {unit}" for count, unit in parts if count][:2])


def format_time(time_ns: int) -> str:
    """A time as ISO 8601 in UTC, with as many decimals as it needs: 2026-01-31T12:00:00Z."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".") + "Z"


def format_bytes(count: float) -> str:
    """Bytes to read, in decimal units: 1.2 GB."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB", "PB"))


def format_rate(bits_per_s: float) -> str:
    """A bit rate to read: 12.5 Mbps."""
    return _scaled(bits_per_s, ("bps", "kbps", "Mbps", "Gbps", "Tbps"))


def _scaled(value: float, units: tuple[str, ...]) -> str:
    if not math.isfinite(value):
        return "-"
    for unit in units[:-1]:
        if abs(value) < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000.0
    return f"{format_number(value)} {units[-1]}"
