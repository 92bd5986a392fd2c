#!/usr/bin/env python3
"""Open-loop load on the shop: every request has its time before the run starts.

usage: load.py --seed N --seconds S --start EPOCH --out FILE
Requests go out at their scheduled times whether or not earlier ones were
answered. Standard library only.
"""

import argparse
import asyncio
import bisect
import gc
import itertools
import json
import math
import os
import random
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import seed as contents

# The shape of the day, in page views a second (all clients together). Times are
# for 900 s; other lengths squeeze them. Rates go in a straight line from..to.
#        name         from  to   views/s from, to
SHAPE = [
    ("night", 0, 110, 3.6, 3.2),
    ("morning", 110, 290, 3.2, 22.0),
    ("midday", 290, 420, 22.0, 24.0),
    ("burst", 420, 440, 60.0, 60.0),
    ("afternoon", 440, 540, 24.0, 16.5),
    ("evening", 540, 640, 16.5, 26.0),
    ("decline", 640, 690, 26.0, 3.0),
    ("quiet", 690, 745, 0.1, 0.1),
    ("moderate", 745, 900, 9.0, 14.0),
]
LENGTH = 900
# what a page view asks for first
MIX = [("product", 0.48), ("listing", 0.18), ("search", 0.20), ("cart", 0.10), ("order", 0.04)]
IMAGES = 0.7  # static files a page view fetches besides, on average (Poisson)
KNOWN = 0.65  # page views by a user who was here in the last 10 s
SHORT = 0.25  # users that open a connection for every request
UNCHANGED = 0.20  # static requests answered 304
GZIP = 0.90  # users that accept gzip
CLOSED, UNUSED, ABORTED = 12, 8, 60  # refused, unanswered and reset connections in 900 s
WEB = ["10.20.1.10", "10.20.1.11"]
NOBODY = "10.20.1.77"
CLIENTS = [f"198.51.100.{n}" for n in range(10, 250)]
TIMEOUT = 15.0
AGENT = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
]


class Zipf:
    def __init__(self, n, s, rng):
        order = list(range(n))
        rng.shuffle(order)
        self.order, self.rng = order, rng
        self.sums = list(itertools.accumulate((i + 1) ** -s for i in range(n)))

    def pick(self):
        return self.order[bisect.bisect_left(self.sums, self.rng.random() * self.sums[-1])]


def phase_at(t):
    for name, a, b, r0, r1 in SHAPE:
        if a <= t < b:
            return name, r0 + (r1 - r0) * (t - a) / (b - a)
    return SHAPE[-1][0], 0.0


def plan(seed, seconds):
    """All users and all requests, in order of time: (t, phase, kind, user, target, body)."""
    rng = random.Random(seed)
    scale = seconds / LENGTH
    top = max(max(r0, r1) for *_, r0, r1 in SHAPE)
    clients, products, files = Zipf(len(CLIENTS), 0.7, rng), Zipf(contents.PRODUCTS, 0.9, rng), Zipf(contents.FILES, 0.7, rng)
    kinds, weights = zip(*MIX)
    users, recent, out = [], [], []
    t = 0.0
    while True:
        t += rng.expovariate(top)
        if t >= seconds:
            break
        phase, rate = phase_at(t / scale)
        if rng.random() * top >= rate:
            continue
        recent = [u for u in recent if t - users[u]["last"] < 10]
        if recent and rng.random() < KNOWN:
            u = rng.choice(recent)
        else:
            u = len(users)
            users.append(
                {
                    "ip": CLIENTS[clients.pick()],
                    "web": rng.choice(WEB),
                    "short": rng.random() < SHORT,
                    "gzip": rng.random() < GZIP,
                    "agent": rng.choice(AGENT),
                    "idle": rng.uniform(4, 14),
                    "session": rng.getrandbits(52),
                }
            )
            recent.append(u)
        users[u]["last"] = t
        kind, body = rng.choices(kinds, weights)[0], None
        if kind == "product":
            target = f"/p/{products.pick()}"
        elif kind == "listing":
            target = f"/l/{int(contents.CATEGORIES * rng.random() ** 2)}"
        elif kind == "search":
            target = f"/s?q={rng.choice(contents.WORDS)}+{rng.choice(contents.WORDS)}"
        else:
            target, body = f"/{kind}", f"session={users[u]['session']}&product={products.pick()}"
        out.append((t, phase, kind, u, target, body))
        if body is None:
            at, n, limit = t, 0, math.exp(-IMAGES)
            x = rng.random()
            while x > limit:  # Poisson
                n += 1
                x *= rng.random()
            for _ in range(n):
                at += rng.uniform(0.03, 0.25)
                name = rng.choice(["style.css", "shop.js"]) if rng.random() < 0.15 else f"{files.pick()}.jpg"
                if at < seconds:
                    out.append((at, phase, "static304" if rng.random() < UNCHANGED else "static", u, f"/static/{name}", None))
    sizes = contents.sizes(random.Random(seed))
    large = [i for i, s in enumerate(sizes) if s > 60_000] or [0]
    for kind, n in (("closed", CLOSED), ("unused", UNUSED), ("aborted", ABORTED)):
        for _ in range(max(1, round(n * scale))):
            t = rng.uniform(0.02, 0.75) * seconds
            users.append(
                {
                    "ip": rng.choice(CLIENTS),
                    "web": rng.choice(WEB),
                    "short": True,
                    "gzip": False,
                    "agent": AGENT[0],
                    "idle": 5,
                    "session": 0,
                }
            )
            out.append((t, phase_at(t / scale)[0], kind, len(users) - 1, f"/static/{rng.choice(large)}.jpg", None))
    out.sort(key=lambda e: e[0])
    return users, out


def request_bytes(user, kind, target, body, last):
    h = [
        f"{'POST' if body else 'GET'} {target} HTTP/1.1",
        "Host: shop.example",
        f"User-Agent: {user['agent']}",
        "Accept: text/html,application/xhtml+xml,image/webp,*/*;q=0.8",
        "Accept-Language: en-US,en;q=0.5",
        f"Cookie: session={user['session']}",
    ]
    if user["gzip"]:
        h.append("Accept-Encoding: gzip, deflate")
    if kind == "static304":
        h.append("If-Modified-Since: " + last)
    if user["short"]:
        h.append("Connection: close")
    if body:
        h += ["Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}"]
    return ("\r\n".join(h) + "\r\n\r\n" + (body or "")).encode()


class Conn(asyncio.Protocol):
    """One client connection; one request at a time."""

    def __init__(self, user):
        self.user, self.request = user, None
        self.transport, self.closing = None, False

    def connection_made(self, transport):
        self.transport = transport
        if self.request:
            transport.write(self.request.data)

    def start(self, request):
        self.request = request
        self.head, self.left, self.chunks, self.tail = b"", None, False, b""
        if self.transport:
            self.transport.write(request.data)

    def data_received(self, data):
        r = self.request
        if r is None:
            return
        r.bytes += len(data)
        if r.kind == "aborted":
            s = self.transport.get_extra_info("socket")
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.drop()
            self.transport.abort()
            r.done("aborted")
            return
        if self.left is None and not self.chunks:
            self.head += data
            at = self.head.find(b"\r\n\r\n")
            if at < 0:
                return
            head, data = self.head[:at].lower(), self.head[at + 4 :]
            r.status = int(head[9:12])
            self.chunks = b"transfer-encoding: chunked" in head
            if not self.chunks:
                i = head.find(b"content-length:")
                self.left = int(head[i + 15 :].split(b"\r\n", 1)[0]) if i >= 0 else 0
            self.closing = b"connection: close" in head
        if self.chunks:
            self.tail = (self.tail + data)[-7:]
            over = self.tail.endswith(b"\r\n0\r\n\r\n")
        else:
            self.left -= len(data)
            over = self.left <= 0
        if over:
            self.request = None
            r.done("ok" if r.status in (200, 201, 304) else "error")
            if self.closing or self.user["short"]:
                self.drop()
                self.transport.close()
            else:
                self.last = time.monotonic()

    def connection_lost(self, error):
        self.drop()
        if self.request:
            self.request.done("error")
            self.request = None

    def drop(self):
        if self in self.user["conns"]:
            self.user["conns"].remove(self)


class Request:
    __slots__ = ("bytes", "data", "end", "finish", "kind", "phase", "result", "sent", "status", "t")

    def __init__(self, t, phase, kind, data):
        self.t, self.phase, self.kind, self.data = t, phase, kind, data
        self.bytes, self.status, self.result, self.end, self.finish = 0, 0, None, 0.0, None

    def done(self, result):
        if self.result is None:
            self.result, self.end = result, time.monotonic()
            if self.finish:
                self.finish(self)


async def run(users, events, start, seconds, last):
    loop = asyncio.get_running_loop()
    base = time.monotonic() + (start - time.time())
    for u in users:
        u["conns"] = []
    all_requests, tasks, open_now = [], set(), set()
    opened = itertools.count()

    async def connect(user, request, port=80, host=None):
        conn = Conn(user)
        conn.request = request
        conn.start(request)
        user["conns"].append(conn)
        next(opened)
        try:
            await asyncio.wait_for(
                loop.create_connection(lambda: conn, host or user["web"], port, local_addr=(user["ip"], 0)),
                4.0 if host else TIMEOUT,
            )
        except ConnectionRefusedError:
            conn.drop()
            request.done("refused")
        except (TimeoutError, OSError):
            conn.drop()
            request.done("unanswered")

    def forget(task):
        tasks.discard(task)
        task.exception()

    async def idle():
        while True:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            for u in list(open_now):
                for c in list(users[u]["conns"]):
                    if c.request is None and c.transport and now - c.last > users[u]["idle"]:
                        c.drop()
                        c.transport.close()
                    elif c.request and now - (base + c.request.t) > TIMEOUT:
                        c.request.done("timeout")
                        c.drop()
                        if c.transport:
                            c.transport.abort()
                if not users[u]["conns"]:
                    open_now.discard(u)

    reaper = asyncio.ensure_future(idle())
    told = 0
    for t, phase, kind, u, target, body in events:
        wait = base + t - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        user = users[u]
        r = Request(t, phase, kind, request_bytes(user, kind, target, body, last))
        r.sent = time.monotonic()
        all_requests.append(r)
        open_now.add(u)
        free = (
            None
            if user["short"]
            else next((c for c in user["conns"] if c.request is None and c.transport and not c.transport.is_closing()), None)
        )
        if free:
            free.start(r)
        else:
            port, host = (8080, None) if kind == "closed" else (80, NOBODY) if kind == "unused" else (80, None)
            task = asyncio.ensure_future(connect(user, r, port, host))
            tasks.add(task)
            task.add_done_callback(forget)
        if t > told:
            told = t + max(30, seconds / 15)
            print(
                f"load: {t:5.0f} s of {seconds:.0f}, {phase}, {len(all_requests)} requests sent, "
                f"{len(open_now)} users connected",
                file=sys.stderr,
                flush=True,
            )
    wait = base + seconds - time.monotonic()
    if wait > 0:
        await asyncio.sleep(wait)
    await asyncio.sleep(min(3, TIMEOUT))
    reaper.cancel()
    for r in all_requests:
        if r.result is None:
            r.result, r.end = "unfinished", time.monotonic()
    return base, all_requests, next(opened)


def quantile(values, q):
    values = sorted(values)
    return round(values[min(len(values) - 1, int(q * len(values)))], 5) if values else None


def report(base, requests, opened, seconds):
    scale = seconds / LENGTH
    out = {"connections_opened": opened, "phases": [], "kinds": {}}
    deliberate = ("closed", "unused", "aborted")

    def summary(rs):
        ok = [r for r in rs if r.result == "ok"]
        times = [r.end - base - r.t for r in ok]
        return {
            "offered": len(rs),
            "completed": len(ok),
            "failed": sum(r.result not in ("ok",) for r in rs),
            "response_bytes": sum(r.bytes for r in rs),
            "latency_p50_s": quantile(times, 0.5),
            "latency_p99_s": quantile(times, 0.99),
            "sent_late_p99_s": quantile([r.sent - base - r.t for r in rs], 0.99),
        }

    for name, a, b, *_ in SHAPE:
        rs = [r for r in requests if r.phase == name and r.kind not in deliberate]
        out["phases"].append(
            {
                "phase": name,
                "from_s": round(a * scale, 3),
                "to_s": round(b * scale, 3),
                "requests_per_s": round(len(rs) / ((b - a) * scale), 2),
                **summary(rs),
            }
        )
    for kind in [k for k, _ in MIX] + ["static", "static304"]:
        out["kinds"][kind] = summary([r for r in requests if r.kind == kind])
    out["all"] = summary([r for r in requests if r.kind not in deliberate])
    out["deliberate_failures"] = {}
    for kind in deliberate:
        rs = [r for r in requests if r.kind == kind]
        out["deliberate_failures"][kind] = {x: sum(r.result == x for r in rs) for x in sorted({r.result for r in rs})}
    out["results"] = {x: sum(r.result == x for r in requests) for x in sorted({r.result for r in requests})}
    return out


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--seconds", type=float, default=LENGTH)
    p.add_argument("--start", type=float)
    p.add_argument("--out")
    p.add_argument("--plan", action="store_true", help="only count the planned requests")
    a = p.parse_args()
    users, events = plan(a.seed, a.seconds)
    if a.plan:
        print(len(users), "users,", len(events), "requests")
        return
    gc.freeze()
    last = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    base, requests, opened = asyncio.run(run(users, events, a.start or time.time() + 1, a.seconds, last))
    with open(a.out, "w") as f:
        json.dump(report(base, requests, opened, a.seconds), f, indent=1)


if __name__ == "__main__":
    main()
