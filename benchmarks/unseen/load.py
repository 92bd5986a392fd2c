#!/usr/bin/env python3
"""Open-loop load on the forum: every request has its time before the run starts. The clients are those of examples/shop.

usage: load.py SHOP_FOLDER SEED START SECONDS OUT.json
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, sys.argv[1])
sys.path.append(str(Path(__file__).parent))
import contents
import load as shop  # examples/shop/load.py

SERVER = "10.20.2.20"
LENGTH = 600
# Page views a second, from and to, in parts of 600 s; other lengths squeeze them.
SHAPE = [
    ("night", 0, 75, 3.0, 2.5),
    ("morning", 75, 190, 2.5, 16.0),
    ("midday", 190, 270, 16.0, 18.0),
    ("burst", 270, 285, 40.0, 40.0),
    ("afternoon", 285, 390, 18.0, 11.0),
    ("evening", 390, 470, 11.0, 20.0),
    ("decline", 470, 510, 20.0, 2.5),
    ("quiet", 510, 540, 0.3, 0.3),
    ("moderate", 540, 600, 7.0, 10.0),
]
# What a page view asks for: by day people read, in the evening they write, log in and search.
BY_DAY = {"index": 0.34, "thread": 0.52, "search": 0.08, "login": 0.02, "post": 0.04}
IN_THE_EVENING = {"index": 0.29, "thread": 0.50, "search": 0.10, "login": 0.03, "post": 0.08}
IMAGES = 0.4  # static files beside a page view
KNOWN, SHORT, UNCHANGED = 0.7, 0.2, 0.2


def rate_at(t: float) -> tuple[str, float]:
    for name, begin, end, first, last in SHAPE:
        if begin <= t < end:
            return name, first + (last - first) * (t - begin) / (end - begin)
    return SHAPE[-1][0], 0.0


def plan(seed: int, seconds: float) -> tuple[list[dict], list[tuple]]:
    """All users and requests in order of time, as examples/shop/load.py takes them."""
    rng = random.Random(seed)
    threads = shop.Zipf(contents.THREADS, 0.8, rng)
    users: list[dict] = []
    recent: list[int] = []
    out: list[tuple] = []
    t, top = 0.0, max(max(part[3:]) for part in SHAPE)
    while (t := t + rng.expovariate(top)) < seconds:
        phase, rate = rate_at(t * LENGTH / seconds)
        if rng.random() * top >= rate:
            continue
        recent = [u for u in recent if t - users[u]["last"] < 12]
        if recent and rng.random() < KNOWN:
            u = rng.choice(recent)
        else:
            u = len(users)
            users.append(
                {
                    "ip": rng.choice(shop.CLIENTS), "web": SERVER, "short": rng.random() < SHORT, "gzip": True,
                    "agent": rng.choice(shop.AGENT), "idle": rng.uniform(3, 8), "session": rng.getrandbits(52),
                }
            )  # fmt: skip
            recent.append(u)
        users[u]["last"] = t
        mix = IN_THE_EVENING if phase in {"evening", "decline", "moderate"} else BY_DAY
        kind = rng.choices(list(mix), list(mix.values()))[0]
        out.append((t, phase, kind, u, *_target(kind, threads, rng)))
        at = t
        while rng.random() < IMAGES / (1 + IMAGES):
            at += rng.uniform(0.03, 0.25)
            file = "forum.css" if rng.random() < 0.3 else f"{rng.randrange(contents.FILES)}.jpg"
            if at < seconds:
                out.append((at, phase, "static304" if rng.random() < UNCHANGED else "static", u, f"/static/{file}", None))
    return users, sorted(out, key=lambda event: event[0])


def _target(kind: str, threads: "shop.Zipf", rng: random.Random) -> tuple[str, str | None]:
    if kind == "index":
        return f"/index.php?page={int(20 * rng.random() ** 3)}", None
    if kind == "thread":
        return f"/thread.php?id={1 + threads.pick()}", None
    if kind == "search":
        return f"/search.php?q={rng.choice(contents.WORDS)}+{rng.choice(contents.WORDS)}", None
    if kind == "login":
        return "/login.php", f"name=user{rng.randrange(500)}"
    return "/post.php", f"thread={1 + threads.pick()}&text=" + "+".join(rng.choices(contents.WORDS, k=rng.randint(10, 80)))


def main() -> None:
    seed, start, seconds, out = int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), sys.argv[5]
    users, events = plan(seed, seconds)
    last = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time()))
    base, requests, opened = asyncio.run(shop.run(users, events, start, seconds, last))
    kinds: dict[str, dict[str, object]] = {}
    for kind in sorted({r.kind for r in requests}):
        of = [r for r in requests if r.kind == kind]
        times = [r.end - base - r.t for r in of if r.result == "ok"]
        kinds[kind] = {
            "results": dict(Counter(r.result for r in of)), "response_bytes": sum(r.bytes for r in of),
            "latency_p50_s": shop.quantile(times, 0.5), "latency_p99_s": shop.quantile(times, 0.99),
        }  # fmt: skip
    Path(out).write_text(json.dumps({"requests": len(requests), "connections_opened": opened, "kinds": kinds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
