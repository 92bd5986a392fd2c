"""Sends frames into devices and counts what comes out of another. Run inside a network namespace; its argument is JSON."""

from __future__ import annotations

import json
import socket
import struct
import sys
import time

ETH_P_ALL, SOL_PACKET, PACKET_AUXDATA = 3, 263, 8
VLAN_VALID = 0x10


def main() -> None:
    asked = json.loads(sys.argv[1])
    names = {frame: name for name, _, frame in asked["frames"]}
    counts = dict.fromkeys(names.values(), 0)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as watcher:
        watcher.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        watcher.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        watcher.bind((asked["watch"], ETH_P_ALL))
        watcher.settimeout(0.3)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
            for _, into, frame in asked["frames"]:
                sender.sendto(bytes.fromhex(frame), (into, int(frame[24:28], 16)))
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                data, auxiliary, _, _ = watcher.recvmsg(65535, 256)
            except TimeoutError:
                break
            name = names.get(with_tag(data, auxiliary).hex())
            if name is not None:
                counts[name] += 1
    sys.stdout.write(json.dumps(counts))


def with_tag(data: bytes, auxiliary: list[tuple[int, int, bytes]]) -> bytes:
    """The frame as it is on the wire: with the tag that the kernel keeps beside it (struct tpacket_auxdata)."""
    for level, kind, value in auxiliary:
        if level == SOL_PACKET and kind == PACKET_AUXDATA:
            status, tag, tag_kind = struct.unpack_from("=I12xHH", value)
            if status & VLAN_VALID:
                return data[:12] + struct.pack(">HH", tag_kind or 0x8100, tag) + data[12:]
    return data


main()
