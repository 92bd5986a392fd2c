"""Cuts JSON that comes line by line into the objects worth decoding, in bounded memory. Knows nothing of flows.

An object on a line of its own is one; so is each object of an array at the top, and of an array that stands in an object at
the top under a name such as "records": documents of any size, written in one line or in many.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

MAX_OBJECT_BYTES = 1 << 24
STREAMED = frozenset({b"records", b"Records", b"logEvents", b"events", b"entries"})
"""The names of the arrays that documents of flow logs consist of."""

_WHOLE_LINE_BYTES = 1 << 20
_MAX_DEPTH = 64
_TOKEN = re.compile(rb'"([^"\\\x00-\x1f]*+(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*+)*+)"|[{}\[\],:]|[^\s{}\[\],:"]++|"')
_OPENS, _CLOSES = {0x7B: 0x7D, 0x5B: 0x5D}, b"}]"
_OBJECT, _ARRAY = 0x7B, 0x5B

Drop = Callable[[int, object], None]
"""Told of each value that had to be dropped: its line, and why."""


class JsonObjects:
    """The objects in lines of JSON. `drop` is told what could not be read; reading goes on behind it."""

    def __init__(self, drop: Drop) -> None:
        self._drop = drop
        self._restart()

    @property
    def open(self) -> bool:
        """Whether a value has begun that hasn't ended."""
        return bool(self._stack)

    def read(self, line: bytes, number: int) -> Iterator[Mapping[str, Any]]:
        """The objects that end in a line."""
        if not self._stack and len(line) <= _WHOLE_LINE_BYTES and line.startswith(b"{"):
            value = _loaded(line)
            if value is not None:
                yield from _parts(value)
                return
        begun = bool(self._stack)
        wrong = yield from self._cut(line, number)
        if wrong:
            self._drop(self._first_line if begun else number, wrong)
            self._restart()
            if begun:  # what began on an earlier line was cut off: this line may be whole
                yield from self.read(line, number)

    def finish(self) -> None:
        """To be called at the end: what is open then was cut off."""
        if self._stack:
            self._drop(self._first_line, "the JSON value that begins here doesn't end")
        self._restart()

    def _restart(self) -> None:
        self._stack = bytearray()
        self._last = 0  # the last token's first byte
        self._key = b""
        self._streaming = False
        self._pieces: list[bytes] = []
        self._size = 0
        self._unit_depth = -1  # the depth within which an object is being gathered, -1: none
        self._first_line = 0

    def _cut(self, line: bytes, number: int) -> Generator[Mapping[str, Any], None, str]:
        """Gives the objects that end in a line; returns what is wrong with it, or ""."""
        start = 0  # of the object's part in this line
        if not self._stack:
            self._first_line = number
        for found in _TOKEN.finditer(line):
            token = line[found.start()]
            if token in _OPENS:
                if not self._may_open():
                    return "no JSON: a bracket where none can stand"
                if len(self._stack) >= _MAX_DEPTH:
                    return f"JSON nested deeper than {_MAX_DEPTH}"
                start = self._open(token, found.start(), start)
            elif token in _CLOSES:
                if not self._stack or _OPENS[self._stack[-1]] != token:
                    return "no JSON: a closing bracket without its opening one"
                self._stack.pop()
                if len(self._stack) == self._unit_depth:
                    yield from self._unit(line[start : found.end()], number)
                    start = found.end()
                self._streaming = self._streaming and len(self._stack) > self._base + 1
            elif not self._stack:
                return "" if token == 0x2C else "neither JSON nor a flow log record"
            elif token == 0x22 and found[1] is None:
                return "no JSON: a string that doesn't end"
            elif token not in b",:":
                self._key = found[1][:16] if token == 0x22 else b""
                if self._unit_depth < 0 and (self._streaming or self._stack == b"["):
                    return "a value that is no object, where a record should be"
            self._last = token
        if self._unit_depth >= 0:
            self._keep(line[start:])
        return ""

    @property
    def _base(self) -> int:
        """The depth within which documents begin: 0, or 1 in an array at the top."""
        return 1 if self._stack[:1] == b"[" else 0

    def _may_open(self) -> bool:
        if not self._stack:
            return True
        if self._stack[-1] == _OBJECT:
            return self._last == 0x3A
        return self._last in {_ARRAY, 0x2C}

    def _open(self, token: int, at: int, start: int) -> int:
        """Takes in an opening bracket; gives where the object that is being gathered begins in this line."""
        depth, base = len(self._stack), self._base
        streamed = token == _ARRAY and depth == base + 1 and self._stack[-1] == _OBJECT and self._key in STREAMED
        if streamed and self._unit_depth == base:  # a document of many records, not an object to gather
            self._streaming, self._unit_depth, self._pieces, self._size = True, -1, [], 0
        elif token == _OBJECT and self._unit_depth < 0 and depth == (base + 2 if self._streaming else base):
            self._unit_depth, start = depth, at
        self._stack.append(token)
        return start

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= MAX_OBJECT_BYTES:
            self._pieces.append(piece)
        else:
            self._pieces = []

    def _unit(self, last: bytes, number: int) -> Iterator[Mapping[str, Any]]:
        """The object that has ended."""
        self._keep(last)
        pieces, size = self._pieces, self._size
        self._pieces, self._size, self._unit_depth = [], 0, -1
        if size > MAX_OBJECT_BYTES:
            self._drop(number, f"an object of {size:,} bytes; at most {MAX_OBJECT_BYTES:,} are read")
            return
        value = _loaded(b"\n".join(pieces))
        if value is None:
            self._drop(number, "no JSON that can be read")
        else:
            yield from _parts(value)


def _loaded(text: bytes) -> Mapping[str, Any] | None:
    """The object in a text; None where it holds none, in JSON that can't be read, is nested too deep, or has huge numbers."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _parts(value: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The objects of a document that was read whole, or the object itself."""
    for name in STREAMED:
        parts = value.get(name.decode())
        if isinstance(parts, list):
            yield from (part for part in parts if isinstance(part, dict))
            return
    yield value
