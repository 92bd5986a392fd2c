"""Finds out what a metric store can do: writes a few intervals of a network of its own, reads them back, compares, deletes.

The network's name can be nobody else's. Where a store can't delete, a few samples of it stay.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from adumbra.schema.errors import AdumbraError, StoreError
from adumbra.schema.metrics import METRICS, NAMES
from adumbra.schema.records import NANOSECONDS, MetricBatch, Series, SeriesQuery
from adumbra.store.protocol import MetricStore
from adumbra.store.urls import Kind, StoreAddress, access_to, influx_database

NETWORK = "adumbra.check"
"""No network of a user's can be called so."""
_VMS = ("a", "b")
_INTERVALS = 3
_BACK_S, _OLD_S = 180, 86_400
_SHOWN_S, _GONE_S, _LOOK_S = 15.0, 3.0, 0.1
_NAMELESS = "answers, and tells no version"
_EXACT = 1e-9


class Verdict(StrEnum):
    """What came of a probe. `limited`: works, but for something that Adumbra can do without."""

    OK = "ok"
    LIMITED = "limited"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing that was tried: what came of it, in words, what to do where it isn't well, and how long it took."""

    what: str
    verdict: Verdict
    told: str
    mend: str = ""
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Trial:
    address: StoreAddress
    store: MetricStore
    shown_s: float

    def write(self, batch: MetricBatch) -> str:
        """Writes; what the store refused of it, "" for nothing."""
        before = _refused(self.store)
        self.store.write(batch)
        refused = {reason: count - before.get(reason, 0) for reason, count in _refused(self.store).items()}
        return ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in refused.items() if count)

    def shows(self, *batches: MetricBatch) -> bool:
        """Whether the store soon shows just these batches, in every value."""
        return self._soon(lambda: all(_same(self._read(batch), batch) for batch in batches), self.shown_s)

    def shows_nothing(self, *batches: MetricBatch) -> bool:
        gone_s = min(self.shown_s, _GONE_S)
        return self._soon(lambda: not any(np.any(self._read(batch).one_sided >= 0) for batch in batches), gone_s)

    def _read(self, batch: MetricBatch) -> Series:
        end_ns = int(batch.start_ns[-1]) + round(batch.interval_s * NANOSECONDS)
        return self.store.read(SeriesQuery(NETWORK, NAMES, _VMS, int(batch.start_ns[0]), end_ns, batch.interval_s))

    def _soon(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Whether it comes to hold: servers show what they took a second later."""
        until = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_S)
        return True


def probe(address: StoreAddress, store: MetricStore, now_ns: int, shown_s: float = _SHOWN_S) -> Iterator[Probe]:
    """Tries a store, which is open, one thing after the other; ends with the first that all others need. Raises nothing."""
    trial = _Trial(address, store, shown_s)
    recent, old = _batch(now_ns, _BACK_S, 1), _batch(now_ns, _OLD_S, 2)
    acts: tuple[tuple[str, Callable[[], Probe]], ...] = (
        ("reach", lambda: _reach(trial)),
        ("write, read", lambda: _write(trial, recent)),
        ("write again", lambda: _again(trial, recent)),
        ("old samples", lambda: _old(trial, recent, old)),
        ("replace", lambda: _replace(trial, recent)),
        ("delete", lambda: _delete(trial, recent, old)),
    )
    for what, act in acts:
        began = time.monotonic()
        try:
            found = act()
        except AdumbraError as error:
            found = Probe(what, Verdict.FAILED, error.what, error.mend)
        except ValueError as error:
            found = Probe(what, Verdict.FAILED, str(error))
        yield replace(found, what=what, took_s=time.monotonic() - began)
        if found.verdict is Verdict.FAILED and what in {"reach", "write, read"}:
            return
        if address.kind is Kind.ADUMBRA:  # it takes metrics of its own networks only, and has looked at its stores itself
            return


def _reach(trial: _Trial) -> Probe:
    told = version(trial.address) if trial.address.is_remote else "opened"
    trial.store.span(NETWORK)
    return Probe("", Verdict.OK, told)


def version(address: StoreAddress) -> str:
    """What the server calls itself. Raises StoreError where it can't be reached."""
    from adumbra.store.http_access import StoreAsker

    if address.kind is Kind.ADUMBRA:
        from adumbra.store.served import ServedConfig, ServedStore

        with ServedStore(ServedConfig((access_to(address, address.url),))) as served:
            return served.version()
    influx = address.kind is Kind.INFLUXDB
    url = influx_database(address.url)[0] if influx else address.url
    read = address.options.get("read", "/prometheus" if address.kind is Kind.MIMIR else "")
    access = access_to(address, url)
    with StoreAsker(access) as client:
        if influx:
            answer = client.ask("GET", access.joined("/ping"))
            told = next((value for name, value in answer.headers.items() if name.lower() == "x-influxdb-version"), "")
            return f"InfluxDB {told[:40]}" if told else _NAMELESS
        answer = client.ask("GET", f"{access.joined(read)}/api/v1/status/buildinfo")
    if not answer.good:
        return _NAMELESS
    try:
        told = str(json.loads(answer.body)["data"].get("version", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StoreError(f"{address.name} answers what no such store would", "is the address right?") from None
    return f"{address.kind} {told[:40]}" if told else _NAMELESS


def _write(trial: _Trial, recent: MetricBatch) -> Probe:
    if refused := trial.write(recent):
        return Probe("", Verdict.FAILED, f"refused what it was to keep ({refused})", "see the server's log")
    if not trial.shows(recent):
        return Probe("", Verdict.FAILED, "what is read is not what was written", _MENDS_READING.get(trial.address.kind, ""))
    return Probe("", Verdict.OK, f"{len(NAMES)} metrics of {len(_VMS)} VMs, every value the same")


_MENDS_READING = {
    Kind.PROMETHEUS: "is this server the one that is written to? Else give the other's address by read=",
    Kind.VICTORIAMETRICS: "run it with -dedup.minScrapeInterval=1ms, and a -search.latencyOffset below 3m",
    Kind.MIMIR: "is the tenant right?",
    Kind.INFLUXDB: "give the database that is read by InfluxQL in the URL's path; a v2 bucket needs a DBRP mapping",
}


def _again(trial: _Trial, recent: MetricBatch) -> Probe:
    refused = trial.write(recent)
    if not trial.shows(recent):
        return Probe("", Verdict.FAILED, "what is sent twice is not there once")
    if refused:
        return Probe("", Verdict.LIMITED, f"what is sent twice is there once, and counted as refused ({refused})")
    return Probe("", Verdict.OK, "what is sent twice is there once")


def _old(trial: _Trial, recent: MetricBatch, old: MetricBatch) -> Probe:
    refused = trial.write(old)
    if refused or not trial.shows(recent, old):
        why = f" ({refused})" if refused else ""
        mend = _MENDS_OLD.get(trial.address.kind, "")
        return Probe("", Verdict.FAILED, f"samples of a day ago are refused{why}: captures of the past can't be stored", mend)
    return Probe("", Verdict.OK, "samples of a day ago are taken: captures of the past can be stored")


_MENDS_OLD = {
    Kind.PROMETHEUS: "put `storage: {tsdb: {out_of_order_time_window: 1y}}` into prometheus.yml, and a retention as long",
    Kind.VICTORIAMETRICS: "give it a longer -retentionPeriod",
    Kind.MIMIR: "raise the tenant's out_of_order_time_window",
    Kind.INFLUXDB: "give the database a longer retention policy",
}


def _replace(trial: _Trial, recent: MetricBatch) -> Probe:
    if not trial.store.abilities.replaces:
        return Probe("", Verdict.LIMITED, "keeps what was written first: `calibrate` changes no stored time")
    other = _batch(int(recent.start_ns[0]), 0, 3)
    trial.write(other)
    if not trial.shows(other):
        return Probe("", Verdict.FAILED, "what is written last doesn't take the place of what was there")
    return Probe("", Verdict.OK, "what is written last takes the place of what was there")


def _delete(trial: _Trial, *written: MetricBatch) -> Probe:
    trial.store.delete_network(NETWORK)
    if not trial.store.abilities.deletes:
        mend = "start it with --web.enable-admin-api" if trial.address.kind is Kind.PROMETHEUS else ""
        return Probe("", Verdict.LIMITED, "lets nobody delete: what a deleted network had stays", mend)
    if not trial.shows_nothing(*written):
        out_of_order = ": what came out of order goes later only" if trial.address.kind is Kind.PROMETHEUS else ""
        return Probe("", Verdict.LIMITED, f"deletes, and still shows some{out_of_order}")
    return Probe("", Verdict.OK, "what a deleted network had goes")


def _batch(now_ns: int, back_s: int, seed: int) -> MetricBatch:
    """A few intervals so long ago, one-sided in part, in which every metric has values of its own."""
    shape, rng = (_INTERVALS, len(_VMS)), np.random.default_rng(seed)
    starts = (now_ns // NANOSECONDS - back_s + np.arange(_INTERVALS)) * NANOSECONDS
    columns = {
        metric.name: rng.integers(0, 1_000_000, shape) if metric.whole else rng.integers(0, 1_000_000, shape) / 1024
        for metric in METRICS
    }
    sided = rng.random(shape) < 0.5
    return MetricBatch(NETWORK, 1.0, _VMS, starts, columns, sided, f"check:{seed}", subnets=("s", "s"), roles=("r", "r"))


def _same(series: Series, batch: MetricBatch) -> bool:
    if series.start_ns != int(batch.start_ns[0]) or series.steps != len(batch):
        return False
    close = all(
        np.allclose(series.values[name], np.asarray(values, np.float64).T, rtol=_EXACT, atol=0.0)
        for name, values in batch.columns.items()
    )
    return close and np.array_equal(series.one_sided, batch.one_sided.T.astype(np.float64))


def _refused(store: MetricStore) -> dict[str, int]:
    counters = getattr(store, "counters", None)
    return {} if counters is None else dict(counters().dropped)
