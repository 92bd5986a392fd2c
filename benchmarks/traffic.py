"""Writes captures of made-up but valid TCP traffic, for the benchmarks: many connections, each with requests and answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SNAP = 96
_HEADERS = 66  # Ethernet, IPv4, TCP with timestamps in each segment, as most TCP has them
_TICKS_PER_S = 1000
_MSS = 1448
_FIN, _SYN, _PSH, _ACK = 0x01, 0x02, 0x08, 0x10
# One exchange: who sends (0 the client), flags, payload bytes.
_OPENING = [(0, _SYN, 0), (1, _SYN | _ACK, 0), (0, _ACK, 0)]
_EXCHANGE = [(0, _ACK | _PSH, 400), (1, _ACK, 0), (1, _ACK, _MSS), (1, _ACK | _PSH, 900), (0, _ACK, 0)]
_CLOSING = [(0, _ACK | _FIN, 0), (1, _ACK | _FIN, 0), (0, _ACK, 0)]


def write_capture(path: Path, packets: int, connections: int, seconds: float, *, overlap: bool = False, seed: int = 1) -> int:
    """Writes a pcap of about `packets` packets in `connections` connections to 10.20.1.0/24; gives the packets written.

    Each connection opens at a random time, makes exchanges at even gaps, and closes; with `overlap` all are open in the
    middle. Frames are cut at 96 bytes.
    """
    rng = np.random.default_rng(seed)
    exchanges = max(1, (packets // connections - len(_OPENING) - len(_CLOSING)) // len(_EXCHANGE))
    script = _OPENING + _EXCHANGE * exchanges + _CLOSING
    n = connections
    client = (np.uint32(0xC6120000) + rng.integers(0, 65536, n, dtype=np.uint32)).astype(">u4")
    server = (np.uint32(0x0A14010A) + rng.integers(0, 16, n, dtype=np.uint32)).astype(">u4")
    port = (1024 + np.arange(n) % 60000).astype(">u2")  # with the client's address: no two connections are alike
    opened = np.sort(rng.uniform(0, seconds * 0.5, n))
    lasting = seconds - 0.01 - opened if overlap else rng.uniform(0.2, 1.0, n) * seconds * 0.5
    gap = lasting / len(script)
    sent = rng.integers(0, 2**32, (2, n), dtype=np.uint64)
    uptime = rng.integers(0, 2**32, (2, n), dtype=np.uint64)
    told = np.zeros((2, n), np.uint64)  # each side's latest timestamp
    record = np.dtype([("sec", "<u4"), ("usec", "<u4"), ("cap", "<u4"), ("len", "<u4"), ("frame", "u1", SNAP)])
    rows = np.zeros((len(script), n), record)
    for k, (sender, flags, payload) in enumerate(script):
        time_us = ((opened + gap * k) * 1e6).astype(np.int64) + 1_700_000_000_000_000
        head = np.zeros((n, SNAP), np.uint8)
        head[:, 12:14] = (8, 0)
        _put(head, 14, np.full(n, 0x4500, ">u2"))
        _put(head, 16, np.full(n, 52 + payload, ">u2"))
        head[:, 22], head[:, 23] = 64, 6
        source, target = (client, server) if sender == 0 else (server, client)
        _put(head, 26, source)
        _put(head, 30, target)
        _put(head, 34 if sender == 0 else 36, port)
        _put(head, 36 if sender == 0 else 34, np.full(n, 80, ">u2"))
        _put(head, 38, (sent[sender] % 2**32).astype(">u4"))
        if flags & _ACK:
            _put(head, 42, (sent[1 - sender] % 2**32).astype(">u4"))
        head[:, 46], head[:, 47] = 0x80, flags
        head[:, 48:50] = 255
        told[sender] = (uptime[sender] + ((opened + gap * k) * _TICKS_PER_S).astype(np.uint64)) % 2**32
        head[:, 54:58] = (1, 1, 8, 10)  # two no-operations, then timestamps (RFC 7323)
        _put(head, 58, told[sender].astype(">u4"))
        _put(head, 62, told[1 - sender].astype(">u4"))
        sent[sender] += payload + bool(flags & (_SYN | _FIN))
        rows[k]["sec"], rows[k]["usec"] = time_us // 1_000_000, time_us % 1_000_000
        rows[k]["cap"], rows[k]["len"] = min(SNAP, _HEADERS + payload), _HEADERS + payload
        rows[k]["frame"] = head
    flat = rows.reshape(-1)
    flat = flat[np.lexsort((flat["usec"], flat["sec"]))]
    with path.open("wb") as file:
        file.write(np.array([0xA1B2C3D4, 0x00040002, 0, 0, SNAP, 1], "<u4").tobytes())
        for chunk in np.array_split(flat, max(1, len(flat) // 200_000)):
            short = chunk["cap"] < SNAP
            raw = chunk.view(np.uint8).reshape(len(chunk), record.itemsize)
            keep = np.ones(raw.shape, np.bool_)
            keep[short, 16 + _HEADERS :] = False
            file.write(raw[keep].tobytes())
    return len(flat)


def _put(head: np.ndarray, at: int, values: np.ndarray) -> None:
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
    head[:, at : at + raw.shape[1]] = raw
