"""An open-loop client: sends each request at its own time, drawn beforehand, whether or not earlier ones were answered.

Runs as a process of its own, in the load's namespace: reads one job (JSON) from its standard input, says "ready" when its
kept connections stand, begins at the next line, and prints what it saw. No measurement of the server is made here.
"""

from __future__ import annotations

import json
import math
import random
import select
import socket
import ssl
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from wires import DIALECTS, Dialect

MOST_CONNECTIONS = 48
PATIENCE_S = 4.0  # after the last request's time
AT_ONCE = 16  # connections being opened at a time, so that no server's backlog overflows
VARIANTS = 300  # different requests made beforehand of each kind


@dataclass
class Job:
    """What is to be sent. weights: kind -> its share; pool: connections kept, 0: one for each request; hold: only these."""

    address: str
    port: int
    dialect: str
    weights: dict[str, float]
    rate: float
    seconds: float
    seed: int
    pool: int = 4
    tls: bool = False
    prepare: bool = False
    hold: int = 0

    @property
    def keep(self) -> bool:
        return self.pool > 0 or self.hold > 0


@dataclass
class Connection:
    """One connection: what of its opening is still to be said, what it has got, and which request it is at."""

    sock: socket.socket
    opening: deque[bytes]
    request: int = -1
    got: bytearray = field(default_factory=bytearray)
    need: int = 0
    state: str = "connecting"  # connecting, handshake, opening, idle, busy
    answers_opening: bool = False


class Client:
    """Carries a job out; `sent`, `done` hold seconds since the beginning (NaN: never)."""

    def __init__(self, job: Job) -> None:
        self.job, self.dialect = job, DIALECTS[job.dialect]
        rng = random.Random(job.seed)
        self.kinds = sorted(job.weights)
        self.due, self.kind, self.text = _requests(job, self.dialect, self.kinds, rng)
        self.sent, self.done = [math.nan] * len(self.due), [math.nan] * len(self.due)
        self.ok = [False] * len(self.due)
        self.poll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.idle: list[Connection] = []
        self.waiting: deque[int] = deque()
        self.opened = self.broken = 0
        self.start = time.monotonic()
        self.tls = _unverified() if job.tls else None

    def open(self) -> Connection:
        raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.connect_ex((self.job.address, self.job.port))
        self.opened += 1
        each = Connection(raw, deque(self.dialect.opening(self.job.keep)))
        self.connections[raw.fileno()] = each
        self.poll.register(raw.fileno(), select.EPOLLOUT)
        return each

    def close(self, each: Connection) -> None:
        fd = each.sock.fileno()
        if fd >= 0:
            self.poll.unregister(fd)
            self.connections.pop(fd, None)
            each.sock.close()
        if each in self.idle:
            self.idle.remove(each)

    def fill(self, count: int) -> None:
        """Opens connections and logs in, until so many are idle. Raises OSError if they can't within 20 s."""
        end = time.monotonic() + 20
        while len(self.idle) < count:
            for _ in range(min(count - self.opened, AT_ONCE - len(self.connections) + len(self.idle))):
                self.open()
            self.turn(0.1)
            if time.monotonic() > end or self.broken > count:
                raise OSError(f"{len(self.idle)} of {count} connections stand after 20 s")

    def run(self) -> None:
        """Sends all requests at their times, and waits for the answers."""
        self.opened, self.start = 0, time.monotonic()
        due, at, total = self.due, 0, len(self.due)
        end = self.start + self.job.seconds + PATIENCE_S
        while (now := time.monotonic()) < end:
            while at < total and self.start + due[at] <= now:
                self.begin(at)
                at += 1
            if at == total and now >= self.start + self.job.seconds and not self.unfinished():
                break
            until = self.start + (due[at] if at < total else max(self.job.seconds, now - self.start + 0.05))
            self.turn(min(max(until - now, 0.0), 0.05))

    def unfinished(self) -> bool:
        return bool(self.waiting) or any(each.state != "idle" for each in self.connections.values())

    def begin(self, request: int) -> None:
        if self.idle:
            self.send(self.idle.pop(), request)
        elif not self.job.keep:
            self.open().request = request
        else:
            self.waiting.append(request)
            if len(self.connections) < MOST_CONNECTIONS:
                self.open()

    def send(self, each: Connection, request: int) -> None:
        each.request, each.state = request, "busy"
        self.sent[request] = time.monotonic() - self.start
        self.say(each, self.text[request])

    def say(self, each: Connection, text: bytes) -> None:
        each.got.clear()
        each.need = 0
        try:
            count = each.sock.send(text) if text else 0
            while count < len(text):  # a large request into a full buffer: rare, and soon over
                select.select([], [each.sock], [], 1.0)
                count += each.sock.send(text[count:])
        except OSError:
            self.lost(each)

    def turn(self, timeout_s: float) -> None:
        """Waits for sockets, at most so long (select has microseconds where epoll has milliseconds), and serves them."""
        select.select([self.poll], [], [], timeout_s)
        for fd, _ in self.poll.poll(0, 64):
            each = self.connections.get(fd)
            if each is None:
                continue
            try:
                self.serve(each)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                continue
            except OSError:
                self.lost(each)

    def serve(self, each: Connection) -> None:
        if each.state == "connecting":
            if error := each.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error)
            self.poll.modify(each.sock.fileno(), select.EPOLLIN)
            each.state = "handshake"
            if self.tls is not None:
                each.sock = self.tls.wrap_socket(each.sock, do_handshake_on_connect=False)
        if each.state == "handshake":
            if isinstance(each.sock, ssl.SSLSocket):
                each.sock.do_handshake()
            self.ready(each)
            return
        if each.state == "idle":
            raise OSError("closed, or said what nobody asked for")
        more = True
        while more:
            part = each.sock.recv(65536)
            if not part:
                raise OSError("closed by the server")
            each.got += part
            more = len(part) == 65536 or self.tls is not None
            if len(each.got) >= each.need and self.answered(each):
                return

    def answered(self, each: Connection) -> bool:
        each.need = self.dialect.length(each.got, each.state == "opening")
        if not each.need or len(each.got) < each.need:
            return False
        if each.state == "busy":
            self.done[each.request] = time.monotonic() - self.start
            self.ok[each.request] = not self.dialect.failed(each.got)
            each.request = -1
            if not self.job.keep:
                self.close(each)
                return True
        self.ready(each)
        return True

    def ready(self, each: Connection) -> None:
        """What a connection does next: its opening, the request it was opened for, one that waits, or nothing."""
        if each.opening:
            each.state = "opening"
            self.say(each, each.opening.popleft())
        elif each.request >= 0:
            self.send(each, each.request)
        elif self.waiting:
            self.send(each, self.waiting.popleft())
        else:
            each.state = "idle"
            self.idle.append(each)

    def lost(self, each: Connection) -> None:
        self.broken += 1
        self.close(each)

    def report(self) -> dict[str, Any]:
        answered = [i for i, done in enumerate(self.done) if not math.isnan(done)]
        late = sorted(self.sent[i] - self.due[i] for i in answered)
        by_kind = {}
        for k, kind in enumerate(self.kinds):
            took = sorted(self.done[i] - self.sent[i] for i in answered if self.kind[i] == k)
            if took:
                by_kind[kind] = _shape(took)
        return {
            "offered": len(self.due),
            "answered": len(answered),
            "failed": len(answered) - sum(self.ok),
            "connections": self.opened,
            "broken": self.broken,
            "late_ms_p99": round(1e3 * late[int(0.99 * (len(late) - 1))], 3) if late else None,
            "response": by_kind,
        }


def _unverified() -> ssl.SSLContext:
    """TLS that believes any certificate: the server's is its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _shape(took: list[float]) -> dict[str, float]:
    """Of response times in order: how many, median, mean and coefficient of variation, their highest 1 % left out."""
    kept = took[: max(1, math.ceil(0.99 * len(took)))]
    mean = sum(kept) / len(kept)
    variance = sum((t - mean) ** 2 for t in kept) / len(kept)
    return {
        "n": len(took),
        "p50_ms": round(1e3 * took[len(took) // 2], 4),
        "mean_ms": round(1e3 * mean, 4),
        "cv": round(math.sqrt(variance) / mean, 4),
    }


def _requests(job: Job, dialect: Dialect, kinds: list[str], rng: random.Random) -> tuple[list[float], list[int], list[bytes]]:
    """Poisson times, kinds drawn by weight, and texts."""
    variants = [[dialect.request(kind, rng, job.keep) for _ in range(VARIANTS)] for kind in kinds]
    due, at = [], rng.expovariate(job.rate)
    while at < job.seconds:
        due.append(at)
        at += rng.expovariate(job.rate)
    kind = rng.choices(range(len(kinds)), [job.weights[k] for k in kinds], k=len(due))
    return due, kind, [rng.choice(variants[k]) for k in kind]


def prepare(client: Client) -> None:
    """Makes the server's data, over one connection."""
    client.fill(1)
    texts = client.dialect.before()
    client.due, client.text, client.kind = [0.0] * len(texts), texts, [0] * len(texts)
    client.sent, client.done, client.ok = [math.nan] * len(texts), [math.nan] * len(texts), [False] * len(texts)
    for request in range(len(texts)):
        each = client.idle.pop()
        client.send(each, request)
        while each.state == "busy":
            client.turn(1.0)


def main() -> None:
    job = Job(**json.loads(sys.stdin.readline()))
    client = Client(job)
    if job.prepare:
        prepare(client)
    elif job.hold:
        client.fill(job.hold)
        while client.idle and client.due:  # each held connection asks once
            client.send(client.idle.pop(), 0)
        end = time.monotonic() + 5
        while client.due and client.unfinished() and time.monotonic() < end:
            client.turn(0.1)
    else:
        client.fill(job.pool)
    print("ready", flush=True)
    sys.stdin.readline()
    if not job.prepare and not job.hold:
        client.run()
    print(json.dumps(client.report()), flush=True)


if __name__ == "__main__":
    main()
