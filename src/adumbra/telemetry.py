"""What a process says of its own work: its log, and its numbers as Prometheus scrapes them. Opens nothing.

No stage knows of this: whoever wires a process together gives a Telemetry what to ask when somebody scrapes.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from adumbra.schema.metrics import Kind
from adumbra.schema.own_metrics import OWN_BY_NAME, OWN_METRICS, OwnMetric, Reading
from adumbra.schema.sizing import BYTES_PER_GB

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from adumbra.schema.records import Accounts
    from adumbra.schema.sizing import Machine

ENDED_LABELS = 20_000
"""How many counters are remembered of what has ended. Those of further ones end with it."""

_HIDDEN = "***"
_SECRET_KEY = re.compile(
    r"passw|passphrase|secret|token|credential|authorization|cookie|(?:api|private|access)[_-]?key|\bpw\b", re.I
)
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<=://)[^\s'\"<>]*@"), f"{_HIDDEN}@"),  # user and password in a URL, however they are written there
    (re.compile(r"(?i)(?<=[?&])(p|[^=&#\s]*(?:passw|secret|token|key|sig|auth)[^=&#\s]*)=[^&#\s'\"]*"), rf"\1={_HIDDEN}"),
    (re.compile(r"\b([Bb]earer|Basic)\s+[\w.~+/=-]{6,}"), rf"\1 {_HIDDEN}"),
)
_DEEPEST = 6


def set_up_log(level: str = "warning", format: str = "auto", stream: TextIO | None = None) -> None:
    """Sends what this process logs, and what its libraries do, to a stream (standard error) from `level` on.

    level: debug, info, warning or error; libraries tell nothing below warning. format: lines, json, or auto: lines where a
    person reads along, JSON in a pipe or file. What looks secret is taken out of every entry, by its key and from URLs. That
    a request is tried again isn't logged: it is counted.
    """
    import logging

    import stamina
    import structlog

    out = sys.stderr if stream is None else stream
    as_json = format == "json" or (format == "auto" and not out.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _without_secrets,
    ]
    written = structlog.processors.JSONRenderer(default=repr, ensure_ascii=True) if as_json else _line
    structlog.configure(
        processors=[*shared, written],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(out),
    )
    handler = logging.StreamHandler(out)
    own = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared[:-2], processors=[own, *shared[-2:], written])
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    stamina.instrumentation.set_on_retry_hooks([])


def _without_secrets(logger: object, method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    del logger, method
    return {key: _shown(key, value, _DEEPEST) for key, value in entry.items()}


def _shown(key: str, value: object, deep: int) -> object:
    if value is not None and _SECRET_KEY.search(key):
        return _HIDDEN
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, bool | int | None) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if deep and isinstance(value, Mapping):
        return {str(name): _shown(str(name), each, deep - 1) for name, each in value.items()}
    if deep and isinstance(value, list | tuple | set | frozenset):
        return [_shown("", each, deep - 1) for each in value]
    return without_secrets(str(value))


def without_secrets(text: str) -> str:
    """The text without what URLs and HTTP headers in it may have of users, passwords and tokens."""
    for secret, shown in _SECRETS:
        text = secret.sub(shown, text)
    return text


def _line(logger: object, method: str, entry: MutableMapping[str, Any]) -> str:
    """An entry as a line to read; a traceback stands below it. What would steer a terminal is written out."""
    del logger, method
    time, level, event = (str(entry.pop(name, "")) for name in ("timestamp", "level", "event"))
    trace = str(entry.pop("exception", ""))
    told = "".join(f"  {key}={_printable(value)}" for key, value in entry.items())
    below = "".join(f"\n    {_plain(line)}" for line in trace.splitlines())
    return f"{time[11:19]} {level:<7} {_plain(event)}{told}{below}"


def _printable(value: object) -> str:
    text = _plain(str(value))
    return f'"{text}"' if " " in text or not text else text


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class Telemetry:
    """The numbers of a process: a registry of its own, which a server shows by `exposition`. Threads may share it."""

    def __init__(self, version: str) -> None:
        from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

        self.registry: CollectorRegistry = CollectorRegistry(auto_describe=False)
        self._turn = threading.Lock()
        self._readers: dict[int, Callable[[], Iterable[Reading]]] = {}
        self._next = 0
        self._ended: dict[tuple[str, tuple[str, ...]], float] = {}
        self._failed = 0
        self.watch(lambda: [Reading("adumbra_build_info", 1.0, (version,))])
        self.registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    def watch(self, read: Callable[[], Iterable[Reading]]) -> Callable[[], None]:
        """Asks `read` whenever somebody scrapes; it must be quick, and safe to call from another thread.

        Returns what ends that. Then its counters stay where they are, and what comes of the same labels is added to them.
        """
        with self._turn:
            number, self._next = self._next, self._next + 1
            self._readers[number] = read
        return lambda: self._end(number)

    def _end(self, number: int) -> None:
        read = self._readers.get(number)
        last = self._read(read) if read else []
        with self._turn:  # at once, or a scrape in between would see the counters fall
            if self._readers.pop(number, None) is None:
                return
            for reading in last:
                key = (reading.name, reading.labels)
                if _adds_up(reading) and (key in self._ended or len(self._ended) < ENDED_LABELS):
                    self._ended[key] = self._ended.get(key, 0.0) + reading.value

    def readings(self) -> list[Reading]:
        """All numbers now. Where several tell of the same, counters are added; of gauges the largest counts."""
        with self._turn:
            found, readers = dict(self._ended), list(self._readers.values())
        for reading in (reading for read in readers for reading in self._read(read)):
            key = (reading.name, reading.labels)
            before = found.get(key)
            if before is None:
                found[key] = reading.value
            else:
                found[key] = before + reading.value if _adds_up(reading) else max(before, reading.value)
        found["adumbra_readings_failed_total", ()] = self._failed
        return [Reading(name, value, labels) for (name, labels), value in found.items()]

    def _read(self, read: Callable[[], Iterable[Reading]]) -> list[Reading]:
        """What one part tells. One that fails must not take the page away from the others."""
        try:
            told = list(read())
            if any(len(each.labels) != len(OWN_BY_NAME[each.name].labels) for each in told):
                raise ValueError("a reading has not the labels of its metric")
        except Exception:  # noqa: BLE001
            with self._turn:
                self._failed += 1
            return []
        return told

    def collect(self) -> Iterator[Metric]:
        """For prometheus-client: the families of what is known now."""
        by_name: dict[str, list[Reading]] = {}
        for reading in self.readings():
            by_name.setdefault(reading.name, []).append(reading)
        for metric in OWN_METRICS:
            if metric.name in by_name:
                yield _family(metric, by_name[metric.name])


def _adds_up(reading: Reading) -> bool:
    return OWN_BY_NAME[reading.name].kind is not Kind.GAUGE


def _family(metric: OwnMetric, readings: Sequence[Reading]) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    if metric.kind is Kind.HISTOGRAM:
        return _histogram(metric, readings)
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for reading in readings:
        family.add_metric(reading.labels, reading.value)
    return family


def _histogram(metric: OwnMetric, readings: Sequence[Reading]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels[:-1])
    by_labels: dict[tuple[str, ...], dict[str, float]] = {}
    for reading in readings:
        by_labels.setdefault(reading.labels[:-1], {})[reading.labels[-1]] = reading.value
    for labels, told in by_labels.items():
        total = told.pop("sum", 0.0)
        family.add_metric(labels, sorted(told.items(), key=lambda bucket: float(bucket[0])), total)
    return family


class Requests:
    """Counts the requests that a server answers. Threads may share it. Routes are bounded by those that there are."""

    BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, math.inf)

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._open = 0
        self._answered: dict[tuple[str, str, str], int] = {}
        self._took: dict[tuple[str, str], list[float]] = {}

    def begun(self) -> None:
        """A request came."""
        with self._turn:
            self._open += 1

    def ended(self, method: str, route: str, status: int, took_s: float) -> None:
        """It was answered, or, status 0, left without an answer."""
        answered, bucket = (method, route, str(status)), bisect.bisect_left(self.BOUNDS_S, took_s)
        with self._turn:
            self._open -= 1
            self._answered[answered] = self._answered.get(answered, 0) + 1
            counts = self._took.setdefault((method, route), [0.0] * (len(self.BOUNDS_S) + 1))
            counts[bucket] += 1
            counts[-1] += took_s

    def readings(self) -> list[Reading]:
        """For Telemetry.watch."""
        with self._turn:
            answered, took = dict(self._answered), {key: tuple(counts) for key, counts in self._took.items()}
            told = [Reading("adumbra_http_requests_open", self._open)]
        told += [Reading("adumbra_http_requests_total", count, labels) for labels, count in answered.items()]
        for labels, (*counts, total_s) in took.items():
            name = "adumbra_http_request_seconds"
            up_to = itertools.accumulate(counts)
            told += [Reading(name, n, (*labels, _le(bound))) for bound, n in zip(self.BOUNDS_S, up_to, strict=True)]
            told.append(Reading(name, total_s, (*labels, "sum")))
        return told


def _le(bound_s: float) -> str:
    return "+Inf" if math.isinf(bound_s) else str(bound_s)


class Sends(Protocol):
    """What was sent to a store, as stores count it (their `counters()`)."""

    @property
    def requests(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def body_bytes(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def dropped(self) -> Mapping[str, int]: ...


class Queue(Protocol):
    """What waits to be sent to a store, as its outbox tells it (its `status()`)."""

    @property
    def waiting(self) -> int: ...
    @property
    def waiting_bytes(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def damaged(self) -> int: ...
    @property
    def trouble(self) -> str: ...


_IGNORED = ("not_ip", "unknown_link")
_ELSEWHERE = {"parsed", "elsewhere", *_IGNORED}


def of_accounts(network: str, accounts: Accounts) -> Iterator[Reading]:
    """Where the packets of an observation went."""
    outcomes, losses = accounts.outcomes, accounts.losses
    ignored = {name: outcomes.get(name, 0) for name in _IGNORED} | {
        "foreign": accounts.foreign, "unclaimed": accounts.unclaimed, "filtered": losses.filtered,
    }  # fmt: skip
    lost = {name: count for name, count in outcomes.items() if name not in _ELSEWHERE} | {
        "tap": losses.dropped, "late": accounts.late, "untracked": accounts.untracked,
        "transport_unread": accounts.transport_unread, "uncounted": accounts.uncounted,
    }  # fmt: skip
    yield from (
        Reading(f"adumbra_{name}_total", value, (network,))
        for name, value in (
            ("packets_offered", accounts.offered), ("packets_parsed", accounts.parsed),
            ("packets_attributed", accounts.attributed), ("ring_freezes", losses.freezes), ("scanners", accounts.scanners),
        )
    )  # fmt: skip
    evicted = {"connections": accounts.evicted_attempts, "sources": accounts.evicted_sources}
    exports = {name: count for name, count in accounts.exports.items() if name != "sets_waiting"}
    for name, counts in (
        ("packets_ignored", ignored), ("packets_lost", lost), ("evictions", evicted), ("flow_exports", exports),
    ):  # fmt: skip
        yield from (Reading(f"adumbra_{name}_total", count, (network, told)) for told, count in counts.items())
    if accounts.exports:
        yield Reading("adumbra_flow_export_sets_waiting", accounts.exports.get("sets_waiting", 0), (network,))


def of_sends(store: str, sends: Sends) -> Iterator[Reading]:
    """What was sent to a store, and what it refused. `store`: its name without secrets."""
    for name, value in (
        ("requests", sends.requests), ("samples", sends.samples), ("sent_bytes", sends.body_bytes), ("retries", sends.retries),
    ):  # fmt: skip
        yield Reading(f"adumbra_store_{name}_total", value, (store,))
    for reason, samples in sends.dropped.items():
        yield Reading("adumbra_store_dropped_samples_total", samples, (store, reason))


def of_queue(
    store: str, queue: Queue, *, bound_bytes: int | None = None, oldest_age_s: float | None = None
) -> Iterator[Reading]:
    """What waits to be sent to a store, and what was lost meanwhile; the bound and the oldest's age where they are known."""
    yield Reading("adumbra_store_failures_total", queue.failures, (store,))
    yield Reading("adumbra_store_up", float(not queue.trouble), (store,))
    yield Reading("adumbra_spool_records", queue.waiting, (store,))
    yield Reading("adumbra_spool_bytes", queue.waiting_bytes, (store,))
    for reason, records in (("full", queue.dropped), ("damaged", queue.damaged), ("refused", queue.refused)):
        yield Reading("adumbra_spool_lost_records_total", records, (store, reason))
    if bound_bytes is not None:
        yield Reading("adumbra_spool_bound_bytes", bound_bytes, (store,))
    if oldest_age_s is not None:
        yield Reading("adumbra_spool_oldest_age_seconds", oldest_age_s, (store,))


def of_machines(network: str, machines: Mapping[str, Machine]) -> Iterator[Reading]:
    """What the VMs of a network are declared with, by their names."""
    for vm, machine in machines.items():
        yield Reading("adumbra_vm_declared_cpu_cores", machine.cpu_cores, (network, vm))
        yield Reading("adumbra_vm_declared_memory_bytes", machine.memory_gb * BYTES_PER_GB, (network, vm))
        yield Reading("adumbra_vm_declared_storage_bytes", machine.storage_gb * BYTES_PER_GB, (network, vm))
