"""What is measured: the roles, their kinds of request, and the workloads (mixes of kinds) that stand for how they are used.

The mixes follow what common load tests of each kind of server do (see README.md), and were fixed before anything was fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FOUND, PRESENT = 0.03, 0.30  # cores in use, at the second and third rate of a workload
LOWEST = 10.0  # requests a second at the first rate: where every request finds the machine asleep and its caches cold


@dataclass(frozen=True)
class Workload:
    """A mix of kinds (kind -> share), on one of the role's ports, and the most requests a second of it (0: the role's)."""

    name: str
    weights: Mapping[str, float]
    port: int = 0
    most: float = 0.0


@dataclass(frozen=True)
class Role:
    """One role: how it is asked, its workloads, and the most requests a second that are tried (kept, new connections).

    holds: how many connections are held to see what one takes of memory.
    """

    name: str
    dialect: str
    port: int
    workloads: tuple[Workload, ...]
    most: tuple[float, float]
    holds: tuple[int, ...]
    packages: tuple[str, ...]
    tls: bool = False
    sized: tuple[str, ...] = ()  # the packages whose files the server needs, if not `packages`


def _mix(name: str, port: int = 0, **weights: float) -> Workload:
    return Workload(name, {kind.replace("_", "."): weight for kind, weight in weights.items()}, port)


FILES = (
    _mix("small", f1k=1.0),
    _mix("site", f1k=0.3, f8k=0.35, f64k=0.15, same=0.2),
    _mix("cookies", cookie=1.0),
    _mix("images", f8k=0.3, f64k=0.7),
    Workload("downloads", {"f512k": 1.0}, most=80),
)
SQL_MIXES = (
    _mix("lookup", point=1.0),
    _mix("oltp-read", point=0.7, range=0.15, sum=0.15),
    _mix("oltp", point=0.5, range=0.1, sum=0.1, update=0.2, insert=0.1),
    _mix("writes", insert=0.5, update=0.5),
    _mix("transfers", transfer=1.0),
    _mix("browse", point=0.45, range=0.3, join=0.15, scan=0.05, insert=0.05),
    _mix("report", group=0.3, sort=0.2, scan=0.2, join=0.3),
)

ROLES: tuple[Role, ...] = (
    Role("nginx", "http", 80, (*FILES, _mix("text", text=0.5, f8k=0.3, same=0.2)), (3000, 800), (1, 100, 200, 400),
         ("nginx-light",)),
    Role("nginx-tls", "http", 443, (*FILES, _mix("site-ecdsa", 8443, f1k=0.3, f8k=0.35, f64k=0.15, same=0.2)), (1500, 120),
         (1, 50, 100, 200), ("nginx-light", "openssl"), tls=True),
    Role("haproxy", "http", 80, FILES, (2500, 600), (1, 100, 200, 400), ("haproxy", "nginx-light")),
    Role("postgresql", "postgres", 5432, SQL_MIXES, (2500, 150), (1, 15, 30, 45), ("postgresql",), sized=("postgresql-[0-9]*", "postgresql-common")),
    Role("mysql", "mysql", 3306, SQL_MIXES, (2500, 300), (1, 30, 60, 120), ("mariadb-server",), sized=("mariadb-server", "mariadb-server-core", "mariadb-common")),
    Role("redis", "resp", 6379, (
        _mix("cache", get1k=0.95, set1k=0.05), _mix("sessions", get1k=0.5, set1k=0.5), _mix("small", get100=0.9, set100=0.1),
        _mix("large", get10k=0.8, set10k=0.2), _mix("counters", incr=0.7, zadd=0.3),
        _mix("structures", rank=0.3, hash=0.4, mget=0.3),
    ), (5000, 800), (1, 100, 200, 400), ("redis-server",), sized=("redis-server", "redis-tools")),
    Role("memcached", "memcache", 11211, (
        _mix("cache", get1k=0.95, set1k=0.05), _mix("sessions", get1k=0.5, set1k=0.5), _mix("small", get100=0.9, set100=0.1),
        _mix("large", get10k=0.8, set10k=0.2), _mix("many", many=1.0),
    ), (5000, 800), (1, 100, 200, 400), ("memcached",)),
    Role("app", "http", 8000, (
        _mix("plain", plain=1.0), _mix("api", json=0.7, list=0.1, form=0.2),
        _mix("api-proxied", 80, json=0.7, list=0.1, form=0.2), _mix("pages", 80, page=0.5, rows=0.2, f8k=0.3),
        _mix("service", rows=0.6, json=0.4), _mix("reports", 80, report=0.5, page=0.5), _mix("accounts", 80, login=0.05, page=0.95),
    ), (1500, 400), (1, 30, 60, 120), ("uvicorn", "python3-starlette", "python3-jinja2", "python3-multipart", "nginx-light")),
)  # fmt: skip


def role_named(name: str) -> Role:
    """The role of a name. Raises KeyError."""
    return {role.name: role for role in ROLES}[name]


def kinds_of(role: Role) -> list[tuple[str, int]]:
    """Every kind of a role once, and a port where it is served."""
    found: dict[str, int] = {}
    for workload in role.workloads:
        for kind in workload.weights:
            found.setdefault(kind, workload.port or role.port)
    return list(found.items())
