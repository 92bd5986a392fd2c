"""The InfluxDB store beyond the contract: its write paths, refusals, garbage, outages, secrets, odd names, small answers."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qsl

import httpx
import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import servers
from tests.store.conftest import at_ns, flushed, make_batch
from tests.store.fakes import Asked, Fake, Reply, fake
from tests.store.line_protocol import Point, read_lines

from adumbra.http_asking import HttpAccess
from adumbra.schema.errors import InputError, StoreError, StoreUnavailableError
from adumbra.schema.metrics import METRICS, NAMES
from adumbra.schema.records import NANOSECONDS, MetricBatch, SeriesQuery
from adumbra.store import influx_amend, influx_client, influx_rows, influx_series, lines
from adumbra.store.influx import InfluxStore
from adumbra.store.influx_client import InfluxConfig
from adumbra.store.prepared import dump, load

NAN = math.nan
NOTHING = json.dumps({"results": [{"statement_id": 0}]}) + "\n" + json.dumps({"results": [{"statement_id": 1}]})
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Say:
    """An answer. pieces: the body, each piece after a pause of pause_s; length: what is said of it, None: what is right."""

    status: int = 204
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    pieces: int = 1
    pause_s: float = 0.0
    length: int | None = None

    def reply(self) -> Reply | Callable[[BaseHTTPRequestHandler], None]:
        return self._slowly if self.pieces > 1 else (self.status, self.body, self._headers())

    def _headers(self) -> dict[str, str]:
        return (
            self.headers if self.length is None else {**self.headers, "Content-Length": str(self.length), "Connection": "close"}
        )

    def _slowly(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response_only(self.status)
        handler.send_header("Content-Length", str(len(self.body)))
        handler.end_headers()
        size = -(-len(self.body) // self.pieces)
        with suppress(OSError):  # whoever asked has had enough
            for first in range(0, len(self.body), size):
                time.sleep(self.pause_s)
                handler.wfile.write(self.body[first : first + size])


def is_write(asked: Asked) -> bool:
    return asked.path.partition("?")[0].endswith("/write")


def query_of(asked: Asked) -> dict[str, str]:
    return dict(parse_qsl(asked.path.partition("?")[2], strict_parsing=True))


def points_of(asked: Asked) -> list[Point]:
    return read_lines(gzip.decompress(asked.body) if asked.headers.get("content-encoding") == "gzip" else asked.body)


def empty(write: Callable[[Asked], Say]) -> Callable[[Asked], Say]:
    """A server with nothing in it that takes writes as told."""

    def answer(asked: Asked) -> Say:
        if is_write(asked):
            return write(asked)
        statements = asked.form["q"].count(";") + 1
        said = "\n".join(json.dumps({"results": [{"statement_id": number}]}) for number in range(statements))
        return Say(200, said.encode())

    return answer


@contextmanager
def store_at(url: str, database: str = "contract", *, give_up_s: float = 0.0, **config: object) -> Iterator[InfluxStore]:
    access = {
        name: config.pop(name) for name in ("user", "password", "token", "token_file", "headers", "timeout_s") if name in config
    }
    with InfluxStore(InfluxConfig(HttpAccess(url, give_up_s=give_up_s, **access), database, **config)) as store:  # type: ignore[arg-type]
        yield store


@contextmanager
def faked(answer: Callable[[Asked], Say], **config: object) -> Iterator[tuple[Fake, InfluxStore]]:
    with fake(lambda asked: answer(asked).reply()) as server, store_at(server.url, **config) as store:  # type: ignore[arg-type]
        yield server, store


def refusing(status: int, message: str, **headers: str) -> Callable[[Asked], Say]:
    return empty(lambda _: Say(status, json.dumps({"error": message}).encode(), headers))


class TestWritePaths:
    def test_v1(self) -> None:
        with faked(empty(lambda _: Say()), database="metrics", user="me", password="secret") as (server, store):
            store.write(make_batch([1]))
        (write,) = filter(is_write, server.asked)
        assert (write.method, write.path.partition("?")[0], query_of(write)) == (
            "POST",
            "/write",
            {"db": "metrics", "precision": "ns"},
        )
        assert write.headers["authorization"] == "Basic " + base64.b64encode(b"me:secret").decode()
        assert len(points_of(write)) == 6

    def test_v2(self) -> None:
        config = {"database": "", "org": "our org", "bucket": "metrics/30d", "token": "t0ken", "headers": {"X-Tenant": "7"}}
        with faked(empty(lambda _: Say()), **config) as (server, store):
            store.write(make_batch([1, 2]))
        (write,) = filter(is_write, server.asked)
        assert (write.method, write.path.partition("?")[0]) == ("POST", "/api/v2/write")
        assert query_of(write) == {"org": "our org", "bucket": "metrics/30d", "precision": "ns"}
        assert write.headers["authorization"] == "Token t0ken"
        assert write.headers["x-tenant"] == "7"
        assert write.headers["content-type"] == "text/plain; charset=utf-8"
        points = points_of(write)
        assert {(dict(point.tags)["vm"], point.time_ns) for point in points} == {
            (vm, at_ns(second)) for vm in ("web-1", "db") for second in (1, 2)
        }
        assert {asked.form["db"] for asked in server.asked if not is_write(asked)} == {"metrics/30d"}

    @pytest.mark.parametrize(("compressed", "want"), [(None, None), (True, "gzip"), (False, None)])
    def test_bodies_are_compressed_where_that_is_asked_for(self, compressed: bool | None, want: str | None) -> None:
        with faked(empty(lambda _: Say()), gzip=compressed) as (server, store):
            store.write(make_batch([1]))
        (write,) = filter(is_write, server.asked)
        assert write.headers.get("content-encoding") == want
        assert len(points_of(write)) == 6

    @pytest.mark.parametrize(
        ("url", "want"),
        [("http://127.0.0.1:1", False), ("http://localhost", False), ("http://[::1]:1", False), ("https://a", True)],
    )
    def test_bodies_are_compressed_for_other_hosts(self, url: str, want: bool) -> None:
        assert InfluxConfig(HttpAccess(url)).compresses is want

    def test_other_paths(self) -> None:
        with faked(empty(lambda _: Say()), write="/influx/write?u=1", read="/influx/query") as (server, store):
            store.write(make_batch([1]))
        assert {asked.path.partition("?")[0] for asked in server.asked} == {"/influx/write", "/influx/query"}
        assert {query_of(asked)["u"] for asked in server.asked if is_write(asked)} == {"1"}

    @pytest.mark.parametrize("config", [{"shards": 0}, {"org": "a"}])
    def test_what_can_not_be_is_refused(self, config: dict[str, object]) -> None:
        with pytest.raises(InputError):
            InfluxConfig(HttpAccess("http://a"), **config)  # type: ignore[arg-type]

    def test_a_constructor_opens_nothing_and_opening_asks_nothing(self) -> None:
        store = InfluxStore(InfluxConfig(HttpAccess("http://127.0.0.1:9", give_up_s=0.0)))
        with pytest.raises(RuntimeError, match="isn't open"):
            store.write(make_batch([1]))
        with store, pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:9.*can't be reached"):
            store.write(make_batch([1]))

    def test_victoriametrics_takes_the_very_same_lines(self, victoriametrics_url: str) -> None:
        network = f"lines{next(_NUMBERS)}"
        rng = np.random.default_rng(5)
        whole = make_batch([10, 20, 30], network=network)
        columns = {m.name: rng.integers(0, 2**40, (3, 2)) if m.whole else rng.exponential(1e3, (3, 2)) for m in METRICS}
        columns["cpu_seconds"][1, 0] = NAN
        for block in lines.blocks(replace(whole, columns=columns)):
            httpx.post(f"{victoriametrics_url}/write?precision=ns", content=block).raise_for_status()
        flushed(victoriametrics_url)
        select = f'{{network="{network}",vm="web-1",interval="1s",subnet="data",role="web"}}[60s]'
        query = {"query": select, "time": str(at_ns(40) // NANOSECONDS), "nocache": "1"}
        found = httpx.get(f"{victoriametrics_url}/api/v1/query", params=query).json()["data"]["result"]
        told = {
            each["metric"]["__name__"]: {float(at) * NANOSECONDS: float(value) for at, value in each["values"]}
            for each in found
        }
        for name in NAMES:
            want = {float(at): value for at, value in zip(whole.start_ns, columns[name][:, 0], strict=True) if value == value}
            assert told[f"adumbra_vm_{name}"] == pytest.approx(want, rel=1e-9), name


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "message", "want"),
        [
            (400, "partial write: field type conflict: input field x is type float dropped=2", {"type_conflict": 2}),
            (400, "partial write: points beyond retention policy dropped=3", {"too_old": 3}),
            (400, "partial write: max-values-per-tag limit exceeded (100000/100000) dropped=6", {"limit": 6}),
            (400, "partial write: unable to parse 'a': x\nunable to parse 'b': x dropped=0", {"unreadable": 2}),
            (400, "unable to parse 'a': x", {"unreadable": 6}),
            (422, "failure writing points to database: partial write: field type conflict: x dropped=1", {"type_conflict": 1}),
            (400, "we like none of it", {"status_400": 6}),
        ],
    )
    def test_what_a_server_refuses_is_dropped_and_counted_by_reason(
        self, status: int, message: str, want: dict[str, int]
    ) -> None:
        with faked(refusing(status, message)) as (server, store), structlog.testing.capture_logs() as said:
            store.write(make_batch([1]))
            store.write(make_batch([2]))
        counters = store.counters()
        assert counters.dropped == {reason: 2 * count for reason, count in want.items()}
        assert counters.samples == 12 - 2 * sum(want.values())
        assert len([asked for asked in server.asked if is_write(asked)]) == 2
        (warning,) = said  # once a minute at most
        assert (warning["reason"], warning["status"]) == (next(iter(want)), status)

    def test_too_large_a_body_goes_in_pieces(self) -> None:
        taken: list[Point] = []

        def small_ones(asked: Asked) -> Say:
            if len(asked.body) > 3_000 and asked.body.count(b"\n") > 1:
                return Say(413, b'{"error":"Request Entity Too Large"}')
            taken.extend(points_of(asked))
            return Say()

        with faked(empty(small_ones)) as (_, store):
            store.write(make_batch([1, 2, 3]))
        assert len(taken) == len({(point.tags, point.time_ns) for point in taken}) == 18
        assert (store.counters().samples, store.counters().dropped) == (18, {})

    def test_a_line_that_is_too_large_by_itself_is_dropped(self) -> None:
        with faked(refusing(413, "Request Entity Too Large")) as (_, store):
            store.write(make_batch([1]))
        assert store.counters().dropped == {"too_large": 6}

    @pytest.mark.parametrize(
        ("status", "message", "said"),
        [
            (401, "authorization failed", "does not let us in"),
            (403, "user is not authorized", "does not let us in"),
            (404, "bucket not found", "make the bucket"),
            (405, "", "give the right path by write="),
            (302, "", "sends us to"),
        ],
    )
    def test_what_an_administrator_can_mend_loses_nothing(self, status: int, message: str, said: str) -> None:
        with faked(refusing(status, message), give_up_s=5.0) as (server, store):
            with pytest.raises(StoreUnavailableError, match=said):
                store.write(make_batch([1]))
            assert store.counters().dropped == {}
            server.answer = lambda asked: empty(lambda _: Say())(asked).reply()
            store.write(make_batch([1]))
            assert store.counters().samples == 6

    def test_a_database_that_is_not_there_is_made(self) -> None:
        made: list[str] = []

        def answer(asked: Asked) -> Say:
            if is_write(asked):
                return Say() if made else Say(404, b'{"error":"database not found: \\"contract\\""}')
            if asked.form["q"].startswith("CREATE"):
                made.append(asked.form["q"])
            return empty(lambda _: Say())(asked)

        with faked(answer) as (_, store):
            store.write(make_batch([1]))
        assert made == ['CREATE DATABASE "contract"']
        assert store.counters().samples == 6

    def test_a_database_that_can_not_be_made_is_told(self) -> None:
        def answer(asked: Asked) -> Say:
            if is_write(asked):
                return Say(404, b'{"error":"database not found: \\"contract\\""}')
            if asked.form["q"].startswith("CREATE"):
                return Say(200, b'{"results":[{"statement_id":0,"error":"no right to"}]}')
            return empty(lambda _: Say())(asked)

        with faked(answer) as (_, store), pytest.raises(StoreUnavailableError, match=r"can't be made.*no right to.*make it"):
            store.write(make_batch([1]))


class TestOutages:
    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_what_passes_is_tried_again(self, status: int) -> None:
        left = [Say(status, b"busy", {"Retry-After": "0"})] * 2

        with faked(empty(lambda _: left.pop() if left else Say()), give_up_s=20.0) as (server, store):
            store.write(make_batch([1]))
        assert len([asked for asked in server.asked if is_write(asked)]) == 3
        assert (store.counters().retries, store.counters().samples) == (2, 6)

    def test_what_a_server_asks_for_is_waited(self) -> None:
        left = [Say(429, b"busy", {"Retry-After": "1"})]
        with faked(empty(lambda _: left.pop() if left else Say()), give_up_s=20.0) as (_, store):
            began = time.monotonic()
            store.write(make_batch([1]))
        assert 1.0 <= time.monotonic() - began < 5.0

    def test_it_is_given_up_after_the_stated_time(self) -> None:
        began = time.monotonic()
        with faked(refusing(503, "down"), give_up_s=1.0) as (server, store):
            with pytest.raises(StoreUnavailableError, match=r"503.*down"):
                store.write(make_batch([1]))
            assert time.monotonic() - began < 5.0
            assert len([asked for asked in server.asked if is_write(asked)]) > 1

    def test_an_answer_that_dribbles_is_not_waited_for(self) -> None:
        slow = Say(200, NOTHING.encode() * 1000, pieces=1000, pause_s=0.1)
        began = time.monotonic()
        with (
            faked(lambda _: slow, timeout_s=0.5) as (_, store),
            pytest.raises(StoreUnavailableError, match="in time"),
        ):
            store.vms("shop")
        assert time.monotonic() - began < 5.0

    def test_a_server_that_was_down_has_everything_once(self) -> None:
        with servers.folder_of("influxdb") as folder:
            server = servers.influxdb(folder)
            with servers.running(server), store_at(server.url) as store:
                store.write(make_batch([1, 2]))
                waiting = dump(store.prepare(make_batch([3, 4], value=5)))
                server.kill()
                with pytest.raises(StoreUnavailableError, match="can't be reached"):
                    store.send(load(waiting))
                with pytest.raises(StoreUnavailableError, match="can't be reached"):
                    store.read(SeriesQuery("shop", ("rx_bytes",)))
                server.start()
                for _ in range(3):
                    store.send(load(waiting))
                series = store.read(SeriesQuery("shop", ("rx_bytes",)))
                assert series.values["rx_bytes"].tolist() == [[2, 2, 6, 6], [1, 1, 5, 5]]
                summed = store.read(SeriesQuery("shop", ("rx_bytes",), step_s=10.0))
                assert summed.values["rx_bytes"].tolist() == [[16], [12]]

    def test_what_was_cut_off_half_way_is_whole_once_it_is_sent_again(
        self, influxdb_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        network = f"half{next(_NUMBERS)}"
        monkeypatch.setattr(lines, "_BLOCK_ROWS", 2)
        left = [True] * 3
        post = influx_client.InfluxClient.post

        def dying(self: influx_client.InfluxClient, body: bytes) -> None:
            if not left:
                raise StoreUnavailableError("gone")
            left.pop()
            post(self, body)

        with store_at(influxdb_url) as store:
            store.write(make_batch([float(second) for second in range(10)], network=network, value=1))
            prepared = store.prepare(make_batch([float(second) for second in range(5, 15)], network=network, value=3))
            monkeypatch.setattr(influx_client.InfluxClient, "post", dying)
            with pytest.raises(StoreUnavailableError):
                store.send(prepared)
            monkeypatch.setattr(influx_client.InfluxClient, "post", post)
        with store_at(influxdb_url) as store:  # another process
            store.send(prepared)
            want = [[2.0] * 5 + [4.0] * 10, [1.0] * 5 + [3.0] * 10]
            for name in NAMES:
                assert store.read(SeriesQuery(network, (name,))).values[name].tolist() == want, name


class TestAnswers:
    @pytest.mark.parametrize(
        "body",
        [
            b"", b"hello", b"<html>", b"null", b"[]", b"{}", b'{"results":[]}', b'{"results":7}', b'{"results":[7]}',
            b'{"results":[{"statement_id":9}]}', b'{"results":[{"statement_id":0,"series":[7]}]}',
            b'{"results":[{"statement_id":0,"series":[{"name":"databases","columns":["name"],"values":[["x"]]}]}]}',
            b"\xff\xfe", b"[" * 100_000,
            b'{"results":[{"statement_id":0,"series":[{"name":"adumbra_vm","columns":["time","a"],"values":[[1]]}]}]}',
            b'{"results":[{"statement_id":0,"series":[{"name":"adumbra_vm","tags":{"vm":1},"columns":["time","a"],"values":[[1,2]]}]}]}',
        ],
    )  # fmt: skip
    def test_what_is_no_answer_is_told_in_one_line(self, body: bytes) -> None:
        with faked(lambda _: Say(200, body)) as (_, store):
            for act in (lambda: store.vms("shop"), lambda: store.read(SeriesQuery("shop", ("rx_bytes",)))):
                with pytest.raises(StoreError, match="no answer of InfluxDB") as refusal:
                    act()
                assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize("value", ['"x"', "[]", "1e999", "9223372036854775808"])
    def test_values_that_are_no_numbers_are_refused(self, value: str) -> None:
        def answer(asked: Asked) -> Say:
            series = (
                f'{{"name":"adumbra_vm","tags":{{"vm":"a","interval":"1s"}},"columns":["time","a"],"values":[[{value},1]]}}'
            )
            said = (
                f'{{"results":[{{"statement_id":{n},"series":[{series}]}}]}}' for n in range(asked.form["q"].count(";") + 1)
            )
            return Say(200, "\n".join(said).encode())

        with faked(answer) as (_, store), pytest.raises(StoreError, match="no answer of InfluxDB"):
            store.read(SeriesQuery("shop", ("rx_bytes",)))

    def test_an_answer_that_is_too_long_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(influx_client, "MOST_ANSWER_BYTES", 100_000)
        with (
            faked(lambda _: Say(200, b" " * 1_000_000)) as (_, store),
            pytest.raises(StoreError, match="more than 100,000 bytes"),
        ):
            store.vms("shop")

    def test_an_answer_that_breaks_off_is_no_answer(self) -> None:
        with (
            faked(lambda _: Say(200, b'{"results":[{"statement_id":0}]}', length=1_000)) as (_, store),
            pytest.raises(StoreUnavailableError, match="broke off"),
        ):
            store.vms("shop")

    def test_what_the_server_finds_wrong_is_told(self) -> None:
        with (
            faked(lambda _: Say(200, b'{"results":[{"statement_id":0,"error":"query-timeout limit exceeded"}]}')) as (_, store),
            pytest.raises(StoreError, match=r"InfluxDB says: query-timeout limit exceeded; see its log"),
        ):
            store.vms("shop")

    def test_one_that_takes_no_influxql_is_told(self, victoriametrics_url: str) -> None:
        with store_at(victoriametrics_url) as store, pytest.raises(StoreError, match="does it take InfluxQL"):
            store.vms("shop")

    def test_series_read_in_small_pieces_are_the_same(self, influxdb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        network, vms = f"pieces{next(_NUMBERS)}", tuple(f"v{number}" for number in range(5))
        rng = np.random.default_rng(3)
        first = make_batch([float(second) for second in range(60)], vms, network=network)
        columns = {name: rng.random((60, 5)) for name in ("cpu_seconds", "cpu_utilization", "memory_bytes", "storage_bytes")}
        with store_at(influxdb_url) as store:
            store.write(replace(first, columns=columns))
            later = {name: values[:20] for name, values in columns.items()}
            store.write(
                replace(make_batch([60.0 + 2 * n for n in range(20)], vms, network=network, interval_s=2.0), columns=later)
            )
            queries = [
                SeriesQuery(network, tuple(columns), vms[:3], step_s=4.0),
                SeriesQuery(network, tuple(columns), (), at_ns(7), at_ns(83), 6.0),
            ]
            plain = [store.read(query) for query in queries]
            monkeypatch.setattr(influx_series, "_VALUES_AT_ONCE", 30)
            monkeypatch.setattr(influx_series, "_COLUMNS_AT_ONCE", 2)
            monkeypatch.setattr(influx_series, "VMS_NAMED", 2)
            for query, want in zip(queries, plain, strict=True):
                got = store.read(query)
                assert (got.vms, got.start_ns, got.step_s) == (want.vms, want.start_ns, want.step_s)
                assert not np.isnan(want.values["cpu_utilization"]).any()
                for name in columns:
                    np.testing.assert_array_equal(got.values[name], want.values[name])

    def test_rows_replaced_and_amended_in_small_pieces_are_the_same(
        self, influxdb_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        network, vms = f"pieces{next(_NUMBERS)}", tuple(f"v{number}" for number in range(5))
        monkeypatch.setattr(influx_rows, "VMS_NAMED", 2)
        monkeypatch.setattr(influx_amend, "VMS_NAMED", 2)
        monkeypatch.setattr(influx_amend, "_ROWS_AT_ONCE", 10)
        monkeypatch.setattr(influx_rows.time_parts, "__defaults__", (10,))
        with store_at(influxdb_url) as store:
            store.write(make_batch([float(second) for second in range(20)], (*vms, "other"), network=network))
            assert store.write(make_batch([float(second) for second in range(4, 16)], vms, network=network, value=10)) == 60
            assert store.write(make_batch([6.0, 12.0], vms[:1], network=network, interval_s=2.0, value=100)) == 2
            cpu = np.where(np.arange(20)[:, np.newaxis] % 2 == 0, np.full((20, 5), 7.0), NAN)
            amending = make_batch([float(second) for second in range(20)], vms, network=network)
            assert store.amend(replace(amending, columns={"cpu_seconds": cpu})) == 96
            bytes_ = store.read(SeriesQuery(network, ("rx_bytes",), ("v1", "other"))).values["rx_bytes"].tolist()
            assert bytes_ == [[2.0] * 4 + [11.0] * 12 + [2.0] * 4, [6.0] * 20]
            told = store.read(SeriesQuery(network, ("cpu_seconds", "memory_bytes"), ("v1",))).values
            np.testing.assert_array_equal(told["cpu_seconds"], [[7.0, NAN] * 10])
            assert told["memory_bytes"].tolist() == bytes_[:1]


class TestOnTheServer:
    def test_a_value_that_is_amended_away_takes_nothing_with_it(self, influxdb_url: str) -> None:
        network = f"away{next(_NUMBERS)}"
        whole = make_batch([1, 2, 3], network=network)
        whole = replace(whole, one_sided=np.array([[False, True], [True, False], [False, False]]))
        gone = np.full((3, 2), NAN)
        with store_at(influxdb_url) as store:
            store.write(whole)
            before = store.read(SeriesQuery(network, NAMES))
            amended = {"latency_ms_p50": gone, "rtt_ms_p50": gone.copy(), "rx_packets": gone.copy()}
            assert store.amend(replace(whole, columns=amended)) == 6
            after = store.read(SeriesQuery(network, NAMES))
        np.testing.assert_array_equal(after.one_sided, before.one_sided)
        for name in NAMES:
            want = gone.T if name in amended else before.values[name]
            np.testing.assert_array_equal(after.values[name], want, err_msg=name)

    def test_a_vm_that_moved_is_one_vm(self, influxdb_url: str) -> None:
        network = f"moved{next(_NUMBERS)}"
        first, second = make_batch([1, 2], network=network), make_batch([3, 4], network=network, value=5)
        with store_at(influxdb_url) as store:
            store.write(first)
            store.write(replace(second, subnets=("dmz", "dmz")))
            assert store.vms(network) == ("db", "web-1")
            assert store.read(SeriesQuery(network, ("rx_bytes",))).values["rx_bytes"].tolist() == [[2, 2, 6, 6], [1, 1, 5, 5]]
            changed = make_batch([1, 2, 3, 4], network=network, value=9)
            assert store.amend(replace(changed, columns={"cpu_seconds": changed.columns["cpu_seconds"]})) == 8
            told = store.read(SeriesQuery(network, ("cpu_seconds", "rx_bytes"))).values
            assert told["cpu_seconds"].tolist() == [[10] * 4, [9] * 4]
            assert told["rx_bytes"].tolist() == [[2, 2, 6, 6], [1, 1, 5, 5]]
            assert store.write(changed) == 8
            assert store.read(SeriesQuery(network, ("rx_bytes",), step_s=4.0)).values["rx_bytes"].sum() == 4 * (9 + 10)

    def test_a_field_that_is_of_another_type_there_is_counted(self, influxdb_url: str) -> None:
        database = f"typed{next(_NUMBERS)}"
        with store_at(influxdb_url, database) as store:
            store.write(make_batch([1], ("first",)))
            foreign = f'adumbra_vm,vm=x memory_bytes="many" {at_ns(86_400 * 30)}'
            httpx.post(f"{influxdb_url}/write", params={"db": database}, content=foreign).raise_for_status()
            store.write(make_batch([86_400.0 * 30]))
            assert store.counters().dropped == {"type_conflict": 2}
            assert store.read(SeriesQuery("shop", ("rx_bytes",), ("db",))).values["rx_bytes"].tolist()[0][-1] == 2

    def test_a_database_is_made_and_one_without_is_empty(self, influxdb_url: str) -> None:
        with store_at(influxdb_url, f'odd "name" {next(_NUMBERS)}; ') as store:
            assert (store.vms("shop"), store.span("shop"), store.delete_network("shop")) == ((), None, 0)
            assert store.read(SeriesQuery("shop", ("rx_bytes",))).steps == 0
            assert store.amend(make_batch([1])) == 0
            store.write(make_batch([1]))
            assert store.vms("shop") == ("db", "web-1")

    def test_one_that_lets_in_only_whom_it_knows(self) -> None:
        with servers.folder_of("influxdb") as folder, servers.running(servers.influxdb(folder, auth=True)) as server:
            admin = {"user": "admin", "password": 'adm\'in "1"'}
            create = "CREATE USER admin WITH PASSWORD 'adm\\'in \"1\"' WITH ALL PRIVILEGES"
            httpx.post(f"{server.url}/query", data={"q": create}).raise_for_status()
            auth = (admin["user"], admin["password"])
            httpx.post(
                f"{server.url}/query", data={"q": "CREATE USER guest WITH PASSWORD 'guest'"}, auth=auth
            ).raise_for_status()
            with store_at(server.url) as store, pytest.raises(StoreUnavailableError, match="does not let us in"):
                store.write(make_batch([1]))
            with store_at(server.url, user="guest", password="guest") as store, pytest.raises(StoreUnavailableError):
                store.write(make_batch([1]))
            with store_at(server.url, **admin) as store:
                store.write(make_batch([1]))
                assert store.vms("shop") == ("db", "web-1")

    def test_two_that_go_on_from_each_other_leave_each_row_once(self, influxdb_url: str) -> None:
        network = f"relay{next(_NUMBERS)}"
        with store_at(influxdb_url) as first:
            first.write(make_batch([1, 2, 3], network=network))
            prepared = first.prepare(make_batch([4, 5, 6], network=network))
        with store_at(influxdb_url) as second:
            second.send(prepared)
            second.write(make_batch([6, 8], network=network, interval_s=2.0, value=50))
            assert second.read(SeriesQuery(network, ("rx_bytes",), ("web-1",), step_s=10.0)).values["rx_bytes"].sum() == 5 + 100


_HOSTILE = st.text(
    st.sampled_from(list("abc'\"\\,;= %\n\r\t-/*()é世\U0001f600\x00\x7f")), min_size=1, max_size=12
) | st.sampled_from(
    ["' OR 1=1 --", "'; DROP MEASUREMENT adumbra_vm; --", "a\\", "\\'", '"', "$x", "/.*/", "a' OR \"vm\" =~ /.*/ OR 'b' = 'b"]
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(_HOSTILE, min_size=3, max_size=5, unique=True))
def test_names_are_only_names(influxdb_url: str, names: list[str]) -> None:
    number = next(_NUMBERS)
    network, other, *vms = (f"{name}{number}" if place < 2 else name for place, name in enumerate(names))
    if network == other:
        return
    labels = {"subnets": tuple(vms), "roles": tuple(reversed(vms))}
    with store_at(influxdb_url, "hostile") as store:
        for each, value in ((network, 1.0), (other, 5.0)):
            hostile = make_batch([1, 2], tuple(vms), network=each, value=value)
            chosen = {"rx_bytes": hostile.columns["rx_bytes"], "memory_bytes": hostile.columns["memory_bytes"]}
            store.write(replace(hostile, source=names[0], columns=chosen, **labels))
        assert store.counters().dropped == {}
        assert set(store.vms(network)) == set(store.vms(other)) == set(vms)
        for place, vm in enumerate(vms):
            series = store.read(SeriesQuery(network, ("rx_bytes", "memory_bytes"), (vm,)))
            assert series.values["rx_bytes"].tolist() == series.values["memory_bytes"].tolist() == [[1 + place] * 2]
        gone = MetricBatch(
            network, 1.0, (vms[0],), np.array([at_ns(1)]), {"memory_bytes": np.array([[NAN]])}, np.array([[False]]), ""
        )
        assert store.amend(gone) == 1
        assert store.delete_network(network) == 2 * len(vms)
        assert (store.vms(network), store.span(network)) == ((), None)
        assert store.read(SeriesQuery(other, ("rx_bytes",), tuple(vms))).values["rx_bytes"].tolist() == [
            [5 + place] * 2 for place in range(len(vms))
        ]


def test_no_secret_is_shown(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Not even by a server that repeats all that it was told."""
    (tmp_path / "token").write_text("t0ps3cret\n")
    secrets = ["hunter2-pw", "t0ken-secret", "t0ps3cret", "tenant-secret", base64.b64encode(b"me:hunter2-pw").decode()]
    told: list[str] = []

    def repeat(asked: Asked) -> Say:
        return Say(400 if is_write(asked) else 200, json.dumps({"error": f"you said {asked.headers}", "results": []}).encode())

    ways: list[dict[str, object]] = [
        {"user": "me", "password": "hunter2-pw"}, {"token": "t0ken-secret"}, {"token_file": tmp_path / "token"},
        {"headers": {"X-Scope-OrgID": "tenant-secret"}},
    ]  # fmt: skip
    caplog.set_level(logging.DEBUG)
    for way in ways:
        for answer in (
            repeat,
            lambda asked: replace(repeat(asked), status=401),
            lambda asked: replace(repeat(asked), status=503),
        ):
            with faked(answer, **way) as (_, store), structlog.testing.capture_logs() as said:
                told += [repr(store), repr(store.config), str(store.config)]
                for act in (lambda: store.write(make_batch([1])), lambda: store.vms("shop"), lambda: store.span("shop")):
                    try:
                        act()
                    except StoreError as error:
                        told += [str(error), repr(error), str(error.__cause__)]
                told += [repr(said)]
    told.append(caplog.text)
    assert any("you said" in text for text in told)
    assert not [(secret, text) for text in told for secret in secrets if secret in text]
