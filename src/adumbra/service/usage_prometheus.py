"""Reads measured use from a server that speaks Prometheus' query language: node_exporter's CPU and memory by instance.

Asks only for ranges that were observed. Keeps nothing, writes nothing there.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS
from adumbra.service.usage import Usage, usage_of
from adumbra.service.usage_table import UsageTable

QUERIES: Mapping[str, str] = {
    "cpu_cores": 'sum by (instance) (rate(node_cpu_seconds_total{{mode!~"idle|iowait|steal"}}[{step}s]))',
    "memory_bytes": (
        "avg_over_time(node_memory_MemTotal_bytes[{step}s]) - avg_over_time(node_memory_MemAvailable_bytes[{step}s])"
    ),
}
"""What each column of a usage file is asked by; a value at time t is of the `step` seconds up to t."""
LEAST_STEP_S, SAMPLES_A_STEP = 10, 4
MAX_POINTS = 10_000  # of one answer; Prometheus refuses more than 11,000
MAX_ANSWER_BYTES = 64 * 2**20
TIMEOUT_S = 30.0
_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
_ADVICE = "give the base URL of a Prometheus server that scrapes node_exporter on these machines, such as http://host:9090"


def is_url(source: str) -> bool:
    """Whether a user's source names a server rather than a file: it begins with a scheme, be it one that can't be used. A
    file's name is repeated in errors, a URL with a password in it must not be.
    """
    return _SCHEME.match(source) is not None


def read_prometheus(url: str, between: tuple[int, int], known: Mapping[str, str]) -> Usage:
    """The use of known VMs between two times (ns since the epoch): `known` has the VM's name for each host that an `instance`
    label may name, with or without a port. Steps are four scrapes long, 10 s at least. Raises InputError.
    """
    base = _base(url)
    start_s, end_s = between[0] / NANOSECONDS, between[1] / NANOSECONDS
    step = _step_s(base, start_s, end_s)
    rows: dict[tuple[str, float], dict[str, str]] = {}
    for column, query in QUERIES.items():
        for begin_s in _windows(start_s + step, end_s, step):
            stop_s = min(begin_s + (MAX_POINTS - 1) * step, end_s)
            asked = {"query": query.format(step=step), "start": begin_s, "end": stop_s, "step": step}
            for series in _ask(base, "query_range", asked):
                host = str(series["metric"].get("instance", ""))
                for at_s, value in series["values"]:
                    rows.setdefault((host, float(at_s) - step), {})[column] = str(value)
    if not rows:
        raise InputError(f"{base} has no node_exporter metrics of the time that was observed", _ADVICE)
    with UsageTable(base) as table:
        names = [host if host in known else host.rpartition(":")[0].strip("[]") for host, _ in rows]
        times = np.array([round(at_s * NANOSECONDS) for _, at_s in rows], np.int64)
        told = {column: np.array([float(each.get(column, "nan")) for each in rows.values()]) for column in QUERIES}
        table.add_rows(names, times, told, base)
        return usage_of(table, known)


def _base(url: str) -> str:
    """The URL, where it can be one. Raises InputError, which doesn't repeat it: it may have a password in it."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    # A password with a slash in it ends the host's part early, so that its "@" stands in the path.
    if not usable or "@" in url or " " in url or not url.isprintable() or parts.query or parts.fragment:
        raise InputError("the URL of the Prometheus server can't be used: it takes host, port and path only", _ADVICE)
    return url.rstrip("/")


class _NoDetours(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: what is asked is asked of the server that was named."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoDetours)


def _windows(begin_s: float, end_s: float, step: int) -> Iterator[float]:
    while begin_s <= end_s:
        yield begin_s
        begin_s += MAX_POINTS * step


def _step_s(base: str, start_s: float, end_s: float) -> int:
    """Seconds of four scrapes, by how many samples a CPU's counter has in the observed time."""
    span = max(int(end_s - start_s), 1)
    query = f'max(count_over_time(node_cpu_seconds_total{{mode="idle"}}[{span}s]))'
    found = _ask(base, "query", {"query": query, "time": end_s})
    samples = max((float(each["value"][1]) for each in found), default=0.0)
    if not samples >= 2 or not math.isfinite(samples):
        raise InputError(f"{base} has no node_exporter metrics of the time that was observed", _ADVICE)
    return max(LEAST_STEP_S, math.ceil(SAMPLES_A_STEP * span / samples - 1e-9))


def _ask(base: str, what: str, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The result of a query. Raises InputError where the server can't be reached, refuses, or answers something else."""
    address = f"{base}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
    try:
        with _OPENER.open(address, timeout=TIMEOUT_S) as answer:
            raw = answer.read(MAX_ANSWER_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise InputError(f"{base} refused the query (HTTP {error.code})", _ADVICE) from None
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise InputError(f"{base} can't be asked ({getattr(error, 'reason', error)})", _ADVICE) from None
    if len(raw) > MAX_ANSWER_BYTES:
        raise InputError(f"{base} answered with more than {MAX_ANSWER_BYTES >> 20} MB", "give a server with fewer instances")
    try:
        result = json.loads(raw)["data"]["result"]
        return [_checked(series, "values" if what == "query_range" else "value") for series in result]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise InputError(f"{base} doesn't answer as Prometheus does", _ADVICE) from None


def _checked(series: Any, key: str) -> dict[str, Any]:
    """A series as it must be. Raises KeyError, TypeError, ValueError or OverflowError for another."""
    points = series[key] if key == "values" else [series[key]]
    for at_s, value in points:
        float(at_s), float(value)
    return {"metric": dict(series["metric"]), key: series[key]}
