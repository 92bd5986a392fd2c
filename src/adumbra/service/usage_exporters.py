"""Measured use of all machines that a Prometheus server knows: by node_exporter in them, or libvirt's exporter on hosts.

Asks in bounded parts; the server makes rates of its counters, over their resets. Shows no secret of the server's address.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, Floats, Ints
from adumbra.service.usage_columns import shown
from adumbra.service.usage_grid import DEFAULT_STEP_S, Grid, check_size
from adumbra.service.usage_table import UsageTable
from adumbra.store.http_access import StoreAsker
from adumbra.store.promql import MOST_STEPS, Api, Points
from adumbra.store.urls import access_to, parse_stores

Progress = Callable[[float | None, str], None]
MAX_DAYS = 400
_POINTS = 500_000  # of one answer
_MOST_VMS = 100_000
_DAY_MS = 86_400_000
_GIVE = "give the server's base URL, such as http://host:9090 or https://user:password@host/prometheus"
_NO_DISKS = 'fstype!~"tmpfs|ramfs|overlay|squashfs|iso9660|nsfs|fuse.*|nfs.*|cifs|autofs"'
_NO_LINKS = r'device!~"lo|veth.*|docker.*|br-.*|virbr.*|cni.*|flannel.*|cali.*|tun.*|tap.*|bond.*|.*[.].*"'


@dataclass(frozen=True, slots=True)
class Exporter:
    """One kind of exporter. label: what tells its VMs apart; there: a metric that each has a series of; use: column -> PromQL
    of the S seconds up to a time, by VM; has: column -> PromQL of what a VM has at a time; says: what is to be known of it.
    """

    name: str
    title: str
    label: str
    there: str
    use: Mapping[str, str]
    has: Mapping[str, str]
    says: tuple[str, ...] = ()


NODE = Exporter(
    "node", "node_exporter", "instance", 'node_cpu_seconds_total{cpu="0",mode="idle"}',
    {
        "cpu_cores": 'sum by (instance) (rate(node_cpu_seconds_total{mode!~"idle|iowait|steal"}[$S]))',
        "memory_bytes": (
            "max by (instance) (node_memory_MemTotal_bytes - min_over_time(node_memory_MemAvailable_bytes[$S]))"
        ),
        "rx_bytes_per_s": f"sum by (instance) (rate(node_network_receive_bytes_total{{{_NO_LINKS}}}[$S]))",
        "tx_bytes_per_s": f"sum by (instance) (rate(node_network_transmit_bytes_total{{{_NO_LINKS}}}[$S]))",
        "storage_bytes": (
            f"sum by (instance) (max by (instance, device) (node_filesystem_size_bytes{{{_NO_DISKS}}} - "
            f"min_over_time(node_filesystem_free_bytes{{{_NO_DISKS}}}[$S])))"
        ),
    },
    {
        "cpu_cores_provisioned": 'count by (instance) (count by (instance, cpu) (node_cpu_seconds_total{mode="idle"}))',
        "memory_bytes_provisioned": "max by (instance) (node_memory_MemTotal_bytes)",
        "storage_bytes_provisioned": (
            f"sum by (instance) (max by (instance, device) (node_filesystem_size_bytes{{{_NO_DISKS}}}))"
        ),
    },
)  # fmt: skip
"""https://github.com/prometheus/node_exporter: CPU seconds by mode, /proc/meminfo, interfaces and filesystems."""

LIBVIRT = Exporter(
    "libvirt", "libvirt's exporter", "domain", "libvirt_domain_info_virtual_cpus",
    {
        "cpu_cores": "sum by (domain) (rate(libvirt_domain_info_cpu_time_seconds_total[$S]))",
        "memory_bytes": (
            "max by (domain) (libvirt_domain_memory_stats_available_bytes - "
            "min_over_time(libvirt_domain_memory_stats_usable_bytes[$S])) "
            "or max by (domain) (max_over_time(libvirt_domain_memory_stats_rss_bytes[$S])) "
            "or max by (domain) (max_over_time(libvirt_domain_info_memory_usage_bytes[$S]))"
        ),
        "rx_bytes_per_s": "sum by (domain) (rate(libvirt_domain_interface_stats_receive_bytes_total[$S]))",
        "tx_bytes_per_s": "sum by (domain) (rate(libvirt_domain_interface_stats_transmit_bytes_total[$S]))",
        "storage_bytes": "sum by (domain) (max_over_time(libvirt_domain_block_stats_allocation[$S]))",
    },
    {
        "cpu_cores_provisioned": "max by (domain) (libvirt_domain_info_virtual_cpus)",
        "memory_bytes_provisioned": "max by (domain) (libvirt_domain_info_maximum_memory_bytes)",
        "storage_bytes_provisioned": "sum by (domain) (libvirt_domain_block_stats_capacity_bytes)",
    },
    ("a domain's memory is what its guest holds, where its balloon driver tells; else what its host holds for it, or gave it",),
)  # fmt: skip
"""The names of Debian's prometheus-libvirt-exporter (https://github.com/kumina/libvirt_exporter), and of its successors:
memory statistics in https://github.com/inovex/prometheus-libvirt-exporter, disks' sizes in further ones."""

EXPORTERS: Mapping[str, Exporter] = {each.name: each for each in (LIBVIRT, NODE)}


def server_name(url: str) -> str:
    """What a server is called: its address without user, password and options. Raises InputError, which doesn't repeat it."""
    return _address(url)[0]


def _address(url: str) -> tuple[str, StoreAsker]:
    try:
        addresses = parse_stores(f"prometheus+{url.strip()}").addresses
        if len(addresses) != 1:
            raise InputError("several")
        return addresses[0].url, StoreAsker(access_to(addresses[0], addresses[0].url))
    except InputError as error:
        why = error.mend if "option" in error.what else "@ : / in a password are written %40 %3A %2F"
        raise InputError("the URL of the Prometheus server can't be used", f"{_GIVE}; {why}") from None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a server: from and to a time (ns since the epoch), in steps; which exporter's machines, None for
    libvirt's where there are such.
    """

    between: tuple[int, int]
    step_s: float | None = None
    exporter: str | None = None


def add_from_server(table: UsageTable, url: str, wanted: Wanted, progress: Progress) -> Iterator[str]:
    """Puts the use of all machines that a server knows into a table; gives what is to be said of it.

    Raises InputError where there is nothing, or more than can be read; StoreError where the server can't be asked.
    """
    base, client = _address(url)
    step = round(wanted.step_s or DEFAULT_STEP_S)
    first, last = (each // NANOSECONDS for each in wanted.between)
    if not 0 <= first < last or (last - first) > MAX_DAYS * 86_400:
        raise InputError(
            f"{base} is asked for no time that can be read",
            f"say from when and until when, at most {MAX_DAYS} days: --since 14d",
        )
    grid = Grid(first // step * step * NANOSECONDS, step, math.ceil(last / step) - first // step)
    with client:
        asking = _Asking(Api(client, base), base, grid)
        kind = asking.exporter(wanted.exporter)
        vms = asking.vms(kind)
        check_size(base, len(vms), grid)
        asking.check_scrapes(kind)
        yield f"read from {kind.title}"
        yield from asking.notes
        yield from kind.says
        for done, rows in asking.rows(kind, vms):
            progress(0.7 * done, f"{base}: {done * 100:.0f} %")
            table.add_rows(*rows, base)


class _Asking:
    """Questions to one server about one span."""

    def __init__(self, api: Api, base: str, grid: Grid) -> None:
        self._api, self._base, self._grid = api, base, grid
        self._step_ms = round(grid.step_s * 1000)
        self._start_ms = grid.start_ns // 1_000_000
        self._end_ms = self._start_ms + grid.steps * self._step_ms
        self.notes: list[str] = []

    def exporter(self, name: str | None) -> Exporter:
        if name is not None and name not in EXPORTERS:
            raise InputError(f"there is no exporter {shown(name)!r} that is known here", f"choose of {', '.join(EXPORTERS)}")
        found = [each for each in EXPORTERS.values() if name in {None, each.name} and self._count(each)]
        if not found:
            names = " or ".join(each.title for each in EXPORTERS.values() if name in {None, each.name})
            raise InputError(
                f"{self._base} has no metrics of {names} in that time", "does it scrape one, and is the time right?"
            )
        if len(found) > 1:
            others = ", ".join(f"those of {each.title} (--exporter {each.name})" for each in found[1:])
            self.notes.append(f"the server has other machines, which are left out: {others}")
        return found[0]

    def _count(self, kind: Exporter) -> int:
        """How many VMs were there on any day."""
        told = self._days(f"count(count by ({kind.label}) (last_over_time({kind.there}[1d])))", 1)
        return int(max((float(np.nanmax(each.values)) for each in told if len(each.values)), default=0))

    def _days(self, expression: str, series: int) -> list[Points]:
        """An expression at the end of each day of the span, and at its end."""
        days = math.ceil((self._end_ms - self._start_ms) / _DAY_MS)
        last = self._end_ms - (days - 1) * _DAY_MS
        return self._api.range(expression, last, _DAY_MS, days, series)

    def vms(self, kind: Exporter) -> dict[str, int]:
        """Each VM's label, and its row."""
        most = min(4 * self._count(kind) + 100, _MOST_VMS)
        told = self._days(f"count by ({kind.label}) (last_over_time({kind.there}[1d]))", most)
        names = sorted({each.labels.get(kind.label, "") for each in told} - {""})
        if not names or len(names) > _MOST_VMS:
            raise InputError(f"{self._base} has {len(names):,} VMs by their label {kind.label}", "is it the right server?")
        if kind is LIBVIRT:
            several = {each.labels.get("domain", "") for each in told if each.values.size and np.nanmax(each.values) > 1}
            twice = self._days("count by (domain) (libvirt_domain_info_virtual_cpus) > 1", most) if several else []
            if twice:
                raise InputError(
                    f"{self._base}: {len(twice):,} domains run on several hosts at once, such as "
                    f"{shown(twice[0].labels.get('domain', ''))}: their names don't tell them apart",
                    "scrape them into servers of their own, or relabel `domain` with the host",
                )
        return {name: row for row, name in enumerate(names)}

    def check_scrapes(self, kind: Exporter) -> None:
        """Raises InputError for steps in which there are fewer than two samples: a rate takes two."""
        span_s = min(self._end_ms - self._start_ms, _DAY_MS) // 1000
        told = self._days(f"max(count_over_time({kind.there}[{span_s}s]))", 1)
        samples = max((float(np.nanmax(each.values)) for each in told if len(each.values)), default=0.0)
        every_s = span_s / samples if samples else math.inf
        if every_s * 1.9 > self._grid.step_s:
            raise InputError(
                f"{self._base} has a sample every {every_s:.3g} s, and a rate takes two: too few for steps of "
                f"{self._grid.step_s:g} s", f"ask for a step of {2 * every_s:.3g} s or more",
            )  # fmt: skip

    def rows(self, kind: Exporter, vms: Mapping[str, int]) -> Iterator[tuple[float, tuple[list[str], Ints, dict[str, Floats]]]]:
        """The share that is done, and the rows of a part of the time."""
        has = {column: self._largest(expression, kind, vms) for column, expression in kind.has.items()}
        names = _plain(list(vms)) if kind is NODE else list(vms)
        at_once = max(1, min(MOST_STEPS, _POINTS // len(vms)))
        for begin in range(0, self._grid.steps, at_once):
            steps = min(at_once, self._grid.steps - begin)
            use = {column: self._part(each, kind, vms, begin, steps) for column, each in kind.use.items()}
            told = np.zeros((len(vms), steps), np.bool_)
            for values in use.values():
                told |= np.isfinite(values)
            row, step = np.nonzero(told)
            time_ns = self._grid.start_ns + (begin + step) * self._grid.step_ns
            columns = {column: values[row, step] for column, values in use.items()}
            columns |= {column: values[row] for column, values in has.items()}
            yield (begin + steps) / self._grid.steps, ([names[each] for each in row], time_ns, columns)

    def _part(self, expression: str, kind: Exporter, vms: Mapping[str, int], begin: int, steps: int) -> Floats:
        """float64[V, steps]: what was used in each step; the server tells it at the step's end."""
        asked = expression.replace("$S", f"{self._grid.step_s:.0f}s")
        first_ms = self._start_ms + (begin + 1) * self._step_ms
        values = np.full((len(vms), steps), np.nan)
        for points in self._api.range(asked, first_ms, self._step_ms, steps, len(vms)):
            row = vms.get(points.labels.get(kind.label, ""))
            at = (points.times_ms - first_ms) // self._step_ms
            if row is not None and len(at) and at[0] >= 0 and at[-1] < steps:
                values[row, at] = np.where(points.values >= 0, points.values, np.nan)
        return values

    def _largest(self, expression: str, kind: Exporter, vms: Mapping[str, int]) -> Floats:
        """float64[V]: the most of the span."""
        largest = np.full(len(vms), np.nan)
        for points in self._days(f"max_over_time(({expression})[1d:30m])", len(vms)):
            row = vms.get(points.labels.get(kind.label, ""))
            if row is not None and np.isfinite(points.values).any():
                largest[row] = np.nanmax(points.values)
        return largest


def _plain(instances: list[str]) -> list[str]:
    """Hosts without their exporters' port, where that still tells them apart."""
    hosts = [each.rpartition(":")[0].strip("[]") if each.rpartition(":")[2].isdigit() else each for each in instances]
    return hosts if len(set(hosts)) == len(hosts) and all(hosts) else instances
