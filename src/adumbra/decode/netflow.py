"""Reads NetFlow v5, v9 (RFC 3954) and IPFIX (RFC 7011) datagrams into data sets whose template is known. No columns yet."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from adumbra.decode.exporters import (
    NO_UPTIME,
    NOTHING_TOLD,
    Domain,
    Exporter,
    Exporters,
    Heard,
    Limits,
    TemplateKey,
    Told,
    WaitingSet,
)
from adumbra.decode.flow_fields import Columns, DataSet, own_rates, samplers
from adumbra.decode.flow_times import heard
from adumbra.decode.templates import Parts, Template, TemplateError, definitions, parts_of
from adumbra.schema.records import NANOSECONDS

V5, V9, IPFIX = 5, 9, 10
READ, TRUNCATED, MALFORMED = "datagrams_read", "datagrams_truncated", "datagrams_malformed"

_V5_HEADER = struct.Struct(">HHIIIIHH")
_V9_HEADER = struct.Struct(">HHIIII")
_IPFIX_HEADER = struct.Struct(">HHIII")
_V5_RECORD_BYTES = 48
_V5_MOST_RECORDS = 30
_LATE_DATAGRAMS = 64
_LATE_RECORDS = 64 * 30

_V5_FIELDS = (
    (8, 4), (12, 4), (15, 4), (10, 2), (14, 2), (2, 4), (1, 4), (22, 4), (21, 4), (7, 2), (11, 2), (0, 1), (6, 1), (4, 1),
    (5, 1), (16, 2), (17, 2), (9, 1), (13, 1), (0, 2),
)  # fmt: skip


def _v5_template() -> Template:
    """A v5 record as a v9 template: the fields are the same, at fixed places."""
    body = struct.pack(">HH", 256, len(_V5_FIELDS)) + b"".join(struct.pack(">HH", *field) for field in _V5_FIELDS)
    (definition,) = definitions(body, ipfix=False, options=False)
    if definition.template is None:
        raise TemplateError("NetFlow v5's own template")
    return definition.template


@dataclass(slots=True)
class _Message:
    """A v9 or IPFIX datagram while it is read. records: how many data records it had so far,
    None where that isn't known; order: that of its next row."""

    exporter: Exporter
    domain: Domain
    version: int
    source: int
    heard: Heard
    order: int
    records: int | None = 0

    @property
    def template_sets(self) -> tuple[int, int]:
        """The numbers of template sets and of options template sets."""
        return (2, 3) if self.version == IPFIX else (0, 1)


class NetFlow:
    """Reads datagram after datagram; `take()` gives the data sets since the last time."""

    def __init__(self, exporters: Exporters, limits: Limits, accounts: Counter[str]) -> None:
        self._exporters = exporters
        self._limits = limits
        self._accounts = accounts
        self._v5 = _v5_template()
        self._sets: list[DataSet] = []
        self._datagrams = 0

    def take(self) -> list[DataSet]:
        """The data sets read, in the order in which their template was known; they aren't given again."""
        sets, self._sets = self._sets, []
        return sets

    def read_v5(self, raw: bytes, exporter: Exporter, received_ns: int, order: int) -> tuple[str, int]:
        """Reads a v5 message; what became of it, and its size."""
        if len(raw) < _V5_HEADER.size:
            return TRUNCATED, len(raw)
        _, count, uptime_ms, seconds, rest_ns, number, engine, sampling = _V5_HEADER.unpack_from(raw)
        here = min(count, (len(raw) - _V5_HEADER.size) // _V5_RECORD_BYTES)
        if here < count and count > _V5_MOST_RECORDS:
            return MALFORMED, len(raw)
        domain = self._exporters.domain(exporter, (V5, engine))
        self._follow(domain, number, count, _LATE_RECORDS, "records_lost")
        circumstances = self._heard(received_ns, seconds * NANOSECONDS + min(rest_ns, NANOSECONDS - 1), uptime_ms)
        rate = sampling & 0x3FFF
        if domain.told.default != rate:  # kept, so that the datagrams of one rate share one object
            domain.told = replace(NOTHING_TOLD, default=rate)
        self._accounts["records"] += count
        self._accounts["records_cut_off"] += count - here
        if here:
            body = raw[_V5_HEADER.size : _V5_HEADER.size + here * _V5_RECORD_BYTES]
            self._sets.append(DataSet(self._v5, Parts(body, here, cut=False), circumstances, domain.told, order))
        return READ if here == count else TRUNCATED, _V5_HEADER.size + here * _V5_RECORD_BYTES

    def read_v9(self, raw: bytes, exporter: Exporter, received_ns: int, order: int) -> tuple[str, int]:
        """Reads a v9 datagram; what became of it, and its size."""
        if len(raw) < _V9_HEADER.size:
            return TRUNCATED, len(raw)
        _, _, uptime_ms, seconds, number, source = _V9_HEADER.unpack_from(raw)
        domain = self._exporters.domain(exporter, (V9, source))
        self._follow(domain, number, 1, _LATE_DATAGRAMS, "datagrams_lost")
        circumstances = self._heard(received_ns, seconds * NANOSECONDS, uptime_ms)
        message = _Message(exporter, domain, V9, source, circumstances, order)
        return self._read_sets(raw, _V9_HEADER.size, len(raw), message), len(raw)

    def read_ipfix(self, raw: bytes, exporter: Exporter, received_ns: int, order: int) -> tuple[str, int]:
        """Reads an IPFIX message; what became of it, and its size."""
        if len(raw) < _IPFIX_HEADER.size:
            return TRUNCATED, len(raw)
        _, length, seconds, number, source = _IPFIX_HEADER.unpack_from(raw)
        if length < _IPFIX_HEADER.size:
            return MALFORMED, len(raw)
        domain = self._exporters.domain(exporter, (IPFIX, source))
        circumstances = self._heard(received_ns, seconds * NANOSECONDS, NO_UPTIME)
        message = _Message(exporter, domain, IPFIX, source, circumstances, order)
        fate = self._read_sets(raw, _IPFIX_HEADER.size, min(length, len(raw)), message)
        units = message.records if fate == READ and length <= len(raw) else None
        self._follow(domain, number, units, _LATE_RECORDS, "records_lost")
        return fate if length <= len(raw) or fate != READ else TRUNCATED, length

    def _heard(self, received_ns: int, export_ns: int, uptime_ms: int) -> Heard:
        self._datagrams += 1
        circumstances, believed = heard(self._datagrams, received_ns, export_ns, uptime_ms)
        self._accounts["clocks_replaced"] += not believed
        return circumstances

    def _follow(self, domain: Domain, number: int, units: int | None, late_window: int, lost: str) -> None:
        change, anew = domain.sequence.follow(number, units, late_window)
        self._accounts[lost] += change
        self._accounts["restarts"] += anew

    def _read_sets(self, raw: bytes, at: int, end: int, message: _Message) -> str:
        while end - at >= 4:
            number, size = struct.unpack_from(">HH", raw, at)
            if size < 4 and not any(raw[at:end]):
                return READ  # padding
            self._accounts["sets"] += 1
            if size < 4 or size > end - at:
                self._accounts["sets_malformed"] += 1
                return MALFORMED if size < 4 else TRUNCATED
            self._read_set(number, raw[at + 4 : at + size], message)
            at += size
        return READ

    def _read_set(self, number: int, body: bytes, message: _Message) -> None:
        if number >= 256:
            self._read_data(number, body, message)
        elif number in message.template_sets:
            self._read_templates(number, body, message)
        else:
            self._accounts["sets_unknown"] += 1

    def _read_templates(self, number: int, body: bytes, message: _Message) -> None:
        options = number == message.template_sets[1]
        try:
            for definition in definitions(body, ipfix=message.version == IPFIX, options=options):
                key = (message.version, message.source, definition.number)
                if definition.template is None and definition.number < 256:
                    self._withdraw_all(message, options=options)
                    continue
                self._accounts["templates"] += definition.template is not None
                self._accounts["templates_refused"] += definition.refused
                self._exporters.define(message.exporter, key, definition.template)
                if definition.template is not None:
                    self._read_waiting(key, definition.template, message)
        except TemplateError:
            self._accounts["sets_malformed"] += 1
        else:
            self._accounts["sets_templates"] += 1

    def _withdraw_all(self, message: _Message, *, options: bool) -> None:
        """All templates, or all options templates, of the domain (RFC 7011, section 8.1)."""
        domain = (message.version, message.source)
        for key in [k for k, t in message.exporter.templates.items() if k[:2] == domain and t.options == options]:
            self._exporters.define(message.exporter, key, None)

    def _read_waiting(self, key: TemplateKey, template: Template, message: _Message) -> None:
        for waiting in self._exporters.take_waiting(message.exporter, key):
            self._read_records(template, waiting.body, message, waiting.heard)

    def _read_data(self, number: int, body: bytes, message: _Message) -> None:
        key = (message.version, message.source, number)
        template = self._exporters.template(message.exporter, key)
        if template is None:
            message.records = None
            self._exporters.keep(message.exporter, WaitingSet(key, body, message.heard))
            return
        count = self._read_records(template, body, message, message.heard)
        if message.records is not None:
            message.records += count

    def _read_records(self, template: Template, body: bytes, message: _Message, circumstances: Heard) -> int:
        parts = parts_of(body, template)
        self._accounts["sets_read"] += 1
        self._accounts["records"] += parts.count + parts.cut
        self._accounts["records_cut_off"] += parts.cut
        if template.options:
            self._accounts["records_options"] += parts.count
            if parts.count:
                message.domain.told = self._told(template, parts, message)
        elif parts.count:
            told = self._exporters.told(message.exporter, message.domain, message.version)
            self._sets.append(DataSet(template, parts, circumstances, told, message.order))
            message.order += 2 * parts.count
        return parts.count

    def _told(self, template: Template, parts: Parts, message: _Message) -> Told:
        """What a domain's options data tell now: the newest of each sampler."""
        records = np.frombuffer(parts.fixed, np.uint8).reshape(parts.count, template.size)
        newest = records[-self._limits.samplers_per_domain :]
        columns = Columns(template, newest)
        told = message.domain.told
        rates, names, boot_ms = own_rates(columns), samplers(columns), columns.number((0, 160))
        for i in np.flatnonzero(rates):
            if names is None:
                told = told if told.default == rates[i] else replace(told, default=int(rates[i]))
            else:
                told = told.with_sampler(int(names[i]), int(rates[i]), self._limits.samplers_per_domain)
        if boot_ms is not None and 0 < boot_ms[-1] < 1 << 43 and told.boot_ns != int(boot_ms[-1]) * 1_000_000:
            told = replace(told, boot_ns=int(boot_ms[-1]) * 1_000_000)
        return told
