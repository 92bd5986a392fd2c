"""Samples of any metric into a Prometheus, by remote write 1.0: what an exporter would have been scraped of.

https://prometheus.io/docs/specs/prw/remote_write_spec/
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

import cramjam
import httpx

Sampled = tuple[str, Mapping[str, str], Sequence[tuple[float, float]]]
"""A metric's name, its labels, and pairs of seconds since the epoch and value."""


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        low, value = value & 0x7F, value >> 7
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _field(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _series(name: str, labels: Mapping[str, str], samples: Sequence[tuple[float, float]]) -> bytes:
    named = {"__name__": name, **labels}
    body = b"".join(_field(1, _field(1, key.encode()) + _field(2, named[key].encode())) for key in sorted(named))
    for at_s, value in samples:
        body += _field(2, b"\x09" + struct.pack("<d", value) + b"\x10" + _varint(round(at_s * 1000)))
    return _field(1, body)


def send(url: str, series: Iterable[Sampled]) -> None:
    """Writes all of the samples, and fails where the server takes any of them not."""
    body = bytes(cramjam.snappy.compress_raw(b"".join(_series(*each) for each in series)))
    headers = {
        "Content-Encoding": "snappy", "Content-Type": "application/x-protobuf", "X-Prometheus-Remote-Write-Version": "0.1.0",
    }  # fmt: skip
    answer = httpx.post(f"{url}/api/v1/write", content=body, headers=headers, timeout=30)
    assert answer.status_code in {200, 204}, answer.text
