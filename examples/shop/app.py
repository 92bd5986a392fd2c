#!/usr/bin/env python3
"""The shop's application: pages behind nginx, data in PostgreSQL, cache in Redis.

usage: app.py SOCKET SEED
Standard library only: it speaks HTTP/1.1 on a Unix socket and the PostgreSQL
and Redis protocols by itself, through pools whose connections retire.
"""

import asyncio
import heapq
import html
import json
import math
import os
import random
import string
import struct
import sys
import time
from urllib.parse import parse_qsl, urlsplit

DB, CACHE = ("10.20.2.10", 5432), ("10.20.2.11", 6379)
POOL = 8  # connections a pool, at most
LIFE = 45.0  # seconds a pooled connection lives, on average (exponential)
IDLE = 20.0  # seconds an idle pooled connection is kept
KEEP = 90  # seconds a page's data stays in the cache
CATALOGUE = 12000  # products every web server knows by heart, for its recommendations
REFRESH = 240.0  # seconds between two readings of that catalogue


class Failed(Exception):
    pass


class Postgres:
    async def open(self):
        self.reader, self.writer = await asyncio.open_connection(*DB)
        body = struct.pack("!I", 196608) + b"user\0shop\0database\0shop\0application_name\0shop\0\0"
        self.writer.write(struct.pack("!I", len(body) + 4) + body)
        self.known = {}
        await self.collect()
        return self

    async def collect(self):
        rows, error = [], None
        while True:
            kind, size = struct.unpack("!cI", await self.reader.readexactly(5))
            body = await self.reader.readexactly(size - 4)
            if kind == b"D":
                n, at, row = struct.unpack_from("!H", body)[0], 2, []
                for _ in range(n):
                    length = struct.unpack_from("!i", body, at)[0]
                    at += 4
                    row.append(None if length < 0 else body[at : at + length].decode())
                    at += max(length, 0)
                rows.append(row)
            elif kind == b"E":
                error = body.replace(b"\0", b" ").decode(errors="replace")
            elif kind == b"Z":
                if error:
                    raise Failed(error)
                return rows

    def message(self, kind, body):
        return kind + struct.pack("!I", len(body) + 4) + body

    async def ask(self, sql, *values):
        out = b""
        name = self.known.get(sql)
        if name is None:
            name = self.known[sql] = b"s%d" % len(self.known)
            out = self.message(b"P", name + b"\0" + sql.encode() + b"\0\0\0")
        bind = b"\0" + name + b"\0\0\0" + struct.pack("!H", len(values))
        for v in values:
            v = str(v).encode()
            bind += struct.pack("!I", len(v)) + v
        out += self.message(b"B", bind + b"\0\0") + self.message(b"E", b"\0\0\0\0\0") + self.message(b"S", b"")
        self.writer.write(out)
        return await self.collect()

    def close(self):
        try:
            self.writer.write(self.message(b"X", b""))
            self.writer.close()
        except Exception:
            pass


class Redis:
    async def open(self):
        self.reader, self.writer = await asyncio.open_connection(*CACHE)
        return self

    async def reply(self):
        line = await self.reader.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            n = int(rest)
            return None if n < 0 else (await self.reader.readexactly(n + 2))[:-2]
        if kind == b"*":
            return [await self.reply() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        raise Failed(line.decode(errors="replace") or "cache closed")

    async def ask(self, *commands):
        out = []
        for c in commands:
            out.append(b"*%d\r\n" % len(c))
            for v in c:
                v = v if isinstance(v, bytes) else str(v).encode()
                out.append(b"$%d\r\n%b\r\n" % (len(v), v))
        self.writer.write(b"".join(out))
        got = [await self.reply() for _ in commands]
        return got[0] if len(got) == 1 else got

    def close(self):
        self.writer.close()


class Pool:
    def __init__(self, make, rng):
        self.make, self.rng = make, rng
        self.idle, self.room = [], asyncio.Semaphore(POOL)

    async def ask(self, *what):
        async with self.room:
            c = self.idle.pop() if self.idle else None
            if c is None:
                c = await self.make().open()
                c.end = time.monotonic() + self.rng.expovariate(1 / LIFE)
            try:
                got = await c.ask(*what)
            except Exception:
                c.close()
                raise
            c.last = time.monotonic()
            if c.last > c.end:
                c.close()
            else:
                self.idle.append(c)
            return got

    async def tidy(self):
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for c in [c for c in self.idle if now - c.last > IDLE or now > c.end]:
                self.idle.remove(c)
                c.close()


PAGE = string.Template(
    "<!doctype html><html><head><title>$title</title>"
    "<link rel=stylesheet href=/static/style.css><script src=/static/shop.js></script></head>"
    "<body><h1>$title</h1><p class=price>$price</p><p>$text</p><ul>$rows</ul>"
    "<footer>$count in this list</footer></body></html>"
)
ROW = string.Template(
    "<li class='$style'><a href='$link'><img src='/static/$image.jpg' alt='$name'>$name</a> "
    "<span class=price>$price</span> <em>$note</em></li>\n"
)


def money(cents):
    return f"{int(cents) / 100:,.2f}"


def page(title, price, text, rows):
    """rows: (id, name, price, note); the page ranks them, then writes them out."""
    want = set(text.split())
    ranked = sorted(rows, key=lambda r: (-len(want & set(r[3].split())), int(r[2])))
    done = [
        ROW.substitute(
            style="odd" if i % 2 else "even",
            link=f"/p/{r[0]}",
            image=int(r[0]) % 1500,
            name=html.escape(r[1].title()),
            price=money(r[2]),
            note=html.escape(r[3]),
        )
        for i, r in enumerate(ranked)
    ]
    return PAGE.substitute(
        title=html.escape(title.title()), price=money(price), text=html.escape(text), rows="".join(done), count=len(done)
    ).encode()


class Shop:
    def __init__(self, seed):
        rng = random.Random(seed)
        self.db, self.cache = Pool(Postgres, rng), Pool(Redis, rng)
        self.catalogue = []

    async def learn(self):
        while True:
            try:
                rows = await self.db.ask("SELECT id, name, category, price FROM product ORDER BY id LIMIT " + str(CATALOGUE))
                self.catalogue = [(i, n, frozenset(n.split()), int(c), math.log(int(p)), p) for i, n, c, p in rows]
            except (OSError, Failed) as e:
                print("catalogue:", repr(e), file=sys.stderr, flush=True)
            await asyncio.sleep(REFRESH)

    def related(self, name, category, price, n=8):
        """The n products of the catalogue most like the given one."""
        words, level, category = set(name.split()), math.log(max(1, int(price))), int(category)
        best = heapq.nlargest(
            n, ((3 * len(words & c[2]) + (c[3] == category) - abs(c[4] - level), i) for i, c in enumerate(self.catalogue))
        )
        return [(c[0], c[1], c[5], f"alike {score:.2f}") for score, c in ((s, self.catalogue[i]) for s, i in best)]

    async def cached(self, key, *questions, keep=KEEP):
        """The rows of all questions (sql, values...), from the cache if it has them."""
        found, _ = await self.cache.ask(("GET", key), ("ZINCRBY", "seen", 1, key))
        if found is not None:
            return json.loads(found)
        rows = [await self.db.ask(*q) for q in questions]
        await self.cache.ask(("SET", key, json.dumps(rows), "EX", keep))
        return rows

    async def category(self, number):
        (rows,) = await self.cached(
            f"c:{number}",
            ("SELECT id, name, price, description FROM product WHERE category = $1 ORDER BY price LIMIT 60", number),
            keep=300,
        )
        return rows

    async def product(self, number):
        head, reviews = await self.cached(
            f"p:{number}",
            ("SELECT id, name, price, description, category FROM product WHERE id = $1", number),
            (
                "SELECT r.id, p.name, p.price, r.body FROM review r, product p WHERE r.product = $1 AND p.id = r.product "
                "ORDER BY r.stars DESC LIMIT 12",
                number,
            ),
        )
        if not head:
            return 404, b"no such product"
        p = head[0]
        near = await self.category(p[4])
        return 200, page(p[1], p[2], p[3], reviews + near[:12] + self.related(p[1], p[4], p[2]))

    async def listing(self, category):
        rows = await self.category(category)
        top = await self.cache.ask(("ZREVRANGE", "seen", 0, 9))
        return 200, page(
            f"category {category}", 0, " ".join(t.decode() for t in top), rows[:40] + self.related("", category, 5000)
        )

    async def search(self, words):
        a, b = (words.split() + ["", ""])[:2]
        (rows,) = await self.cached(
            f"s:{a}:{b}",
            (
                "SELECT id, name, price, description FROM product "
                "WHERE description ILIKE $1 AND (name ILIKE $2 OR description ILIKE $2) "
                "ORDER BY price LIMIT 30",
                f"%{a}%",
                f"%{b}%",
            ),
        )
        return 200, page(words, 0, words, rows)

    async def cart(self, session, number):
        await self.db.ask(
            "INSERT INTO cart (session, product, quantity) VALUES ($1, $2, 1) ON CONFLICT (session, product) "
            "DO UPDATE SET quantity = cart.quantity + 1, changed = now()",
            session,
            number,
        )
        n = await self.cache.ask(("HINCRBY", f"cart:{session}", number, 1), ("EXPIRE", f"cart:{session}", 600))
        return 201, json.dumps(
            {"session": session, "product": number, "quantity": n[0], "also": [r[0] for r in self.related(*self.like(number))]}
        ).encode()

    def like(self, number):
        c = self.catalogue[number % len(self.catalogue)] if self.catalogue else (0, "", 0, 0, 0, 1)
        return c[1], c[3], c[5]

    async def order(self, session, number):
        got = await self.db.ask(
            "WITH s AS (UPDATE product SET stock = stock - 1 WHERE id = $2 RETURNING id, price) "
            "INSERT INTO orders (session, product, total) SELECT $1, id, price FROM s RETURNING id",
            session,
            number,
        )
        await self.cache.ask(("DEL", f"p:{number}", f"cart:{session}"))
        return 201, json.dumps({"order": got[0][0]}).encode()

    async def answer(self, method, target, body):
        url = urlsplit(target)
        form = dict(parse_qsl(url.query))
        part = url.path.split("/")
        try:
            if method == "GET" and part[1] == "p":
                return await self.product(int(part[2]))
            if method == "GET" and part[1] == "l":
                return await self.listing(int(part[2]))
            if method == "GET" and part[1] == "s":
                return await self.search(form["q"])
            if method == "POST" and part[1] in ("cart", "order"):
                form = dict(parse_qsl(body.decode()))
                return await getattr(self, part[1])(int(form["session"]), int(form["product"]))
            return 404, b"not found"
        except Exception as e:
            print(method, target, repr(e), file=sys.stderr, flush=True)
            return 500, b"failed"

    async def serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")
                method, target, _ = first.split(" ", 2)
                fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                status, out = await self.answer(method, target, body)
                kind = "text/html" if out[:1] == b"<" else "application/json"
                writer.write(
                    f"HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nContent-Length: {len(out)}\r\n\r\n".encode() + out
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def main():
    shop = Shop(int(sys.argv[2]))
    await asyncio.start_unix_server(shop.serve, sys.argv[1], backlog=512)
    os.chmod(sys.argv[1], 0o666)
    await asyncio.gather(shop.learn(), shop.db.tidy(), shop.cache.tidy())


asyncio.run(main())
