"""Datagrams a second of the batch reader beside plain loops, on loopback, in one run: how fast each empties a full socket.

Usage: python benchmarks/datagrams.py [--datagrams N] [--bytes N]. The peers: recv_into alone, and recvmsg_into with the
kernel's times, which is what a tap needs. Each empties a socket that was filled before, so that no sender competes. Best of
five. Needs CAP_NET_ADMIN for a buffer that holds them all; without it fewer are read, and the rates still compare.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Callable

from adumbra.schema.sources import Tunnel, UdpTunnelSource
from adumbra.tap.datagrams import Receiver, Room, open_udp
from adumbra.tap.tunnel import HEADERS_ROOM, TunnelTap

REPEATS = 5
AIM = 2.0  # times the loop that has times too
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35


def widen(opened: socket.socket) -> None:
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 20)


def fill(port: int, payload: bytes, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("127.0.0.1", port))
        for _ in range(count):
            out.send(payload)


def plain(port: int, payload: bytes, count: int) -> tuple[int, float]:
    room = bytearray(9216)
    with open_udp("127.0.0.1", port, "plain") as opened:
        widen(opened)
        opened.setblocking(False)
        fill(port, payload, count)
        began, read = time.perf_counter(), 0
        try:
            while True:
                opened.recv_into(room)
                read += 1
        except BlockingIOError:
            return read, time.perf_counter() - began


def plain_with_times(port: int, payload: bytes, count: int) -> tuple[int, float]:
    room, times = bytearray(9216), []
    with open_udp("127.0.0.1", port, "plain") as opened:
        widen(opened)
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        opened.setblocking(False)
        fill(port, payload, count)
        began = time.perf_counter()
        try:
            while True:
                _, control, _, _ = opened.recvmsg_into([room], 64)
                told = control[0][2]
                seconds, rest = int.from_bytes(told[:8], "little"), int.from_bytes(told[8:], "little")
                times.append(seconds * 1_000_000_000 + rest)
        except BlockingIOError:
            return len(times), time.perf_counter() - began


def batches(port: int, payload: bytes, count: int) -> tuple[int, float]:
    receiver = Receiver(open_udp("127.0.0.1", port, "ours"), Room(), time.time_ns, lambda: True)
    fill(port, payload, count)
    began = time.perf_counter()
    read = sum(len(batch) for batch in receiver.batches())
    took = time.perf_counter() - began
    receiver.close()
    return read, took


def tunnel(port: int, payload: bytes, count: int) -> tuple[int, float]:
    spec = UdpTunnelSource(Tunnel.VXLAN, "127.0.0.1", port, (0,))
    with TunnelTap(spec, time.time_ns, lambda: True, HEADERS_ROOM) as tap:
        fill(port, payload, count)
        began = time.perf_counter()
        read = sum(len(frames) for frames in tap)
        return read, time.perf_counter() - began


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--datagrams", type=int, default=20_000)
    asked.add_argument("--bytes", type=int, default=600)
    asked.add_argument("--port", type=int, default=47_890)
    given = asked.parse_args()
    ways: dict[str, Callable[[int, bytes, int], tuple[int, float]]] = {
        "recv_into": plain, "recvmsg_into with times": plain_with_times, "batches": batches, "vxlan tap with a VNI": tunnel,
    }  # fmt: skip
    payload = b"\x08" + bytes(given.bytes - 1)
    best = dict.fromkeys(ways, 0.0)
    for _ in range(REPEATS):
        for name, way in ways.items():
            read, took = way(given.port, payload, given.datagrams)
            best[name] = max(best[name], read / took)
    for name, rate in best.items():
        print(f"{name:26} {rate:12,.0f} datagrams/s")
    ratios = {name: round(best["batches"] / best[name], 2) for name in ("recv_into", "recvmsg_into with times")}
    print(json.dumps({"bytes": given.bytes, "ratios": ratios, "aim": {"recvmsg_into with times": AIM}}))
    raise SystemExit(0 if ratios["recvmsg_into with times"] >= AIM else 1)


if __name__ == "__main__":
    main()
