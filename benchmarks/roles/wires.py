"""What clients say: the bytes of each kind of request, and where an answer ends. No sockets, no clock.

A dialect knows its opening (login), its requests by kind, and how many bytes an answer has once they are there.
"""

# ruff: noqa: ARG002, ISC004 - all dialects have one signature; long statements stand in parts

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from typing import Protocol

WORDS = (
    *("alder", "basin", "cliff", "delta", "eagle", "field", "grove", "heath", "inlet", "jetty", "knoll", "ledge", "marsh"),
    *("north", "ozone", "plain", "quarry", "ridge", "shore", "tower", "upland", "valley", "water", "yonder", "zenith"),
)
ITEMS, ACCOUNTS = 20_000, 50_000
LARGE_KEYS = 500  # keys of a size that are asked for; so many are set before the load begins

# Parameters: i: an item, c: a category, a: an account; a word stands in the text itself. {like}: without regard to case, as a
# search for people is, and as MySQL has it always.
SQL: Mapping[str, tuple[str, str]] = {
    "point": ("i", "SELECT id, name, price, stock, description FROM item WHERE id = $1"),
    "range": ("c", "SELECT id, name, price, stock FROM item WHERE category = $1 ORDER BY price LIMIT 60"),
    "sum": ("i", "SELECT count(*), sum(price), max(stock) FROM item WHERE id > $1 AND id <= $1 + 500"),
    "join": ("i", "SELECT i.name, r.stars, r.body FROM review r JOIN item i ON i.id = r.item "
             "WHERE r.item > $1 AND r.item <= $1 + 8 ORDER BY r.stars DESC LIMIT 20"),
    "scan": ("c", "SELECT id, name, price FROM item WHERE description {like} '%{word}%' AND category <> $1 "
             "ORDER BY price LIMIT 30"),
    "group": ("c", "SELECT category, count(*), avg(price), sum(stock) FROM item WHERE category <> $1 "
              "GROUP BY category ORDER BY 4 DESC"),
    "sort": ("c", "SELECT id, name, stock FROM item WHERE category <= $1 ORDER BY stock DESC, name LIMIT 100"),
    "insert": ("i", "INSERT INTO event (item, body) VALUES ($1, '{words}')"),
    "update": ("i", "UPDATE item SET stock = stock - 1 WHERE id = $1"),
    "transfer": ("a", "{call} transfer($1)"),
}  # fmt: skip


class Dialect(Protocol):
    """What a client of a kind of server says and hears."""

    def opening(self, keep: bool) -> list[bytes]:
        """What a client sends when it has connected; each is answered before the next is sent."""

    def before(self) -> list[bytes]:
        """Requests by which the server's data is made before the load."""

    def request(self, kind: str, rng: random.Random, keep: bool) -> bytes:
        """One request of a kind."""

    def length(self, got: bytearray, opening: bool) -> int:
        """How long the answer at the start of `got` is in all; 0 while that can't be told yet."""

    def failed(self, got: bytearray) -> bool:
        """Whether a complete answer says that the request failed."""


class Http:
    """HTTP/1.1; a request's kind is a path, or one of those with a method or fields of its own."""

    COOKIE = b"Cookie: session=" + b"c00kie" * 240 + b"\r\n"

    def opening(self, keep: bool) -> list[bytes]:
        return []

    def before(self) -> list[bytes]:
        return []

    def request(self, kind: str, rng: random.Random, keep: bool) -> bytes:
        method, path, fields, body = "GET", kind, b"", b""
        if kind == "same":  # what the client has already
            path, fields = "f8k", b"If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n"
        elif kind == "text":
            path, fields = "text.html", b"Accept-Encoding: gzip\r\n"
        elif kind == "cookie":
            path, fields = "f8k", self.COOKIE
        elif kind == "form":
            method, body = (
                "POST",
                b"&".join(b"field%d=%s+%s" % (i, rng.choice(WORDS).encode(), rng.choice(WORDS).encode()) for i in range(40)),
            )
            fields = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n" % len(body)
        elif kind in {"page", "rows", "report", "login"}:
            path = f"{kind}/{rng.randrange(1, 2000)}"
        end = b"" if keep else b"Connection: close\r\n"
        return (
            f"{method} /{path} HTTP/1.1\r\nHost: site.example\r\nUser-Agent: measure/1\r\nAccept: */*\r\n".encode()
            + fields + end + b"\r\n" + body
        )  # fmt: skip

    def length(self, got: bytearray, opening: bool) -> int:
        end = got.find(b"\r\n\r\n")
        if end < 0:
            return 0
        head = bytes(got[:end]).lower()
        if b" 304 " in head[:16]:
            return end + 4
        if b"\r\ntransfer-encoding: chunked" in head:
            return len(got) if got.endswith(b"\r\n0\r\n\r\n") else 0
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            return end + 4
        return end + 4 + int(head[at + 17 : at + 40].split(b"\r\n")[0])

    def failed(self, got: bytearray) -> bool:
        return bytes(got[9:10]) not in {b"2", b"3"}


def _resp(*words: bytes | int | str) -> bytes:
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


class Resp:
    """Redis' protocol (RESP 2). Values of three sizes, counters, sorted sets, hashes."""

    SIZES: Mapping[str, int] = {"100": 100, "1k": 1000, "10k": 10_000}

    def opening(self, keep: bool) -> list[bytes]:
        return []

    def before(self) -> list[bytes]:
        made = [_resp("SET", f"v{size}:{key}", b"x" * size) for size in self.SIZES.values() for key in range(LARGE_KEYS)]
        made += [_resp("ZADD", "rank", key % 997, f"member:{key}") for key in range(5000)]
        made += [_resp("HSET", f"hash:{key}", *(word for i in range(20) for word in (f"f{i}", "v" * 20))) for key in range(200)]
        return made

    def request(self, kind: str, rng: random.Random, keep: bool) -> bytes:
        key = rng.randrange(LARGE_KEYS)
        if kind[:3] in {"get", "set"}:
            size = self.SIZES[kind[3:]]
            return _resp("GET", f"v{size}:{key}") if kind[0] == "g" else _resp("SET", f"v{size}:{key}", b"x" * size)
        if kind == "mget":
            return _resp("MGET", *(f"v100:{rng.randrange(LARGE_KEYS)}" for _ in range(20)))
        if kind == "hash":
            return _resp("HGETALL", f"hash:{key % 200}")
        if kind == "rank":
            at = rng.randrange(4000)
            return _resp("ZREVRANGE", "rank", at, at + 49, "WITHSCORES")
        if kind == "zadd":
            return _resp("ZINCRBY", "rank", 1, f"member:{rng.randrange(5000)}")
        return _resp("INCR", f"n:{key}")

    def length(self, got: bytearray, opening: bool) -> int:
        return max(self._end(got, 0), 0)

    def _end(self, got: bytearray, at: int) -> int:
        line = got.find(b"\r\n", at)
        if line < 0:
            return -1
        kind, after = got[at : at + 1], line + 2
        if kind == b"$":
            n = int(got[at + 1 : line])
            return after if n < 0 else (after + n + 2 if len(got) >= after + n + 2 else -1)
        if kind == b"*":
            for _ in range(int(got[at + 1 : line])):
                after = self._end(got, after)
                if after < 0:
                    return -1
        return after

    def failed(self, got: bytearray) -> bool:
        return bytes(got[:1]) == b"-"


class Memcache:
    """memcached's text protocol."""

    SIZES = Resp.SIZES

    def opening(self, keep: bool) -> list[bytes]:
        return []

    def before(self) -> list[bytes]:
        return [self._set(size, key) for size in self.SIZES.values() for key in range(LARGE_KEYS)]

    @staticmethod
    def _set(size: int, key: int) -> bytes:
        return b"set v%d:%d 0 0 %d\r\n%b\r\n" % (size, key, size, b"x" * size)

    def request(self, kind: str, rng: random.Random, keep: bool) -> bytes:
        key = rng.randrange(LARGE_KEYS)
        if kind == "many":
            return b"get " + b" ".join(b"v100:%d" % rng.randrange(LARGE_KEYS) for _ in range(20)) + b"\r\n"
        size = self.SIZES[kind[3:]]
        return b"get v%d:%d\r\n" % (size, key) if kind[0] == "g" else self._set(size, key)

    def length(self, got: bytearray, opening: bool) -> int:
        done = got.endswith((b"END\r\n", b"STORED\r\n", b"ERROR\r\n"))
        return len(got) if done else 0

    def failed(self, got: bytearray) -> bool:
        return got.endswith(b"ERROR\r\n")


def _statement(kind: str, rng: random.Random, call: str) -> tuple[str, str]:
    """The text of a kind of statement, with its parameter left as $1, and the parameter."""
    which, text = SQL[kind]
    value = {"i": ITEMS - 600, "c": 40, "a": ACCOUNTS}[which]
    text = (
        text.replace("{call}", call)
        .replace("{like}", "ILIKE" if call == "SELECT" else "LIKE")
        .replace("{word}", WORDS[3])
        .replace("{words}", " ".join(WORDS))
    )
    return text, str(rng.randrange(1, value))


class Postgres:
    """PostgreSQL's protocol, version 3: prepared statements where connections are kept, else simple queries."""

    def opening(self, keep: bool) -> list[bytes]:
        body = struct.pack("!I", 196608) + b"user\0postgres\0database\0bench\0\0"
        say = [struct.pack("!I", len(body) + 4) + body]
        if keep:
            rng = random.Random(0)
            parse = b"".join(
                self._message(b"P", kind.encode() + b"\0" + _statement(kind, rng, "SELECT")[0].encode() + b"\0\0\0")
                for kind in SQL
            )
            say.append(parse + self._message(b"S", b""))
        return say

    @staticmethod
    def _message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!I", len(body) + 4) + body

    def before(self) -> list[bytes]:
        return []

    def request(self, kind: str, rng: random.Random, keep: bool) -> bytes:
        text, value = _statement(kind, rng, "SELECT")
        if not keep:
            return self._message(b"Q", text.replace("$1", value).encode() + b"\0")
        bind = b"\0" + kind.encode() + b"\0" + struct.pack("!HHI", 0, 1, len(value)) + value.encode() + b"\0\0"
        return self._message(b"B", bind) + self._message(b"E", b"\0\0\0\0\0") + self._message(b"S", b"")

    def length(self, got: bytearray, opening: bool) -> int:
        at, size = 0, len(got)
        while at + 5 <= size:
            kind, n = struct.unpack_from("!cI", got, at)
            at += n + 1
            if kind == b"Z":
                return at if at <= size else 0
        return 0

    def failed(self, got: bytearray) -> bool:
        at = 0
        while at + 5 <= len(got):
            kind, n = struct.unpack_from("!cI", got, at)
            if kind == b"E":
                return True
            at += n + 1
        return False


class MySql:
    """MySQL's protocol, version 10: text queries, no password."""

    def opening(self, keep: bool) -> list[bytes]:
        # 41 protocol, database in the login, transactions, plain authentication, multiple results (of a call)
        flags = 0x00000200 | 0x00000008 | 0x00002000 | 0x00008000 | 0x00080000 | 0x00020000 | 0x00000001
        body = struct.pack("<IIB23x", flags, 1 << 24, 33) + b"bench\0\0bench\0mysql_native_password\0"
        return [b"", struct.pack("<I", len(body) | 1 << 24) + body]

    def before(self) -> list[bytes]:
        return []

    def request(self, kind: str, rng: random.Random, keep: bool) -> bytes:
        text, value = _statement(kind, rng, "CALL")
        body = b"\x03" + text.replace("$1", value).encode()
        return struct.pack("<I", len(body)) + body

    def length(self, got: bytearray, opening: bool) -> int:
        ends, at, first = 0, 0, True
        while at + 5 <= len(got):
            n = got[at] | got[at + 1] << 8 | got[at + 2] << 16
            kind, at = got[at + 4], at + 4 + n
            if at > len(got):
                return 0
            if opening or (first and kind in {0x00, 0xFF}):
                return at
            first = False
            if kind == 0xFF:
                return at
            if kind == 0xFE and n < 9:
                ends += 1
                if ends == 2:
                    if not got[at - 2] & 0x08:
                        return at
                    ends, first = 0, True  # a call's own result follows its rows
        return 0

    def failed(self, got: bytearray) -> bool:
        return got[4] == 0xFF


DIALECTS: Mapping[str, Dialect] = {
    "http": Http(), "resp": Resp(), "memcache": Memcache(), "postgres": Postgres(), "mysql": MySql()
}  # fmt: skip
