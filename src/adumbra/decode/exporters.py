"""What exporters have told so far: templates, sampling, sequence numbers, data that waits for its template. All bounded."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from adumbra.decode.templates import Template
from adumbra.schema.records import NANOSECONDS

_WORD = 1 << 32
_MAX_GAP = 1 << 20  # more was not lost: the exporter began anew
_SET_OVERHEAD_BYTES = 512
_MAX_BEHIND = 16  # so many late ones in a row aren't late: the exporter began anew


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is kept, some 250 MB at the very worst. What falls over one is counted, the least recently used first."""

    exporters: int = 256
    domains_per_exporter: int = 64
    templates_per_exporter: int = 1024
    templates: int = 4096
    samplers_per_domain: int = 64
    sources_per_exporter: int = 512
    waiting_sets_per_exporter: int = 1024
    waiting_bytes_per_exporter: int = 1 << 20
    waiting_bytes: int = 1 << 25
    waiting_ns: int = 600 * NANOSECONDS


@dataclass(frozen=True, slots=True)
class Told:
    """What options data tell of a domain: sampling rates by sampler, the rate without one (0: untold), when it booted (0)."""

    default: int = 0
    samplers: Mapping[int, int] = field(default_factory=dict)
    boot_ns: int = 0

    def rate(self, sampler: int | None) -> int:
        """One packet in so many is looked at, 0 where nothing tells. Without a sampler's number, the only sampler's."""
        if sampler is not None and sampler in self.samplers:
            return self.samplers[sampler]
        if self.default or sampler:
            return self.default
        return next(iter(self.samplers.values())) if len(self.samplers) == 1 else 0

    def with_sampler(self, sampler: int, rate: int, bound: int) -> Told:
        if self.samplers.get(sampler) == rate:
            return self
        others = {known: told for known, told in self.samplers.items() if known != sampler}
        while len(others) >= bound:
            del others[next(iter(others))]
        return replace(self, samplers={**others, sampler: rate})


NOTHING_TOLD = Told()
NO_UPTIME = -(1 << 62)
"""The uptime of an exporter that doesn't tell it; one whose export time is in whole seconds may be up since less than 0."""


@dataclass(slots=True)
class Sequence:
    """Follows an exporter's sequence number, which wraps at 2^32: what is missing was lost on the way."""

    expected: int | None = None
    lost: int = 0
    behind: int = 0

    def follow(self, number: int, units: int | None, late_window: int) -> tuple[int, bool]:
        """Takes a datagram whose `units` are numbered from `number` on (None: it isn't known how many).

        Gives by how much `lost` changes, negative where a datagram came late that had been counted as lost, and whether
        the exporter has begun anew.
        """
        change, anew = 0, False
        if self.expected is not None and number != self.expected:
            ahead = (number - self.expected) % _WORD
            if ahead <= _MAX_GAP:
                change = ahead
            elif _WORD - ahead <= late_window and self.behind < _MAX_BEHIND:
                self.behind += 1
                change = -min(self.lost, units or 0)
                self.lost += change
                return change, False
            else:
                anew = True
        self.lost += change
        self.behind = 0
        self.expected = None if units is None else (number + units) % _WORD
        return change, anew


@dataclass(slots=True)
class Domain:
    """An observation domain, a v9 source id, a v5 engine, or an sFlow sub-agent."""

    sequence: Sequence = field(default_factory=Sequence)
    told: Told = NOTHING_TOLD


DomainKey = tuple[int, int]
"""Protocol version and the domain's number."""
TemplateKey = tuple[int, int, int]
"""Protocol version, the domain's number, the template's."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The circumstances of a datagram: when it was received, and its exporter's clock.

    export_ns: when it was exported, by a clock that is not more than a day off; shift_ns: what to add to the exporter's
    absolute times; uptime_ms: the exporter's at export, or NO_UPTIME; datagram: its number.
    """

    datagram: int
    received_ns: int
    export_ns: int
    shift_ns: int
    uptime_ms: int


@dataclass(frozen=True, slots=True)
class WaitingSet:
    key: TemplateKey
    body: bytes
    heard: Heard

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return len(self.body) + _SET_OVERHEAD_BYTES


@dataclass(slots=True)
class Exporter:
    """One exporter's state."""

    domains: OrderedDict[DomainKey, Domain] = field(default_factory=OrderedDict)
    templates: OrderedDict[TemplateKey, Template] = field(default_factory=OrderedDict)
    drops: OrderedDict[tuple[int, int, int], int] = field(default_factory=OrderedDict)
    """What each sFlow data source has dropped, as it told last."""
    waiting: deque[WaitingSet] = field(default_factory=deque)
    waiting_bytes: int = 0
    waiting_keys: Counter[TemplateKey] = field(default_factory=Counter)


class Exporters:
    """All exporters' state, within limits. What falls over them goes into `accounts`."""

    def __init__(self, limits: Limits, accounts: Counter[str]) -> None:
        self._limits = limits
        self._accounts = accounts
        self._exporters: OrderedDict[str, Exporter] = OrderedDict()
        self._templates = 0
        self._waiting_bytes = 0

    def hear(self, name: str) -> Exporter:
        """The exporter of that name, which becomes the one most recently heard."""
        exporter = self._exporters.get(name)
        if exporter is None:
            exporter = self._exporters[name] = Exporter()
            if len(self._exporters) > self._limits.exporters:
                _, forgotten = self._exporters.popitem(last=False)
                self._templates -= len(forgotten.templates)
                while forgotten.waiting:
                    self._drop_oldest(forgotten)
                self._accounts["exporters_forgotten"] += 1
        else:
            self._exporters.move_to_end(name)
        return exporter

    def domain(self, exporter: Exporter, key: DomainKey) -> Domain:
        domain = exporter.domains.get(key)
        if domain is None:
            domain = exporter.domains[key] = Domain()
            if len(exporter.domains) > self._limits.domains_per_exporter:
                exporter.domains.popitem(last=False)
                self._accounts["domains_forgotten"] += 1
        else:
            exporter.domains.move_to_end(key)
        return domain

    def told(self, exporter: Exporter, domain: Domain, version: int) -> Told:
        """What options data tell of a domain; where they tell nothing, of the whole exporter, which is domain 0."""
        if domain.told is NOTHING_TOLD and (whole := exporter.domains.get((version, 0))) is not None:
            return whole.told
        return domain.told

    def template(self, exporter: Exporter, key: TemplateKey) -> Template | None:
        template = exporter.templates.get(key)
        if template is not None:
            exporter.templates.move_to_end(key)
        return template

    def define(self, exporter: Exporter, key: TemplateKey, template: Template | None) -> None:
        """Defines, redefines, or, with None, withdraws a template."""
        if exporter.templates.pop(key, None) is not None:
            self._templates -= 1
        if template is None:
            return
        exporter.templates[key] = template
        self._templates += 1
        if len(exporter.templates) > self._limits.templates_per_exporter:
            self._forget_template(exporter)
        if self._templates > self._limits.templates:  # the exporter with the most pays, so that none starves another
            self._forget_template(max(self._exporters.values(), key=lambda other: len(other.templates)))

    def keep(self, exporter: Exporter, waiting: WaitingSet) -> None:
        """Keeps a data set until its template comes."""
        limits = self._limits
        exporter.waiting.append(waiting)
        exporter.waiting_keys[waiting.key] += 1
        exporter.waiting_bytes += waiting.size
        self._waiting_bytes += waiting.size
        while (
            len(exporter.waiting) > limits.waiting_sets_per_exporter
            or exporter.waiting_bytes > limits.waiting_bytes_per_exporter
        ):
            self._drop_oldest(exporter)
        while self._waiting_bytes > limits.waiting_bytes:
            self._drop_oldest(max(self._exporters.values(), key=lambda other: other.waiting_bytes))

    def take_waiting(self, exporter: Exporter, key: TemplateKey) -> list[WaitingSet]:
        """The data sets that waited for a template, in the order in which they came; they wait no longer."""
        if not exporter.waiting_keys.pop(key, 0):
            return []
        taken = [waiting for waiting in exporter.waiting if waiting.key == key]
        exporter.waiting = deque(waiting for waiting in exporter.waiting if waiting.key != key)
        size = sum(waiting.size for waiting in taken)
        exporter.waiting_bytes -= size
        self._waiting_bytes -= size
        return taken

    def expire(self, now_ns: int) -> None:
        """Drops the data sets that have waited too long, by the times at which datagrams were received."""
        if self._waiting_bytes:
            for exporter in self._exporters.values():
                while exporter.waiting and now_ns - exporter.waiting[0].heard.received_ns > self._limits.waiting_ns:
                    self._drop_oldest(exporter)

    def waiting(self) -> int:
        """How many data sets wait for their template."""
        return sum(len(exporter.waiting) for exporter in self._exporters.values())

    def _forget_template(self, exporter: Exporter) -> None:
        exporter.templates.popitem(last=False)
        self._templates -= 1
        self._accounts["templates_forgotten"] += 1

    def _drop_oldest(self, exporter: Exporter) -> None:
        dropped = exporter.waiting.popleft()
        exporter.waiting_bytes -= dropped.size
        self._waiting_bytes -= dropped.size
        exporter.waiting_keys[dropped.key] -= 1
        if not exporter.waiting_keys[dropped.key]:
            del exporter.waiting_keys[dropped.key]
        self._accounts["sets_dropped"] += 1
