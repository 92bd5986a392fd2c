"""What the stores' tests share: batches whose values say where they belong, and a run of a script in another process."""

from __future__ import annotations

import json
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import httpx
import numpy as np
import pytest
from tests import forked, servers
from tests.api.tap_server import Serving, serving

from adumbra.http_asking import HttpAccess
from adumbra.schema.metrics import METRICS
from adumbra.schema.records import NANOSECONDS, MetricBatch, Origin, Series, SeriesQuery
from adumbra.store.duckdb import DuckDBStore
from adumbra.store.influx import InfluxStore
from adumbra.store.influx_client import InfluxConfig
from adumbra.store.outbox import Outbox
from adumbra.store.prepared import Prepared
from adumbra.store.prometheus import PrometheusConfig, PrometheusStore
from adumbra.store.protocol import Abilities, MetricStore
from adumbra.store.served import ServedConfig, ServedStore
from adumbra.store.spool import Spool

Spawn = Callable[..., subprocess.Popen[str]]

EPOCH_S = 1_700_006_400
"""The tests' zero: the beginning of a day, which databases of any retention used here take."""


def at_ns(seconds: float) -> int:
    """So many seconds after the tests' zero, in ns since the epoch."""
    return EPOCH_S * NANOSECONDS + round(seconds * NANOSECONDS)


@dataclass(frozen=True)
class StoreKind:
    """How a kind of store is opened for a test: from a folder, and from the address of a server, "" where it has none."""

    open: Callable[[Path, str], MetricStore]
    server: str = ""
    """The fixture that starts its server and gives its address."""
    replaces: bool = True
    settle: Callable[[str], None] = lambda _: None
    """Makes the server at an address show what it took, where it does that a second later only."""
    exact: float = 1e-12
    """What may be lost of a number with a fraction, as a share; and by differences of long sums."""


def _prometheus(_: Path, url: str) -> PrometheusStore:
    return PrometheusStore(PrometheusConfig(HttpAccess(url, give_up_s=2.0), shards=2))


def _influx(_: Path, url: str) -> InfluxStore:
    return InfluxStore(InfluxConfig(HttpAccess(url, give_up_s=2.0), "contract"))


class Sent(Outbox):
    """An outbox that waits until what it takes has arrived, as the contract is on what is read after."""

    def write(self, batch: MetricBatch) -> int:
        replaced = super().write(batch)
        assert self.flush(60.0) == 0
        return replaced


def _spooled(folder: Path, url: str) -> Sent:
    return Sent("prometheus", _prometheus(folder, url), Spool(folder / "spool"))


def flushed(url: str) -> None:
    """VictoriaMetrics' /internal/force_flush, made for tests."""
    httpx.get(f"{url}/internal/force_flush").raise_for_status()


_SERVED: dict[str, Serving] = {}


@pytest.fixture(scope="session")
def served_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An Adumbra that serves, over DuckDB."""
    with serving(tmp_path_factory.mktemp("served")) as server:
        _SERVED[server.url] = server
        yield server.url


class Declared(ServedStore):
    """A store behind a server, which takes metrics of networks that were declared: each batch's is, before it is written."""

    def __init__(self, config: ServedConfig, server: Serving) -> None:
        super().__init__(config)
        self._server = server
        self._said: dict[str, tuple[set[str], float]] = {}
        self._turn = threading.Lock()

    def prepare(self, batch: MetricBatch) -> Prepared:
        prepared = super().prepare(batch)
        self._declare(batch)
        return prepared

    def amend(self, batch: MetricBatch) -> int:
        self._declare(batch)
        return super().amend(batch)

    def _declare(self, batch: MetricBatch) -> None:
        with self._turn:
            self._declared(batch)

    def _declared(self, batch: MetricBatch) -> None:
        state = self._server.workspace.state
        there = {each.name: each for each in state.networks()}
        said = self._said.get(batch.network, (set[str](), 0.0))
        if batch.network in there and said[0] >= set(batch.vms) and said[1] == batch.interval_s:
            return
        vms = said[0] | set(batch.vms) | {"unused"}
        spec = {
            "name": batch.network, "cidrs": ["10.0.0.0/8"], "subnets": [{"name": "s", "cidr": "10.0.0.0/8"}],
            "interval": f"{batch.interval_s:g}s",
            "vms": [
                {"name": vm, "subnet": "s", "addresses": [f"10.1.{n // 250}.{n % 250 + 1}"]} for n, vm in enumerate(sorted(vms))
            ],
        }  # fmt: skip
        act = state.update_network if batch.network in there else state.create_network
        act(batch.network, json.dumps(spec), 1)
        self._said[batch.network] = vms, batch.interval_s


def _served(_: Path, url: str) -> ServedStore:
    server = _SERVED[url]
    return Declared(ServedConfig((HttpAccess(url, token=server.token, give_up_s=2.0),)), server)


STORES: dict[str, StoreKind] = {
    "duckdb": StoreKind(lambda folder, _: DuckDBStore(folder / "metrics.duckdb")),
    "prometheus": StoreKind(_prometheus, "prometheus_url", replaces=False),
    "prometheus behind a spool": StoreKind(_spooled, "prometheus_url", replaces=False),
    "victoriametrics": StoreKind(_prometheus, "victoriametrics_url", replaces=False, settle=flushed, exact=1e-9),
    "influxdb": StoreKind(_influx, "influxdb_url"),
    "another adumbra": StoreKind(_served, "served_url"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that opens a store runs on all kinds of stores that promise what it is about."""
    if "opened" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker("replaces")
        metafunc.parametrize("opened", [name for name, kind in STORES.items() if kind.replaces or not marked], indirect=True)


class Apart:
    """A store in which a test's networks have names of their own, as servers outlive tests."""

    def __init__(self, store: MetricStore, kind: StoreKind, mark: str, address: str) -> None:
        self._store, self._mark, self.exact = store, mark, kind.exact
        self._settle = lambda: kind.settle(address)

    @property
    def abilities(self) -> Abilities:
        return self._store.abilities

    def __enter__(self) -> Self:
        self._store.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._store.__exit__(*exc)

    def write(self, batch: MetricBatch) -> int:
        replaced = self._store.write(replace(batch, network=self._mark + batch.network))
        self._settle()
        return replaced

    def amend(self, batch: MetricBatch) -> int:
        return self._store.amend(replace(batch, network=self._mark + batch.network))

    def read(self, query: SeriesQuery) -> Series:
        series = self._store.read(replace(query, network=self._mark + query.network))
        return replace(series, network=query.network)

    def vms(self, network: str) -> tuple[str, ...]:
        return self._store.vms(self._mark + network)

    def span(self, network: str, origin: Origin = Origin.SHADOW) -> tuple[int, int] | None:
        return self._store.span(self._mark + network, origin)

    def delete_network(self, network: str) -> int:
        return self._store.delete_network(self._mark + network)


@pytest.fixture
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], MetricStore]]:
    """Gives the same store, yet to be opened, as often as it is called."""
    kind, mark = STORES[request.param], f"t{secrets.token_hex(6)}-"
    with ExitStack() as own:
        if kind.server and kind.server != "served_url" and request.node.get_closest_marker("own_server"):
            make = getattr(servers, kind.server.removesuffix("_url"))
            folder = own.enter_context(servers.folder_of(make.__name__))
            address = own.enter_context(servers.running(make(folder))).url
        else:
            address = request.getfixturevalue(kind.server) if kind.server else ""
        yield lambda: Apart(kind.open(tmp_path, address), kind, mark, address)


@pytest.fixture
def store(opened: Callable[[], MetricStore]) -> Iterator[MetricStore]:
    with opened() as store:
        yield store


def make_batch(
    starts_s: list[float],
    vms: tuple[str, ...] = ("web-1", "db"),
    *,
    network: str = "shop",
    interval_s: float = 1.0,
    value: float = 1.0,
    origin: Origin = Origin.SHADOW,
) -> MetricBatch:
    """A batch in which every metric of VM number v has the value `value` + v in every interval."""
    shape = (len(starts_s), len(vms))
    starts_ns = np.array([at_ns(s) for s in starts_s], np.int64)
    one_row = value + np.arange(len(vms))
    columns = {
        metric.name: np.broadcast_to(one_row, shape).astype(np.int64 if metric.whole else np.float64) for metric in METRICS
    }
    sided = np.zeros(shape, np.bool_)
    labels = {"subnets": ("data",) * len(vms), "roles": tuple("web" if vm.startswith("web") else "db" for vm in vms)}
    return MetricBatch(network, interval_s, vms, starts_ns, columns, sided, "pcap:test.pcap", origin, **labels)


@pytest.fixture
def batch() -> Callable[..., MetricBatch]:
    return make_batch


DATABASES = ("sqlite", "postgresql")
"""Where the state may be kept."""


@pytest.fixture(params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | str]:
    """Where a state store is to be made: a file, and a database of its own in a PostgreSQL server."""
    if request.param == "sqlite":
        yield tmp_path / "state.sqlite"
    else:
        with database_of(request.getfixturevalue("postgresql_url")) as url:
            yield url


@contextmanager
def database_of(server_url: str) -> Iterator[str]:
    """The URL of a new database, which goes in the end, whoever is in it."""
    import psycopg

    name = f"state_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield server_url.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts `another_process.py` with arguments; whatever still runs when the test ends is killed."""
    script = Path(__file__).with_name("another_process.py")
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        process = forked.Forked(str(script), *map(str, arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
