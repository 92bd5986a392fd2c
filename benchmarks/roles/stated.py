"""What the priors say that a measurement on one machine can't: properties of the software, and widths for what is unlike it.

Each with its reason. No figure here is fitted to anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

DAY_S = 86_400.0
MIB = float(1 << 20)


@dataclass(frozen=True)
class Common:
    """For all roles. Factors hold 80 % either way.

    machine_factor: other processors at the speed that is told of them, other kernels, network cards that segment and merge
    packets. other_factor: memory and storage, which follow settings and data. new_share, value_bytes: of requests to a cache
    that bring a new value (YCSB's workload D inserts with 5 %), and its size.
    """

    machine_factor: float = 1.5
    other_factor: float = 3.0
    new_share: float = 0.05
    value_bytes: float = 1000.0
    segment_bytes: float = 1448.0


@dataclass(frozen=True)
class Stated:
    """For one role. use_factor: for use unlike the workloads measured, as a factor that holds 80 % either way.

    logs: what it writes is by request, whatever else it receives, such as answers of servers behind it.
    requests_per_connection: its clients' doing. cache_bytes: its bound by Debian's defaults; kept_values: a cache of values.
    """

    software: str
    use_factor: float
    use_reason: str
    requests_per_connection: float
    servers: int | None = None
    discipline: Literal["fcfs", "ps"] = "fcfs"
    release_s: float = 300.0
    cache_bytes: float = 0.0
    kept_values: bool = False
    retention_s: float | None = None
    logs: bool = False
    not_measured: str = ""


COMMON = Common()

STATED: Mapping[str, Stated] = {
    "nginx": Stated("nginx, static files", 1.5, "modules, logs and rewriting", 3, retention_s=14 * DAY_S, logs=True,
                    not_measured=", days that logs are kept (Debian's 14)"),
    "nginx-tls": Stated("nginx, static files over TLS 1.3, RSA 2048 and ECDSA P-256, no resumption", 1.5,
                        "modules, resumed sessions", 3, retention_s=14 * DAY_S, logs=True,
                        not_measured=", days that logs are kept (Debian's 14)"),
    "haproxy": Stated("HAProxy in HTTP mode before nginx; bytes of both its sides", 1.5, "rules, TLS", 3, retention_s=7 * DAY_S,
                      logs=True, not_measured=", days that logs are kept (Debian's 7)"),
    "postgresql": Stated("PostgreSQL, durable, from point lookups to scans and sorts of some thousand rows", 2.0,
                         "other queries, larger data", 20, discipline="ps", release_s=0.0, cache_bytes=128 * MIB,
                         not_measured=", the bound of its buffers (the default, 128 MiB)"),
    "mysql": Stated("MariaDB, durable, the queries of postgresql", 2.0, "other queries, larger data", 20, discipline="ps",
                    cache_bytes=128 * MIB, not_measured=", the bound of its buffers (the default, 128 MiB)"),
    "redis": Stated("Redis without append-only file", 1.5, "scripts, large structures", 50, servers=1, cache_bytes=256 * MIB,
                    kept_values=True, not_measured=", the bound of its data (it has none by itself; 256 MiB is a guess)"),
    "memcached": Stated("memcached", 1.2, "multi-gets", 50, servers=4, cache_bytes=64 * MIB, kept_values=True,
                        not_measured=", the bound of its data (the default, 64 MiB)"),
    "app": Stated("uvicorn and Starlette, one process, half of it behind nginx, with templates, SQLite, reports and logins", 3.0,
                  "frameworks and what applications do differ", 3, logs=True,
                  not_measured=" (one process was measured; a process a core is taken, as is usual)"),
}  # fmt: skip

ALIASES: Mapping[str, str] = {
    "web": "nginx", "http": "nginx", "static": "nginx", "https": "nginx-tls", "tls": "nginx-tls", "caddy": "nginx-tls",
    "lb": "haproxy", "load-balancer": "haproxy", "loadbalancer": "haproxy", "proxy": "haproxy", "envoy": "haproxy",
    "traefik": "haproxy", "postgres": "postgresql", "pg": "postgresql", "pgsql": "postgresql", "mariadb": "mysql",
    "valkey": "redis", "keydb": "redis", "memcache": "memcached", "python": "app", "django": "app", "flask": "app",
    "fastapi": "app", "asgi": "app", "wsgi": "app", "api": "app",
}  # fmt: skip
"""Other names of measured roles. Software of a kind that wasn't measured (Apache, PHP, Java, Node) is generic."""
