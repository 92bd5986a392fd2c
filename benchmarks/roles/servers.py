"""Starts the servers of each role in their place, with Debian's packages and as near to their defaults as can be.

Knows how to install them, to make their data, and where that lies. Measures nothing.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import BACKEND, SERVER, MeasureError, Place, sh
from plan import Role
from wires import ACCOUNTS, ITEMS, WORDS

HERE = Path(__file__).parent
FILES = {"f1k": 1000, "f8k": 8000, "f64k": 64_000, "f512k": 512_000}


@dataclass(frozen=True)
class Running:
    """A server that runs. data: the folder whose growth is what was written to stay; passing: parts of it that don't stay."""

    data: Path
    passing: tuple[str, ...] = ()


def install(packages: list[str]) -> None:
    """Installs Debian packages that aren't there. Raises MeasureError with apt's complaint."""
    missing = [name for name in packages if subprocess.run(["dpkg-query", "-W", name], capture_output=True).returncode]
    if missing:
        print(f"installing {' '.join(missing)} (apt-get)", file=sys.stderr, flush=True)
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # no service is started by it
        words = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        done = subprocess.run(words, capture_output=True, text=True, env=env)
        if done.returncode:
            raise MeasureError(f"apt-get install {' '.join(missing)}: {done.stderr.strip()[-500:]}")


@contextmanager
def running(role: Role, place: Place, backend: Place) -> Iterator[Running]:
    """The role's servers, ready to be asked; ended afterwards. `backend`: where what stands behind a proxy runs."""
    try:
        made = STARTS[role.name](place, backend)
        for port in {workload.port or role.port for workload in role.workloads}:
            _await(place, SERVER, port)
        yield made
    finally:
        place.stop()
        backend.stop()


def _await(place: Place, address: str, port: int) -> None:
    """Waits until a port of the namespace takes connections."""
    ask = f"import socket; socket.create_connection(({address!r}, {port}), 1)"
    for _ in range(150):
        try:
            place.run(["/usr/bin/python3", "-c", ask])
        except MeasureError:
            if not place.alive():
                break
            time.sleep(0.1)
        else:
            return
    raise MeasureError(f"no server at {address}:{port}; it said: {place.said()}")


def _files(folder: Path) -> Path:
    www = folder / "www"
    www.mkdir()
    rng = random.Random(1)
    for name, size in FILES.items():
        (www / name).write_bytes(rng.randbytes(size))
    text = " ".join(f"<p class='{rng.choice(WORDS)}'>{rng.choice(WORDS)} {rng.randrange(1000)}</p>" for _ in range(2000))
    (www / "text.html").write_text(text[:24_000])
    for path in (folder, www):
        path.chmod(0o755)
    return www


def _nginx(place: Place, address: str, listens: str, locations: str = "") -> Path:
    d = place.folder
    www = _files(d)
    (d / "tmp").mkdir()
    temporary = " ".join(
        f"{kind}_temp_path {d}/tmp/{kind[0]};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (d / "nginx.conf").write_text(f"""
daemon off; user www-data; worker_processes 1; pid {d}/nginx.pid; error_log {d}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  types {{ text/html html; }}
  default_type application/octet-stream;
  access_log {d}/access.log; {temporary}
  sendfile on; tcp_nopush on; if_modified_since before; keepalive_timeout 65; keepalive_requests 10000; gzip on;
  upstream app {{ server {address}:8000; keepalive 16; }}
  {listens}
}}
""".replace("ROOT", f"root {www}; {locations}"))  # fmt: skip
    place.start(["/usr/sbin/nginx", "-e", f"{d}/error.log", "-c", f"{d}/nginx.conf"])
    return d


def _start_nginx(place: Place, _: Place) -> Running:
    return Running(_nginx(place, SERVER, f"server {{ listen {SERVER}:80 backlog=1024; ROOT }}"))


def _start_tls(place: Place, _: Place) -> Running:
    d = place.folder
    for name, kind in (("rsa", ["-newkey", "rsa:2048"]), ("ecdsa", ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])):
        sh("openssl", "req", "-x509", "-nodes", "-days", "3", *kind, "-subj", "/CN=site.example", "-keyout", f"{d}/{name}.key",
           "-out", f"{d}/{name}.crt")  # fmt: skip
    server = "server {{ listen {0}:{1} ssl backlog=1024; ssl_certificate {2}/{3}.crt; ssl_certificate_key {2}/{3}.key; ROOT }}"
    return Running(_nginx(place, SERVER, server.format(SERVER, 443, d, "rsa") + server.format(SERVER, 8443, d, "ecdsa")))


def _start_haproxy(place: Place, backend: Place) -> Running:
    _nginx(backend, BACKEND, f"server {{ listen {BACKEND}:80 backlog=1024; ROOT }}")
    _await(backend, BACKEND, 80)
    d = place.folder
    (d / "haproxy.cfg").write_text(f"""
global
  nbthread 1
  maxconn 4000
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  timeout connect 5s
  timeout client 50s
  timeout server 50s
frontend site
  bind {SERVER}:80
  default_backend files
backend files
  server one {BACKEND}:80
""")
    place.start(["/usr/sbin/haproxy", "-db", "-f", f"{d}/haproxy.cfg"])
    return Running(d)


def _sql(mysql: bool) -> str:
    """The tables, and a transfer in a procedure, for PostgreSQL or MySQL."""
    rng = random.Random(2)
    key = "INT AUTO_INCREMENT PRIMARY KEY" if mysql else "SERIAL PRIMARY KEY"
    out = [
        "CREATE TABLE item (id INT PRIMARY KEY, category INT, name VARCHAR(80), price INT, stock INT, description VARCHAR(400));",
        "CREATE TABLE review (id INT PRIMARY KEY, item INT, stars INT, body VARCHAR(400));",
        "CREATE TABLE account (id INT PRIMARY KEY, balance INT, filler VARCHAR(100));",
        "CREATE TABLE branch (id INT PRIMARY KEY, balance INT);",
        f"CREATE TABLE event (id {key}, item INT, body VARCHAR(400), made TIMESTAMP DEFAULT CURRENT_TIMESTAMP);",
    ]

    def rows(table: str, values: Iterator[str]) -> None:
        batch = list(values)
        out.extend(f"INSERT INTO {table} VALUES {','.join(batch[i : i + 1000])};" for i in range(0, len(batch), 1000))

    def text(n: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(n))

    rows(
        "item",
        (f"({i},{i % 40},'{text(3)}',{rng.randrange(100, 20000)},{rng.randrange(9999)},'{text(28)}')" for i in range(ITEMS)),
    )
    rows("review", (f"({i},{rng.randrange(ITEMS)},{rng.randrange(1, 6)},'{text(20)}')" for i in range(2 * ITEMS)))
    rows("account", (f"({i},0,'{'x' * 80}')" for i in range(ACCOUNTS)))
    rows("branch", (f"({i},0)" for i in range(10)))
    body = (
        "UPDATE account SET balance = balance + 7 WHERE id = a; UPDATE branch SET balance = balance + 7 WHERE id = MOD(a, 10); "
        "INSERT INTO event (item, body) VALUES (a, 'transfer');"
    )
    out += ["CREATE INDEX by_price ON item (category, price);", "CREATE INDEX by_item ON review (item);"]
    if mysql:
        out.append(
            f"DELIMITER //\nCREATE PROCEDURE transfer(a INT) BEGIN START TRANSACTION; {body} COMMIT; "
            "SELECT balance FROM account WHERE id = a; END//\nDELIMITER ;\nANALYZE TABLE item, review, account;"
        )
    else:
        out.append(
            f"CREATE FUNCTION transfer(a INT) RETURNS INT LANGUAGE plpgsql AS $$ BEGIN {body} "
            "RETURN (SELECT balance FROM account WHERE id = a); END $$; VACUUM ANALYZE; CHECKPOINT;"
        )
    return "\n".join(out)


def _again(place: Place, words: list[str], port: int) -> None:
    """Ends a server and starts it anew, so that loading its data has left nothing in its memory."""
    place.stop()
    place.start(words)
    _await(place, SERVER, port)


def _start_postgresql(place: Place, _: Place) -> Running:
    d, data = place.folder, place.folder / "data"
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        raise MeasureError("no PostgreSQL under /usr/lib/postgresql; apt-get install postgresql")
    shutil.chown(d, "postgres")
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    place.run([*as_user, str(found[-1] / "initdb"), "-D", str(data), "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"])
    with (data / "postgresql.conf").open("a") as file:  # a checkpoint a minute, so that runs of seconds have their share of it
        file.write(f"listen_addresses='{SERVER}'\nunix_socket_directories='{d}'\ncheckpoint_timeout=60s\n")
    with (data / "pg_hba.conf").open("a") as file:
        file.write("host all all 10.77.0.0/24 trust\n")
    server = [*as_user, str(found[-1] / "postgres"), "-D", str(data)]
    place.start(server)
    _await(place, SERVER, 5432)
    psql = [*as_user, str(found[-1] / "psql"), "-q", "-v", "ON_ERROR_STOP=1", "-h", SERVER, "-U", "postgres"]
    time.sleep(0.5)
    place.run([*psql, "-d", "postgres", "-c", "CREATE DATABASE bench"])
    place.run([*psql, "-d", "bench"], _sql(mysql=False))
    _again(place, server, 5432)
    return Running(data, ("pg_wal",))


def _start_mysql(place: Place, _: Place) -> Running:
    d, data = place.folder, place.folder / "data"
    place.run(
        ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=mysql", "--auth-root-authentication-method=normal"]
    )
    for path in (d, data):
        shutil.chown(path, "mysql")
    server = ["/usr/sbin/mariadbd", "--no-defaults", f"--datadir={data}", "--user=mysql", f"--bind-address={SERVER}",
                 f"--socket={d}/socket", f"--pid-file={d}/pid", "--skip-name-resolve"]  # fmt: skip
    place.start(server)
    _await(place, SERVER, 3306)
    client = ["mariadb", "--no-defaults", f"--socket={d}/socket", "-u", "root"]
    place.run(client, "CREATE DATABASE bench; CREATE USER bench@'%'; GRANT ALL ON bench.* TO bench@'%';")
    place.run([*client, "bench"], _sql(mysql=True))
    _again(place, server, 3306)
    return Running(data, ("ib_logfile0", "ibtmp1"))


def _start_redis(place: Place, _: Place) -> Running:
    return start_redis(place, append=False)


def start_redis(place: Place, append: bool) -> Running:
    """Redis with Debian's snapshots and, if asked, its append-only file too (written at once, synced every second)."""
    data = place.folder / ("aof" if append else "data")
    data.mkdir()
    place.start(["redis-server", "--bind", SERVER, "--port", "6379", "--protected-mode", "no", "--dir", str(data), "--daemonize", "no",
                 "--appendonly", "yes" if append else "no", "--appendfsync", "everysec"])  # fmt: skip
    if append:
        _await(place, SERVER, 6379)
    return Running(data)


def _start_memcached(place: Place, _: Place) -> Running:
    place.start(["memcached", "-l", SERVER, "-p", "11211", "-U", "0", "-m", "64", "-c", "1024", "-u", "nobody"])
    return Running(place.folder)


def _start_app(place: Place, _: Place) -> Running:
    env = {"APP_DATA": str(place.folder / "app.db"), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    place.start(
        ["/usr/bin/python3", "-m", "uvicorn", "asgi:app", "--app-dir", str(HERE), "--host", SERVER, "--port", "8000"], env
    )
    location = 'location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }'
    files = f"location ~ ^/f[0-9] {{ root {place.folder}/www; }}"
    _nginx(place, SERVER, f"server {{ listen {SERVER}:80 backlog=1024; {location} {files} }}")
    return Running(place.folder)


STARTS: dict[str, Callable[[Place, Place], Running]] = {
    "nginx": _start_nginx, "nginx-tls": _start_tls, "haproxy": _start_haproxy, "postgresql": _start_postgresql,
    "mysql": _start_mysql, "redis": _start_redis, "memcached": _start_memcached, "app": _start_app,
}  # fmt: skip


def folder_bytes(running: Running) -> int:
    """Space on disk of what stays of the server's data."""
    total = 0
    for root, folders, files in os.walk(running.data):
        folders[:] = [name for name in folders if name not in running.passing]
        for name in files:
            if name not in running.passing:
                try:
                    total += os.stat(os.path.join(root, name)).st_blocks * 512
                except FileNotFoundError:
                    continue
    return total


def installed_bytes(packages: list[str]) -> int:
    """Space that packages take where they are installed."""
    out = sh("dpkg-query", "-W", "-f", "${Installed-Size}\\n", *packages)
    return 1024 * sum(int(line) for line in out.split())


def versions(packages: list[str]) -> dict[str, str]:
    """The installed version of each package."""
    out = sh("dpkg-query", "-W", "-f", "${Package} ${Version}\\n", *packages)
    found = (line.split(" ", 1) for line in out.splitlines())
    return {name: version for name, version in found if version}
