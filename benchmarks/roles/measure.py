#!/usr/bin/env python3
"""Runs each role alone, counts, and fits costs by non-negative least squares.

usage: measure.py SHOP_FOLDER CONFIG.json PREFIX SECONDS OUT.json   (started by measure.sh)
       measure.py load ROLE KIND MODE RATE SECONDS                  (one run's load, in its namespace)
       measure.py hold ROLE N                                       (opens N connections, waits for a line)
"""

import json
import os
import platform
import re
import socket
import struct
import subprocess
import sys
import time

ADDRESS = {"nginx": ("10.20.1.10", 80), "postgresql": ("10.20.2.10", 5432), "redis": ("10.20.2.11", 6379)}
VM = {"nginx": "web-1", "postgresql": "db", "redis": "cache"}
FROM = {"nginx": "db", "postgresql": "web-1", "redis": "web-1"}  # the load runs in another subnet's namespace
# kind of request, and rates a second: over kept connections, and with a connection for each request
RUNS = {
    "nginx": {"kinds": ["small", "large"], "keep": [100, 300, 900], "short": [50, 150, 450]},
    "postgresql": {"kinds": ["select1", "select60", "insert"], "keep": [50, 150, 400], "short": [10, 30, 80]},
    "redis": {"kinds": ["get100", "get10000", "set100", "set10000"], "keep": [200, 600, 1500], "short": [50, 150, 450]},
}
HOLD = {"nginx": [0, 100, 200, 400], "postgresql": [0, 10, 25, 45], "redis": [0, 100, 200, 400]}
KEPT = 4  # connections of a run that keeps them
SQL = {
    "select1": "SELECT id, name, price, stock, description FROM product WHERE id = $1",
    "select60": "SELECT id, name, price, description FROM product WHERE category = $1 % 40 ORDER BY price LIMIT 60",
    "insert": "INSERT INTO cart (session, product, quantity) VALUES ($1, 1, 1) ON CONFLICT (session, product) "
    "DO UPDATE SET quantity = cart.quantity + 1",
}


class Client:
    def __init__(self, role):
        self.role = role
        self.s = socket.create_connection(ADDRESS[role], 5)
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.f = self.s.makefile("rb", 65536)
        self.known = set()
        if role == "postgresql":
            body = struct.pack("!I", 196608) + b"user\0shop\0database\0shop\0\0"
            self.s.sendall(struct.pack("!I", len(body) + 4) + body)
            self.ready()

    def ready(self):
        while True:
            kind, n = struct.unpack("!cI", self.f.read(5))
            body = self.f.read(n - 4)
            if kind == b"E":
                raise OSError(body)
            if kind == b"Z":
                return

    def ask(self, kind, number):
        if self.role == "nginx":
            self.s.sendall(
                b"GET /static/%s HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: measure\r\nAccept: */*\r\n\r\n" % kind.encode()
            )
            size = 0
            first = self.f.readline()
            if b" 200 " not in first:
                raise OSError(first)
            while (line := self.f.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    size = int(line[15:])
            self.f.read(size)
        elif self.role == "redis":
            size = int(kind[3:])
            key = b"k%d:%d" % (size, number % 200)
            if kind[:3] == "get":
                self.s.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))
                n = int(self.f.readline()[1:])
                if n >= 0:
                    self.f.read(n + 2)
            else:
                self.s.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, size, b"x" * size))
                self.f.readline()
        else:
            m = lambda k, b: k + struct.pack("!I", len(b) + 4) + b
            out = b""
            if kind not in self.known:
                self.known.add(kind)
                out = m(
                    b"P",
                    kind.encode() + b"\0" + SQL[kind].encode() + b"\0" + struct.pack("!HI", 1, 20 if kind == "insert" else 23),
                )
            v = str(number % 10000).encode()
            out += m(b"B", b"\0" + kind.encode() + b"\0\0\0" + struct.pack("!HI", 1, len(v)) + v + b"\0\0")
            self.s.sendall(out + m(b"E", b"\0\0\0\0\0") + m(b"S", b""))
            self.ready()

    def close(self):
        if self.role == "postgresql":
            self.s.sendall(b"X\0\0\0\4")
        self.f.close()
        self.s.close()


def load(role, kind, mode, rate, seconds):
    connections = requests = 0
    kept = []
    if mode == "keep":
        kept = [Client(role) for _ in range(KEPT)]
        connections = KEPT
    start = time.monotonic()
    while (at := start + requests / rate) < start + seconds:
        wait = at - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        c = kept[requests % KEPT] if kept else Client(role)
        c.ask(kind, requests)
        requests += 1
        if not kept:
            connections += 1
            c.close()
    for c in kept:
        c.close()
    print(json.dumps({"connections": connections, "requests": requests, "seconds": time.monotonic() - start}))


def hold(role, n):
    kind = {"nginx": "small", "postgresql": "select1", "redis": "get100"}[role]
    held = []
    for i in range(n):
        c = Client(role)
        c.ask(kind, i)
        held.append(c)
    print("held", flush=True)
    sys.stdin.readline()
    for c in held:
        c.close()


def nnls(rows, values, steps=20000):
    """min |A x - b|, x >= 0, by coordinate descent on scaled columns."""
    n = len(rows[0])
    scale = [max(abs(r[j]) for r in rows) or 1.0 for j in range(n)]
    a = [[r[j] / scale[j] for j in range(n)] for r in rows]
    g = [[sum(r[i] * r[j] for r in a) for j in range(n)] for i in range(n)]
    h = [sum(r[i] * v for r, v in zip(a, values)) for i in range(n)]
    x = [0.0] * n
    for _ in range(steps):
        for i in range(n):
            if g[i][i] > 0:
                x[i] = max(0.0, x[i] + (h[i] - sum(g[i][j] * x[j] for j in range(n))) / g[i][i])
    return [v / s for v, s in zip(x, scale)]


def line(points):
    n = len(points)
    mx, my = sum(p[0] for p in points) / n, sum(p[1] for p in points) / n
    slope = sum((x - mx) * (y - my) for x, y in points) / sum((x - mx) ** 2 for x, _ in points)
    return my - slope * mx, slope


def main():
    shop, config, prefix, seconds, out = sys.argv[1:]
    sys.path.insert(0, shop)
    import usage

    vms = {v["vm"]: v for v in json.load(open(config))}
    me = [sys.executable, os.path.abspath(__file__)]
    inside = lambda role: ["nsenter", f"--net=/run/netns/{prefix}{FROM[role]}"]

    def state(vm):
        return usage.cpu_seconds(vm), sum(usage.network(vm)), time.monotonic()

    def run(role, words):
        vm = vms[VM[role]]
        before = state(vm)
        got = {"connections": 0, "requests": 0}
        if words:
            r = subprocess.run([*inside(role), *me, "load", role, *words], capture_output=True, text=True)
            if r.returncode:
                raise SystemExit(f"{role} {words}: {r.stderr[-500:]}")
            got = json.loads(r.stdout)
            time.sleep(0.3)
        else:
            time.sleep(8)
        after = state(vm)
        return {
            "connections": got["connections"],
            "requests": got["requests"],
            "bytes": after[1] - before[1],
            "seconds": after[2] - before[2],
            "cpu_s": after[0] - before[0],
        }

    doc = {
        "what": "cost of each role alone, fitted to short runs at steady rates; bytes are bytes on the wire in and out, "
        "frame headers included",
        "roles": {},
    }
    for role, plan in RUNS.items():
        vm = vms[VM[role]]
        idle = run(role, None)
        runs = []
        for kind in plan["kinds"] if role != "redis" else sorted(plan["kinds"], reverse=True):  # sets before gets
            for mode in ("keep", "short"):
                for rate in plan[mode]:
                    r = run(role, [kind, mode, str(rate), seconds])
                    runs.append({"kind": kind, "mode": mode, "rate": rate, **r})
        idle_cores = idle["cpu_s"] / idle["seconds"]
        rows = [[r["connections"] / r["cpu_s"], r["requests"] / r["cpu_s"], r["bytes"] / r["cpu_s"]] for r in runs]
        cost = nnls(rows, [max(0.0, 1 - idle_cores * r["seconds"] / r["cpu_s"]) for r in runs])
        for r in runs:
            r["fitted_cpu_s"] = (
                sum(c * r[k] for c, k in zip(cost, ("connections", "requests", "bytes"))) + idle_cores * r["seconds"]
            )
        errors = [abs(r["fitted_cpu_s"] / r["cpu_s"] - 1) for r in runs]
        held = []
        for n in HOLD[role]:
            p = subprocess.Popen(
                [*inside(role), *me, "hold", role, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            if p.stdout.readline() != "held\n":
                raise SystemExit(f"{role}: could not hold {n} connections")
            time.sleep(0.5)
            held.append((n, usage.memory_bytes(vm)))
            p.communicate("\n")
            time.sleep(0.5)
        base, each = line(held)
        doc["roles"][role] = {
            "cpu_s_per_connection": cost[0],
            "cpu_s_per_request": cost[1],
            "cpu_s_per_byte": cost[2],
            "idle_cpu_cores": idle_cores,
            "memory_base_bytes": round(base),
            "memory_per_connection_bytes": round(max(0, each)),
            "relative_error_mean": round(sum(errors) / len(errors), 4),
            "relative_error_max": round(max(errors), 4),
            "n": len(runs),
            "runs": [{k: round(v, 6) if isinstance(v, float) else v for k, v in r.items()} for r in runs],
            "memory_points": held,
        }
        print(
            role,
            {k: v for k, v in doc["roles"][role].items() if k not in ("runs", "memory_points")},
            file=sys.stderr,
            flush=True,
        )
    cpu = re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())
    version = lambda name: subprocess.run(["dpkg-query", "-W", "-f", "${Version}", name], capture_output=True, text=True).stdout
    doc["machine"] = {
        "cpu_model": cpu.group(1) if cpu else None,
        "cores": os.cpu_count(),
        "kernel": "Linux " + re.match(r"[0-9.]+", platform.release()).group(0),
        "network": "veth pairs and one router namespace, no offloads",
        "packages": {n: version(n) for n in ("nginx", "postgresql-15", "redis-server")},
    }
    with open(out, "w") as f:
        json.dump(doc, f, indent=1)
        f.write("\n")


if sys.argv[1] == "load":
    load(sys.argv[2], sys.argv[3], sys.argv[4], float(sys.argv[5]), float(sys.argv[6]))
elif sys.argv[1] == "hold":
    hold(sys.argv[2], int(sys.argv[3]))
else:
    main()
