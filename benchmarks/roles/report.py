"""Writes the tables of docs/roles.md from measured.json: python report.py [measured.json] [roles.md]. Fits, measures nothing new."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import fit

PAGE = fit.HERE.parents[1] / "docs" / "roles.md"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    first = list(head)
    lines = [first, ["---"] * len(first), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float, scale: float) -> str:
    text = f"{value * scale:.2g}"
    return f"{float(text):g}" if "e" in text else text


def costs(priors: Mapping[str, Any], errors: Mapping[str, Any]) -> str:
    """Costs of each role, its errors and its spread."""
    head = ("role", "idle cores", "connection us", "request us", "byte in ns", "byte out ns", "packet us", "wake us",
            "cv of a request",
            "held out: half within", "9 of 10 within", "80 % of VMs within")  # fmt: skip
    rows = []
    for name, prior in priors["roles"].items():
        cpu, out = prior["cpu"], errors.get(name, {}).get("held_out_workload", {})
        scales = (1.0, 1e6, 1e6, 1e9, 1e9, 1e6, 1e6, 1.0)
        figures = [_number(cpu[key], s) for key, s in zip(("idle_cores", *fit.COSTS, "service_cv"), scales)]
        factors = [f"x {out[key]:.2g}" if out else "-" for key in ("factor_median", "factor_p90")]
        rows.append([name, *figures, *factors, f"x {math.exp(prior['spread']['cpu'] / fit.TO_SD):.2g}"])
    return _table(head, rows)


def holdings(priors: Mapping[str, Any]) -> str:
    """Memory and storage of each role."""
    head = ("role", "base MB", "connection kB", "cache B a request", "cache bound MB", "disk base MB", "kept B a byte in",
            "kept B a request", "operations a request", "servers", "discipline")  # fmt: skip
    rows = []
    for name, prior in priors["roles"].items():
        memory, storage, cpu = prior["memory"], prior["storage"], prior["cpu"]
        kept = [memory["base_bytes"] / 1e6, memory["connection_bytes"] / 1e3, memory.get("cache_request_bytes", 0.0),
                memory.get("cache_bytes", 0.0) / 1e6, storage["base_bytes"] / 1e6, storage["written_per_byte_in"],
                storage["written_per_request"], storage["ops_per_request"]]  # fmt: skip
        rows.append([name, *(_number(each, 1.0) for each in kept), str(cpu["servers"] or "cores"), cpu["discipline"]])
    return _table(head, rows)


def levels(errors: Mapping[str, Any]) -> str:
    """How the law errs at low and high rates: predicted over measured, by workloads left out."""
    names = ("low", "middle", "high")
    head = ("role", "low rate (10/s)", "middle", "high", "log-sd, held out", "without a cost of waking")
    rows = []
    for name, found in errors.items():
        by_level = [f"{found['by_level'][each]['bias_factor']:.2f}" if each in found["by_level"] else "-" for each in names]
        spread = [f"{found[key]['log_rms']:.2f}" for key in ("held_out_workload", "without_wakes")]
        rows.append([name, *by_level, *spread])
    return _table(head, rows)


def receiving(measured: Mapping[str, Any]) -> str:
    """CPU a request with received packets charged to the server, and to whoever sent them."""
    rows = [
        [r["role"], r["workload"], r["mode"], f"{r['rate']:g}", f"{r['own_thread_s'] * 1e6:.0f}", f"{r['sender_s'] * 1e6:.0f}"]
        for r in measured["receiving"]
    ]
    return _table(
        ("role", "workload", "connections", "requests/s", "us a request, own thread", "us, charged to the sender"), rows
    )


def page(text: str, measured: Mapping[str, Any]) -> str:
    """The page with its tables renewed. Raises ValueError where it has no place for one."""
    priors, errors = fit.fit_all(measured)
    tables = {
        "costs": costs(priors, errors), "holdings": holdings(priors), "levels": levels(errors), "receiving": receiving(measured)
    }  # fmt: skip
    for name, table in tables.items():
        place = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", text, re.DOTALL)
        if place is None:
            raise ValueError(f"the page has no place for the table {name}; put <!-- {name} --> and <!-- end --> into it")
        text = f"{text[: place.start(1)]}{table}\n{text[place.end(1) :]}"
    return text


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else fit.HERE / "measured.json"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else PAGE
    target.write_text(page(target.read_text(), json.loads(source.read_text())))


if __name__ == "__main__":
    main()
