"""Runs classic BPF programs for tests: a small machine of its own (filter.txt), the kernel on a Unix socket, and libpcap."""

from __future__ import annotations

import ctypes
import ctypes.util
import socket
from collections.abc import Mapping
from operator import add, and_, lshift, mul, rshift, xor

from adumbra.tap.bpf import Program
from adumbra.tap.packet_socket import attach_filter

_ANCILLARY = 0xFFFFF000
_MASK = 0xFFFFFFFF
_ARITHMETIC = {0x00: add, 0x20: mul, 0x50: and_, 0x60: lshift, 0x70: rshift, 0xA0: xor}


def run(program: Program, data: bytes, ancillary: Mapping[int, int] | None = None) -> int:
    """What the program returns for the data; 0 where it reads beyond. Fails on what the kernel would refuse."""
    a = x = at = 0
    memory: dict[int, int] = {}
    assert 0 < len(program) <= 4096
    for _ in range(len(program)):
        step = program.instructions[at]
        code, k = step.code, step.value
        at += 1
        kind = code & 0x07
        if kind in (0, 1):  # LD, LDX
            mode, size = code & 0xE0, {0x00: 4, 0x08: 2, 0x10: 1}[code & 0x18]
            if mode == 0x00:
                value = k
            elif mode == 0x60:
                value = memory[k]  # the kernel refuses to read what wasn't written
            elif mode == 0x20 and k >= _ANCILLARY:
                assert ancillary is not None
                value = ancillary[k - _ANCILLARY]
            else:
                begin = k + (x if mode == 0x40 else 0)
                if begin + size > len(data):
                    return 0
                value = int.from_bytes(data[begin : begin + size], "big")
            a, x = (value, x) if kind == 0 else (a, value)
        elif kind in (2, 3):  # ST, STX
            assert k < 16
            memory[k] = a if kind == 2 else x
        elif kind == 4:  # ALU
            other = x if code & 0x08 else k
            a = _ARITHMETIC[code & 0xF0](a, other) & _MASK
        elif kind == 5:  # JMP
            assert at + max(k if code == 0x05 else 0, step.on_true, step.on_false) < len(program)
            if code == 0x05:
                at += k
            else:
                holds = {0x10: a == k, 0x30: a >= k, 0x40: bool(a & k)}[code & 0xF0]
                at += step.on_true if holds else step.on_false
        elif kind == 6:
            return a if code == 0x16 else k
        else:
            assert code == 0x07
            x = a
    raise AssertionError("the program ends without an answer")


class Kernel:
    """The kernel's own verdicts: the program filters a Unix datagram socket. Needs no privilege."""

    def __init__(self, program: Program) -> None:
        self._sender, self._receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._receiver.setblocking(False)
        attach_filter(self._receiver, program)

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sender.close()
        self._receiver.close()

    def run(self, data: bytes) -> int:
        """How many bytes of the data the program lets through."""
        self._sender.send(data)
        try:
            return len(self._receiver.recv(1 << 16))
        except BlockingIOError:
            return 0


class _Header(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_long), ("usec", ctypes.c_long), ("captured", ctypes.c_uint32), ("length", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint), ("instructions", ctypes.c_void_p)]


class Libpcap:
    """libpcap's own interpreter. Raises OSError where the library isn't there."""

    def __init__(self, program: Program) -> None:
        name = ctypes.util.find_library("pcap")
        if name is None:
            raise OSError("libpcap is missing")
        self._run = ctypes.CDLL(name).pcap_offline_filter
        self._run.argtypes = [ctypes.POINTER(_Program), ctypes.POINTER(_Header), ctypes.c_char_p]
        self._code = ctypes.create_string_buffer(program.packed())
        self._program = _Program(len(program), ctypes.addressof(self._code))

    def run(self, data: bytes) -> int:
        header = _Header(0, 0, len(data), len(data))
        return min(int(self._run(ctypes.byref(self._program), ctypes.byref(header), data)), len(data))
