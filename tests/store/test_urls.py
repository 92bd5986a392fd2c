"""What ADUMBRA_STORE may say, what it then means, and that nothing secret in it is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adumbra.schema.errors import InputError
from adumbra.store.influx import InfluxStore
from adumbra.store.prometheus import PrometheusStore
from adumbra.store.urls import Kind, StoreAddress, access_to, influx_database, open_remote, parse_stores

SECRET = "s3cr3t"


def one(url: str) -> StoreAddress:
    (address,) = parse_stores(url).addresses
    return address


@pytest.mark.parametrize("text", ["", "  ", ","])
def test_without_any_there_is_the_embedded_store(text: str) -> None:
    assert parse_stores(text).addresses == (StoreAddress(Kind.DUCKDB),)


@pytest.mark.parametrize(
    ("url", "want"),
    [
        ("duckdb:", StoreAddress(Kind.DUCKDB)),
        ("duckdb:///var/lib/m%20s.duckdb", StoreAddress(Kind.DUCKDB, path=Path("/var/lib/m s.duckdb"))),
        ("prometheus+http://host:9090", StoreAddress(Kind.PROMETHEUS, "http://host:9090")),
        ("prometheus+https://host/below/", StoreAddress(Kind.PROMETHEUS, "https://host/below")),
        ("victoriametrics+http://[::1]:8428", StoreAddress(Kind.VICTORIAMETRICS, "http://[::1]:8428")),
        ("mimir+https://host?tenant=a", StoreAddress(Kind.MIMIR, "https://host", options={"tenant": "a"})),
        ("adumbra+https://h:8470?token_file=/t", StoreAddress(Kind.ADUMBRA, "https://h:8470", options={"token_file": "/t"})),
        ("influxdb+http://u:p%40w%2F@host:8086/db", StoreAddress(Kind.INFLUXDB, "http://host:8086/db", None, "u", "p@w/")),
        (
            "prometheus+http://h?header.X-A=1%2C2&header.X-B=3&shards=8&insecure=1&spool_gb=0.5&timeout=5s&read=/r&write=/w",
            StoreAddress(
                Kind.PROMETHEUS, "http://h",
                options={
                    "header.X-A": "1,2", "header.X-B": "3", "shards": "8", "insecure": "1", "spool_gb": "0.5", "timeout": "5s",
                    "read": "/r", "write": "/w",
                },
            ),
        ),
    ],
)  # fmt: skip
def test_a_store_is_what_its_url_says(url: str, want: StoreAddress) -> None:
    assert one(url) == want


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("duckdb: prometheus+http://h", 0), ("duckdb:,prometheus+http://h?read=1", 1),
        ("duckdb:\n  prometheus+http://h?read=0 ,influxdb+http://h/d?read=1&read=/q", 2),
    ],
)  # fmt: skip
def test_one_of_several_is_read_from(text: str, read: int) -> None:
    assert parse_stores(text).read == read


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "/var/lib/metrics.duckdb",
            "ADUMBRA_STORE is no store's URL; write it like duckdb:///path, prometheus+http://host:9090",
        ),
        (
            "duckdb: postgres://h",
            "URL 2 of ADUMBRA_STORE begins with postgres:, which is no kind of store; there are: ",
        ),
        ("promethues+http://h", "did you mean 'prometheus+http'?"),
        ("prometheus://h", "did you mean 'prometheus+http"),
        ("duckdb://host/path", "names a host, and DuckDB is a file; write duckdb:///path, with three slashes"),
        ("prometheus+http://", "names no host; write it like prometheus+http://host:9090"),
        ("prometheus+http://h:x", "the host or port in ADUMBRA_STORE can't be read; write @ : / ? # , % and spaces within"),
        (
            "prometheus+http://h?shard=3",
            "(prometheus+http://h) has an option shard, which prometheus has not; did you mean 'shards",
        ),
        ("duckdb:?shards=3", "has an option shards, which duckdb has not"),
        ("prometheus+http://h?shards=3&shards=4", "has the option shards twice"),
        ("prometheus+http://h?shards=65", "the value of shards is not right; give a number from 1 to 64"),
        ("prometheus+http://h?spool_gb=0", "the value of spool_gb is not right; give a number of GB, 0.001 or more"),
        ("prometheus+http://h?token_file=token", "give a file's whole path"),
        ("prometheus+http://h?insecure=yes", "give 1 or 0"),
        ("prometheus+http://h?timeout=5", "the value of timeout is not right; give a time from 100ms to 10m"),
        ("prometheus+http://h?key=/k", "has a key without its cert"),
        ("prometheus+http://h?shards", "has an option without a value"),
        ("prometheus+http://h prometheus+http://u@h", "names prometheus+http://h twice"),
        ("duckdb:?read=1 prometheus+http://h?read=1", "several stores with read=1"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_stores(text)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        f"prometheus+http://u:{SECRET}@h?shard=1", f"prometheus+http://u:{SECRET}/x@h", f"prometheus+http://u:{SECRET}?x@h:90",
        f"prometheus+http://u:{SECRET}#x@h", f"prometheus+http://u:a,{SECRET}@h", f"prometheus+http://u:a {SECRET}@h",
        f"prometheus+http://h?token={SECRET}&token={SECRET}", f"prometheus+http://h?{SECRET}", f"prometheus+http://h?shards={SECRET}",
        f"prometheus+http://h:{SECRET}", f"promethues+http://u:{SECRET}@h", f"prometheus+http://h?x={SECRET}",
        f"prometheus+http://h?write=http://u:{SECRET}@h/x", f"prometheus+http://h?write=http://u:{SECRET}%40h/x",
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_not_shown(text: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_stores(text)
    assert SECRET not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_secrets_are_in_no_name_or_repr() -> None:
    choice = parse_stores(f"prometheus+https://u:{SECRET}@h/p?token={SECRET}&header.X={SECRET}")
    (address,) = choice.addresses
    opened = open_remote(address)
    access = access_to(address, address.url)
    assert (access.user, access.password, access.token, access.headers) == ("u", SECRET, SECRET, {"X": SECRET})
    for shown in (repr(choice), str(address), address.name, address.folder, repr(opened), repr(access), f"{vars(opened)}"):
        assert SECRET not in shown


def test_what_waits_lies_where_the_store_is_not_its_credentials() -> None:
    folder = one("prometheus+http://h:9090/p?token=a").folder
    assert folder == one("prometheus+http://u:new@h:9090/p/?shards=2&token_file=/t").folder
    assert folder.startswith("prometheus-http-h-9090-p-")
    others = [
        "prometheus+http://h:9090",
        "prometheus+https://h:9090/p",
        "prometheus+http://h:9090/p?tenant=a",
        "mimir+http://h:9090/p",
    ]
    assert len({folder, *(one(url).folder for url in others)}) == 5


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_any_text_is_taken_or_refused_in_a_line(text: str) -> None:
    for url in (text, f"prometheus+http://{text}", f"prometheus+http://h?{text}", f"duckdb:{text}"):
        try:
            choice = parse_stores(url)
        except InputError as error:
            said = str(error)
        else:
            said = "".join(address.folder for address in choice.addresses)
            assert "/" not in said
        assert "\n" not in said


class TestOpened:
    def test_the_prometheus_family(self) -> None:
        plain, mimir = open_remote(one("victoriametrics+http://h:1?shards=3")), open_remote(one("mimir+http://h?tenant=t"))
        assert isinstance(plain, PrometheusStore)
        assert isinstance(mimir, PrometheusStore)
        assert (plain.config.access.url, plain.config.shards, plain.config.write) == ("http://h:1", 3, "/api/v1/write")
        assert (mimir.config.write, mimir.config.read) == ("/api/v1/push", "/prometheus")
        assert mimir.config.access.headers == {"X-Scope-OrgID": "t"}

    def test_influxdb(self) -> None:
        v1, v2 = (
            open_remote(one("influxdb+http://h:1/below/d%20b?gzip=0")),
            open_remote(one("influxdb+http://h?org=o&bucket=b")),
        )
        assert isinstance(v1, InfluxStore)
        assert isinstance(v2, InfluxStore)
        assert influx_database("http://h:1/below/d%20b") == ("http://h:1/below", "d b")
        assert (v1.config.access.url, v1.config.reads_from, v1.config.gzip) == ("http://h:1/below", "d b", False)
        assert (v2.config.org, v2.config.bucket, v2.config.reads_from) == ("o", "b", "b")
