#!/usr/bin/env python3
"""A long wire: passes frames between two TAP devices, each frame later by a fixed delay.

usage: wire.py NAMESPACE_A DEVICE_A NAMESPACE_B DEVICE_B DELAY_MS
(stands in for netem, which not every kernel has)
"""

import ctypes
import fcntl
import gc
import os
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
CLONE_NEWNET = 0x40000000


def tap(namespace, device):
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as f:
        if libc.setns(f.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def main():
    a_ns, a_dev, b_ns, b_dev, ms = sys.argv[1:]
    a, b = tap(a_ns, a_dev), tap(b_ns, b_dev)
    delay = float(ms) / 1000
    lines = ((a, b, deque()), (b, a, deque()))
    now, read, write = time.monotonic, os.read, os.write
    lost = 0
    gc.freeze()
    while True:
        t = now()
        wait = 1.0
        for _, out, queue in lines:
            while queue and queue[0][0] <= t:
                try:
                    write(out, queue.popleft()[1])
                except OSError:
                    lost += 1
                    print("frames lost on the wire:", lost, file=sys.stderr, flush=True)
            if queue:
                wait = min(wait, queue[0][0] - t)
        ready = select.select((a, b), (), (), wait)[0]
        for source, _, queue in lines:
            if source in ready:
                due = now() + delay
                try:
                    for _ in range(64):
                        queue.append((due, read(source, 2048)))
                except BlockingIOError:
                    pass


main()
