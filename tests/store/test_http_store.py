"""A PrometheusStore before a server that does what servers do on a bad day: nothing is lost that need not be, nothing leaks."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from structlog.testing import capture_logs
from tests.servers import free_port
from tests.store.conftest import at_ns, make_batch
from tests.store.fakes import Asked, Fake, fake

from adumbra.http_asking import HttpAccess
from adumbra.schema.errors import InputError, StoreError, StoreUnavailableError
from adumbra.schema.records import MetricBatch, SeriesQuery
from adumbra.store.prometheus import PrometheusConfig, PrometheusStore

SECRET = "hunter2-hunter2"
GOOD = (204, b"", {})
Series = dict[tuple[tuple[str, str], ...], list[tuple[int, bytes]]]


def small(vms: tuple[str, ...] = ("a", "b"), starts: tuple[float, ...] = (0, 1, 2)) -> MetricBatch:
    batch = make_batch(list(starts), vms)
    return replace(batch, columns={name: batch.columns[name] for name in ("rx_bytes", "peers", "rtt_ms_p50")})


@contextmanager
def store_at(url: str, *, give_up_s: float = 1.5, timeout_s: float = 0.6, **more: Any) -> Iterator[PrometheusStore]:
    of_config = {name: more.pop(name) for name in ("write", "read", "shards", "samples") if name in more}
    access = HttpAccess(url, give_up_s=give_up_s, timeout_s=timeout_s, **more)
    with PrometheusStore(PrometheusConfig(access, **of_config)) as store:
        yield store


@contextmanager
def serving(answer: Callable[[Asked], Any], **more: Any) -> Iterator[tuple[Fake, PrometheusStore]]:
    """A server that answers so, and a store that writes to it."""
    with fake(answer) as server, store_at(server.url, **more) as store:
        yield server, store


def writes(server: Fake) -> list[Asked]:
    return [asked for asked in server.asked if "delete_series" not in asked.path]


def collected(asked: list[Asked]) -> Series:
    found: Series = defaultdict(list)
    for each in asked:
        for told, samples in each.samples.items():
            found[told] += samples
    return dict(found)


class TestWriting:
    def test_a_request_has_what_the_specification_asks_for(self) -> None:
        with serving(lambda _: GOOD) as (server, store):
            store.write(small())
        (asked,) = writes(server)
        assert (asked.method, asked.path) == ("POST", "/api/v1/write")
        headers = {
            name: asked.headers[name] for name in ("content-encoding", "content-type", "x-prometheus-remote-write-version")
        }
        assert list(headers.values()) == ["snappy", "application/x-protobuf", "0.1.0"]
        assert asked.headers["user-agent"].startswith("adumbra/")
        assert "authorization" not in asked.headers
        assert store.counters().samples == sum(map(len, asked.samples.values()))
        assert (store.counters().requests, store.counters().body_bytes) == (1, len(asked.body))

    def test_large_batches_go_in_parts_over_several_connections(self) -> None:
        batch = small(tuple(f"v{i}" for i in range(40)), tuple(range(30)))
        with serving(lambda _: GOOD, samples=1_000, shards=3) as (server, store):
            store.write(batch)
        found = collected(writes(server))
        assert all(samples == sorted(samples, key=lambda s: s[0]) for samples in found.values())
        with fake(lambda _: GOOD) as other, store_at(other.url, samples=1_000_000) as store:
            store.write(batch)
        assert found == collected(writes(other))
        assert (len(writes(other)), len(writes(server)) >= 7) == (1, True)
        assert "adumbra_network_interval_end_seconds" in str(list(writes(server)[-1].samples))  # told when the rest is there

    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
    def test_a_busy_server_is_asked_again(self, status: int) -> None:
        replies = iter([(status, b"busy", {}), (status, b"busy", {}), GOOD])
        with serving(lambda asked: GOOD if "delete" in asked.path else next(replies)) as (server, store):
            store.write(small())
        bodies = [asked.body for asked in writes(server)]
        assert (len(bodies), len(set(bodies))) == (3, 1)
        assert (store.counters().retries, store.counters().dropped) == (2, {})

    @pytest.mark.parametrize("after", ["1", "Sat, 28 Nov 2026 12:00:01 GMT"])
    def test_it_waits_as_long_as_the_server_asks(self, after: str) -> None:
        replies = iter([(429, b"", {"Retry-After": after, "Date": "Sat, 28 Nov 2026 12:00:00 GMT"}), GOOD])
        times = []

        def answer(asked: Asked) -> Any:
            times.append(time.monotonic())
            return GOOD if "delete" in asked.path else next(replies)

        with serving(answer, give_up_s=5.0) as (_, store):
            store.write(small())
        assert 1.0 <= times[-1] - times[-2] < 2.5

    def test_it_gives_up_in_time_and_says_where(self) -> None:
        with serving(lambda _: (503, b"no disk", {}), give_up_s=0.5) as (server, store):
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError, match=r"/api/v1/write can't now \(503 no disk\)"):
                store.write(small())
            assert time.monotonic() - began < 4
        with (
            fake(lambda _: (429, b"", {"Retry-After": "3600"})) as server,
            store_at(server.url, give_up_s=5.0) as store,
            pytest.raises(StoreUnavailableError),
        ):
            store.write(small())
        assert len(writes(server)) == 1  # an hour is longer than it tries

    def test_a_server_that_is_not_there(self) -> None:
        with store_at(f"http://127.0.0.1:{free_port()}", give_up_s=0.2) as store:
            with pytest.raises(StoreUnavailableError, match="can't be reached"):
                store.write(small())
            with pytest.raises(StoreUnavailableError, match="can't be reached"):
                store.span("shop")

    @pytest.mark.parametrize("kind", ["silent", "garbage", "hangs up", "drips"])
    def test_a_server_that_does_not_answer_as_it_should(self, kind: str) -> None:
        def odd(handler: BaseHTTPRequestHandler) -> None:
            if kind == "silent":
                time.sleep(1.5)
            elif kind == "garbage":
                handler.wfile.write(b"\x00\xff no HTTP at all\r\n\r\n")
            elif kind == "drips":
                handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(20):
                    handler.wfile.write(b"x")
                    handler.wfile.flush()
                    time.sleep(0.1)

        with fake(lambda asked: GOOD if "delete" in asked.path else odd) as server:
            with store_at(server.url, give_up_s=0.1) as store, pytest.raises(StoreUnavailableError):
                store.write(small())
            assert store.counters().samples == 0

    @pytest.mark.parametrize(
        ("status", "said"),
        [
            (401, "not let us in"),
            (403, "not let us in"),
            (404, "no remote writes"),
            (405, "no remote writes"),
            (302, "sends us to http://else.where/x"),
        ],
    )
    def test_what_is_wrong_with_the_address_or_with_us_loses_nothing(self, status: int, said: str) -> None:
        reply = (status, b"x", {"Location": "http://else.where/x?token=abc"})
        with serving(lambda _: reply) as (server, store), pytest.raises(StoreUnavailableError, match=said):
            store.write(small())
        assert (store.counters().dropped, store.counters().retries, len(writes(server))) == ({}, 0, 1)


class TestRefusals:
    """A server that takes all of a request or nothing of it."""

    @pytest.mark.parametrize(
        ("bad", "said", "reason"),
        [
            (lambda told, ms: told["vm"] == "b" and "peers" in told["__name__"], "duplicate sample for timestamp", "duplicate"),
            (lambda told, ms: ms <= at_ns(3) // 1_000_000, "out of order sample", "out_of_order"),
            (lambda told, ms: ms == at_ns(4) // 1_000_000, "out of bounds", "too_old"),
            (lambda told, ms: told["vm"] in "bd" and ms % 2000 == 0, "what?", "status_400"),
        ],
    )
    def test_the_good_is_kept_and_the_bad_counted(self, bad: Callable[..., bool], said: str, reason: str) -> None:
        taken: list[Asked] = []

        def answer(asked: Asked) -> Any:
            if "delete" in asked.path:
                return GOOD
            if any(bad(defaultdict(str, told), ms) for told, samples in asked.samples.items() for ms, _ in samples):
                return 400, said.encode() + b"\n", {}
            taken.append(asked)
            return GOOD

        batch = small(("a", "b", "c", "d"), tuple(range(6)))
        with serving(lambda _: GOOD) as (server, store):
            store.write(batch)
        whole = collected(writes(server))
        want = {told: [s for s in samples if not bad(defaultdict(str, told), s[0])] for told, samples in whole.items()}
        dropped = sum(map(len, whole.values())) - sum(map(len, want.values()))
        with serving(answer) as (server, store):
            assert store.write(batch) == 0
        got = collected(taken)
        assert got == {told: samples for told, samples in want.items() if samples}
        assert store.counters().dropped == {reason: dropped}
        assert store.counters().samples == sum(map(len, got.values()))

    def test_the_search_for_the_bad_ends(self) -> None:
        batch = small(tuple(f"v{i}" for i in range(100)), tuple(range(20)))
        with serving(lambda _: (400, b"no", {}), samples=100_000) as (server, store):
            store.write(batch)
        assert 100 < len(writes(server)) <= 300
        whole = collected([writes(server)[0]])
        assert store.counters().dropped == {"status_400": sum(map(len, whole.values()))}

    def test_a_request_that_is_too_large_is_made_smaller(self) -> None:
        def answer(asked: Asked) -> Any:
            return (413, b"too large", {}) if len(asked.body) > 1500 else GOOD

        batch = small(tuple(f"v{i}" for i in range(30)), tuple(range(20)))
        with serving(answer) as (_, store):
            store.write(batch)
        assert (store.counters().dropped, store.counters().requests > 4) == ({}, True)

    def test_mimir_keeps_the_good_by_itself(self) -> None:
        said = b"failed pushing to ingester: the sample has been rejected because (err-mimir-sample-out-of-order)"
        with serving(lambda asked: GOOD if "delete" in asked.path else (400, said, {})) as (server, store):
            store.write(small())
        assert len(writes(server)) == 1
        assert list(store.counters().dropped) == ["partly_refused"]

    def test_it_is_said_once_a_minute(self) -> None:
        with capture_logs() as said, fake(lambda _: (400, b"no", {})) as server, store_at(server.url) as store:
            for start in range(3):
                store.write(small(starts=(float(start),)))
        told = [each for each in said if "dropped" in each["event"]]
        assert [(each["reason"], each["said"]) for each in told] == [("status_400", "no")]


class TestWhoWeAre:
    def test_basic_and_bearer_and_a_tenant(self) -> None:
        with fake(lambda _: GOOD) as server:
            with store_at(server.url, user="me", password="pw", headers={"X-Scope-OrgID": "team"}) as store:
                store.write(small())
            with store_at(server.url, token=SECRET) as store:
                store.write(small())
        first, second = writes(server)
        assert (first.headers["authorization"], first.headers["x-scope-orgid"]) == ("Basic bWU6cHc=", "team")
        assert second.headers["authorization"] == f"Bearer {SECRET}"

    def test_a_token_file_is_read_again_when_it_changes(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        with serving(lambda _: GOOD, token_file=file) as (server, store):
            with pytest.raises(StoreUnavailableError, match="token file"):
                store.write(small())
            for text in ("first\n", "second-longer\n"):
                file.write_text(text)
                store.write(small())
            file.unlink()  # as when it is being replaced
            store.write(small())
        assert [asked.headers["authorization"].split()[1] for asked in writes(server)] == ["first"] + ["second-longer"] * 2

    @pytest.mark.parametrize("how", [{"token": SECRET}, {"user": "me", "password": SECRET}, {"headers": {"X-Key": SECRET}}])
    @pytest.mark.parametrize("status", [400, 401, 503])
    def test_secrets_are_told_to_nobody(self, how: dict[str, Any], status: int, capsys: pytest.CaptureFixture[str]) -> None:
        def echo(asked: Asked) -> Any:
            return status, f"you said {asked.headers} {asked.path}".encode(), {}

        told = [repr(HttpAccess("http://x", **how)), repr(PrometheusConfig(HttpAccess("http://x", **how)))]
        structlog.reset_defaults()
        with serving(echo, give_up_s=0.3, **how) as (_, store):
            for act in (lambda: store.write(small()), lambda: store.read(SeriesQuery("n", ("peers",))), lambda: store.vms("n")):
                try:
                    act()
                except StoreError as error:
                    told += [str(error), repr(error), "".join(traceback.format_exception(error))]
            told.append(repr(store.__dict__))
        told += [*capsys.readouterr()]
        assert len(told) > 6
        for text in told:
            assert SECRET not in text
            assert "bWU6aHVudGVy" not in text  # base64 of me:hunter

    def test_addresses_hold_no_secrets_and_are_addresses(self) -> None:
        for url in ("http://me:pw@host:1/x", "http://host/?token=abc", "ftp://host", "host:9090"):
            with pytest.raises(InputError) as refused:
                HttpAccess(url)
            assert "pw" not in str(refused.value)
            assert "abc" not in str(refused.value)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed (Debian: apt-get install openssl)")

    def run(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    elliptic = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *elliptic, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=tests")
    for name, more in (("server", "subjectAltName=IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")):
        (folder / f"{name}.ext").write_text(more)
        run("req", *elliptic, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.pem",
            "-days", "30", "-extfile", f"{name}.ext")  # fmt: skip
    return folder


class TestTls:
    def test_a_server_is_believed_by_its_certificate_only(self, certificates: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        with fake(lambda _: GOOD, context) as server:
            with store_at(server.url, give_up_s=0.1) as store, pytest.raises(StoreUnavailableError, match="certificate"):
                store.write(small())
            assert writes(server) == []
            for more in ({"ca": certificates / "ca.pem"}, {"insecure": True}):
                with store_at(server.url, **more) as store:
                    store.write(small())
        assert len(writes(server)) == 2

    def test_a_server_that_wants_to_know_us(self, certificates: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "ca.pem")
        ours = {"ca": certificates / "ca.pem", "cert": certificates / "client.pem", "key": certificates / "client.key"}
        with fake(lambda _: GOOD, context) as server:
            with store_at(server.url, give_up_s=0.1, ca=ours["ca"]) as store, pytest.raises(StoreUnavailableError):
                store.write(small())
            with store_at(server.url, **ours) as store:
                store.write(small())
        assert len(writes(server)) == 1

    def test_files_that_are_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="ca, cert and key"), store_at("https://127.0.0.1:1", ca=tmp_path / "none.pem"):
            pass


def answers(data: Any) -> tuple[int, bytes, dict[str, str]]:
    return 200, json.dumps({"status": "success", "data": data}).encode(), {}


def one_vm(asked: Asked, cells: Any) -> Any:
    """What a server answers that has one VM with two intervals of 1 s; `cells` for what is asked of them."""
    if "/label/" in asked.path:
        return answers(["db"] if "/label/vm/" in asked.path else ["1s"])
    query = asked.form.get("query", "")
    if "query_range" in asked.path:
        return cells
    if "interval_end" in query:
        end_s = at_ns(1 if "min_over" in query else 2) // 1_000_000_000
        live = 'origin="live"' in query
        return answers({"resultType": "vector", "result": [] if live else [{"metric": {}, "value": [0, str(end_s)]}]})
    return answers({"resultType": "vector", "result": [{"metric": {"vm": "db"}, "value": [0, "1"]}]})


def matrix(values: Any, **labels: str) -> Any:
    return answers({"resultType": "matrix", "result": [{"metric": {"vm": "db", **labels}, "values": values}]})


END_S = at_ns(1) // 1_000_000_000


class TestReading:
    def test_mimir_has_other_paths_and_a_tenant(self) -> None:
        cells = matrix([[END_S, "5"], [END_S + 1, "7"]])
        with (
            fake(lambda asked: GOOD if "push" in asked.path else one_vm(asked, cells)) as server,
            store_at(server.url, write="/api/v1/push", read="/prometheus", headers={"X-Scope-OrgID": "team"}) as store,
        ):
            store.write(small())
            series = store.read(SeriesQuery("shop", ("peers",)))
        assert series.values["peers"].tolist() == [[5, 7]]
        assert {asked.headers["x-scope-orgid"] for asked in server.asked} == {"team"}
        paths = {asked.path.partition("?")[0] for asked in server.asked}
        assert paths == {
            "/api/v1/push", "/prometheus/api/v1/label/vm/values", "/prometheus/api/v1/label/interval/values",
            "/prometheus/api/v1/query", "/prometheus/api/v1/query_range", "/prometheus/api/v1/admin/tsdb/delete_series",
        }  # fmt: skip
        assert not store.abilities.deletes

    def test_writing_and_reading_may_be_in_different_places(self) -> None:
        with (
            fake(lambda _: GOOD) as one,
            fake(lambda asked: one_vm(asked, matrix([]))) as other,
            store_at(one.url, write=f"{one.url}/insert/0", read=f"{other.url}/select/0/prometheus") as store,
        ):
            store.write(small())
            assert store.vms("shop") == ("db",)
        assert {asked.path for asked in one.asked} == {"/insert/0"}
        assert all(asked.path.startswith("/select/0/prometheus/api/v1/") for asked in other.asked)

    def test_numbers_that_are_none_are_gaps(self) -> None:
        for text in ("NaN", "+Inf", "-Inf", "1e999", None, "StaleNaN"):
            with serving(lambda asked, text=text: one_vm(asked, matrix([[END_S, text], [END_S + 1, 7]]))) as (_, store):
                values = store.read(SeriesQuery("shop", ("peers",))).values["peers"]
            np.testing.assert_array_equal(values, [[np.nan, 7.0]])

    def test_what_was_not_asked_for_is_left_out(self) -> None:
        strange = [[END_S - 5, "1"], [END_S + 0.5, "2"], [END_S + 1, "7"], [END_S + 2, "8"], [1e10, "9"]]
        with serving(lambda asked: one_vm(asked, matrix(strange, le="7"))) as (_, store):
            assert np.isnan(store.read(SeriesQuery("shop", ("peers",))).values["peers"]).all()
        with serving(lambda asked: one_vm(asked, matrix(strange))) as (_, store):
            np.testing.assert_array_equal(store.read(SeriesQuery("shop", ("peers",))).values["peers"], [[np.nan, 7.0]])

    @pytest.mark.parametrize(
        "reply",
        [
            (200, b"", {}),
            (200, b"<html>", {}),
            (200, b"[]", {}),
            (200, b'{"status": "success"}', {}),
            (200, b"[" * 100_000, {}),
            (200, b'{"status":"success","data":{"result":"x"}}', {}),
            (200, b'{"status":"error","error":"boom"}', {}),
            (400, b'{"status":"error","error":"parse error"}', {}),
            (422, b'{"status":"error","error":"too many samples"}', {}),
            (200, b"\xff\xfe{", {}),
            (200, b"\x1f\x8b" + b"0" * 100, {"Content-Encoding": "gzip"}),
            answers({"result": [3]}),
            answers({"result": [{"metric": {}, "values": 3}]}),
            answers({"result": [{"metric": {}, "values": [[1]]}]}),
            answers({"result": [{"metric": {"vm": 3}, "values": [[1, "1"]]}]}),
            answers({"result": [{"metric": [], "values": [[1, "1"]]}]}),
            answers({"result": [{"metric": {}, "values": [[1, "x"]]}]}),
            answers({"result": [{"metric": {}, "values": [["x", "1"]]}]}),
            answers({"result": [{"metric": {}, "values": [[1, []]]}]}),
            (200, b'{"status":"success","data":{"result":[{"metric":{},"values":[[1e300,"1"]]}]}}', {}),
            (200, b" " * 3_000_000 + b'{"status":"success","data":{"result":[]}}', {}),
        ],
    )
    def test_answers_that_are_none_are_refused_in_a_line(self, reply: Any) -> None:
        with serving(lambda asked: one_vm(asked, reply)) as (_, store), pytest.raises(StoreError) as refused:
            store.read(SeriesQuery("shop", ("peers",)))
        assert "\n" not in str(refused.value)
        assert not isinstance(refused.value, StoreUnavailableError)

    def test_an_endless_answer_is_broken_off(self) -> None:
        def endless(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                handler.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")

        with (
            serving(lambda asked: one_vm(asked, endless), timeout_s=10.0) as (_, store),
            pytest.raises(StoreError, match="answers with more than"),
        ):
            store.read(SeriesQuery("shop", ("peers",)))

    def test_questions_that_are_too_large_for_the_server_are_asked_in_parts(self) -> None:
        def answer(asked: Asked) -> Any:
            if "query_range" not in asked.path:
                return one_vm(asked, None)
            first, last = float(asked.form["start"]), float(asked.form["end"])
            return matrix([[first, "5"]]) if first == last else (422, b'{"status":"error","error":"too many samples"}', {})

        with serving(answer) as (_, store):
            assert store.read(SeriesQuery("shop", ("peers",))).values["peers"].tolist() == [[5, 5]]
