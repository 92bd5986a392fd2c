"""Reads sFlow v5 datagrams (sflow.org, sFlow Version 5): sampled headers go through the packet decoder. Opens nothing."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from adumbra.decode.exporters import Exporter, Exporters, Limits
from adumbra.decode.flow_fields import MAX_RATE
from adumbra.decode.flow_rows import Rows, empty_flows
from adumbra.decode.sampled_headers import SampledHeaders, fill_connections
from adumbra.schema.records import UNTOLD, Bytes, Frames

SFLOW = 0
"""Stands for sFlow among the versions of protocols: its datagrams begin with 32 bits, of which the first 16 are 0."""
READ, TRUNCATED, MALFORMED = "datagrams_read", "datagrams_truncated", "datagrams_malformed"

_FLOW_SAMPLE, _COUNTER_SAMPLE, _EXPANDED_FLOW_SAMPLE, _EXPANDED_COUNTER_SAMPLE = 1, 2, 3, 4
_RAW_HEADER, _IPV4, _IPV6 = 1, 3, 4
_LINKS = {1: 1, 11: 228, 12: 229}
"""Header protocols that are read, and their LINKTYPE_ numbers: Ethernet, IPv4, IPv6."""
_FLOW_HEAD = struct.Struct(">8I")
_EXPANDED_FLOW_HEAD = struct.Struct(">11I")
_TOLD_IPV4 = struct.Struct(">II4s4sIII")
_TOLD_IPV6 = struct.Struct(">II16s16sIII")
_LATE_DATAGRAMS = 64
_MAX_DROPS = 1 << 24  # more at once is a counter that began anew
_WORD = 1 << 32


@dataclass(frozen=True, slots=True)
class _Sampled:
    """A sample's circumstances: its row's order, when it was received, one packet in how many was sampled."""

    order: int
    time_ns: int
    rate: int


@dataclass(frozen=True, slots=True)
class _Header:
    """A sampled packet's header in the batch's bytes; length: of the frame on the wire, as far as it was not stripped."""

    sampled: _Sampled
    at: int
    captured: int
    length: int
    link: int


@dataclass(frozen=True, slots=True)
class _Told:
    """What an agent tells of a sampled packet in place of its header."""

    sampled: _Sampled
    version: int
    length: int
    protocol: int
    src: bytes
    dst: bytes
    src_port: int
    dst_port: int
    flags: int


@dataclass(frozen=True, slots=True)
class _Datagram:
    """A datagram while it is read. agent: its address and sub-agent in one number; at: where it lies in the batch."""

    exporter: Exporter
    agent: int
    at: int
    received_ns: int


class SFlow:
    """Reads datagram after datagram of a batch; `rows` gives what they told."""

    def __init__(self, exporters: Exporters, limits: Limits, accounts: Counter[str], sampled: SampledHeaders) -> None:
        self._exporters = exporters
        self._limits = limits
        self._accounts = accounts
        self._sampled = sampled
        self._headers: list[_Header] = []
        self._told: list[_Told] = []

    def read(self, raw: bytes, at: int, exporter: Exporter, received_ns: int, order: int) -> str:
        """Reads a datagram that lies at `at` in the batch's bytes; what became of it. `order`: its first row's."""
        if len(raw) < 28:
            return TRUNCATED
        (kind,) = struct.unpack_from(">I", raw, 4)
        if kind not in (1, 2):
            return MALFORMED
        here = 12 if kind == 1 else 24
        if len(raw) < here + 16:
            return TRUNCATED
        sub_agent, number, _, samples = struct.unpack_from(">IIII", raw, here)
        datagram = _Datagram(exporter, int.from_bytes(raw[8:here]) << 32 | sub_agent, at, received_ns)
        domain = self._exporters.domain(exporter, (SFLOW, datagram.agent))
        change, anew = domain.sequence.follow(number, 1, _LATE_DATAGRAMS)
        self._accounts["datagrams_lost"] += change
        self._accounts["restarts"] += anew
        here += 16
        for nth in range(samples):
            if len(raw) - here < 8:
                return TRUNCATED
            form, size = struct.unpack_from(">II", raw, here)
            here += 8
            if size > len(raw) - here:
                return TRUNCATED
            self._read_sample(form, raw[here : here + size], replace(datagram, at=at + here), order + nth)
            here += size
        return READ

    def rows(self, data: Bytes) -> list[Rows]:
        """A row for each sampled IP packet since the last time: an instant, one packet, the sample's rate."""
        headers, self._headers = self._headers, []
        told, self._told = self._told, []
        self._accounts["records_given"] += len(told)
        return [*self._header_rows(data, headers), *_told_rows(told)]

    def _read_sample(self, form: int, body: bytes, datagram: _Datagram, order: int) -> None:
        self._accounts["records"] += 1
        if form in (_COUNTER_SAMPLE, _EXPANDED_COUNTER_SAMPLE):
            self._accounts["records_counter_samples"] += 1
        elif form in (_FLOW_SAMPLE, _EXPANDED_FLOW_SAMPLE):
            try:
                self._read_flow_sample(form, body, datagram, order)
            except struct.error:
                self._accounts["records_cut_off"] += 1
        else:
            self._accounts["records_unsupported"] += 1

    def _read_flow_sample(self, form: int, body: bytes, datagram: _Datagram, order: int) -> None:
        """Takes the sample's raw header, or else what the agent tells of the packet. Raises struct.error where cut off."""
        if form == _FLOW_SAMPLE:
            _, source, rate, _, drops, _, _, count = _FLOW_HEAD.unpack_from(body)
            at = _FLOW_HEAD.size
        else:
            _, kind, index, rate, _, drops, _, _, _, _, count = _EXPANDED_FLOW_HEAD.unpack_from(body)
            source, at = kind << 32 | index, _EXPANDED_FLOW_HEAD.size
        self._follow_drops(datagram, (form, source), drops)
        sampled = _Sampled(order, datagram.received_ns, min(max(rate, 1), MAX_RATE))
        header: _Header | None = None
        told: _Told | None = None
        raw_header = False
        for _ in range(count):
            record, size = struct.unpack_from(">II", body, at)
            at += 8
            if size > len(body) - at:
                raise struct.error("a flow record is longer than its sample")
            if record == _RAW_HEADER and not raw_header:
                raw_header = True
                header = _header(body, at, size, sampled, datagram.at)
            elif record in (_IPV4, _IPV6) and told is None:
                told = _agents_word(record, body[at : at + size], sampled)
            at += size
        if header is not None:
            self._headers.append(header)
        elif told is not None:
            self._told.append(told)
        else:
            self._accounts["records_unsupported" if raw_header else "records_no_addresses"] += 1

    def _follow_drops(self, datagram: _Datagram, source: tuple[int, int], drops: int) -> None:
        """Counts the samples that the agent says it could not take; its counters wrap at 2^32, or begin anew."""
        known = datagram.exporter.drops
        key = (datagram.agent, *source)
        more = (drops - known.get(key, drops)) % _WORD
        self._accounts["samples_dropped"] += more if more < _MAX_DROPS else 0
        known[key] = drops
        known.move_to_end(key)
        if len(known) > self._limits.sources_per_exporter:
            known.popitem(last=False)

    def _header_rows(self, data: Bytes, headers: list[_Header]) -> list[Rows]:
        if not headers:
            return []
        frames = Frames(
            data=data,
            offset=np.array([h.at for h in headers], np.int64),
            captured=np.array([h.captured for h in headers], np.int64),
            length=np.array([h.length for h in headers], np.int64),
            time_ns=np.array([h.sampled.time_ns for h in headers], np.int64),
            link=np.array([h.link for h in headers], np.int64),
        )
        rate = np.array([h.sampled.rate for h in headers], np.int64)
        return [self._sampled.rows(frames, rate, np.array([h.sampled.order for h in headers], np.int64))]


def _header(body: bytes, at: int, size: int, sampled: _Sampled, base: int) -> _Header | None:
    """The header in a raw header record; None where it begins with a protocol that isn't read."""
    if size < 16:
        raise struct.error("a raw header record is cut off")
    protocol, length, stripped, captured = struct.unpack_from(">IIII", body, at)
    if captured > size - 16:
        raise struct.error("a sampled header is longer than its record")
    link = _LINKS.get(protocol)
    if link is None:
        return None
    return _Header(sampled, base + at + 16, captured, max(length - stripped, captured), link)


def _agents_word(record: int, body: bytes, sampled: _Sampled) -> _Told:
    fields = (_TOLD_IPV4 if record == _IPV4 else _TOLD_IPV6).unpack_from(body)
    length, protocol, src, dst, src_port, dst_port, flags = fields
    version = 4 if record == _IPV4 else 6
    return _Told(sampled, version, length, protocol & 0xFF, src, dst, src_port & 0xFFFF, dst_port & 0xFFFF, flags & 0xFF)


def _told_rows(told: list[_Told]) -> list[Rows]:
    if not told:
        return []
    flows = empty_flows(len(told))
    for i, packet in enumerate(told):
        flows.src_hi[i], flows.src_lo[i] = divmod(int.from_bytes(packet.src), 1 << 64)
        flows.dst_hi[i], flows.dst_lo[i] = divmod(int.from_bytes(packet.dst), 1 << 64)
        flows.version[i], flows.protocol[i], flows.bytes[i] = packet.version, packet.protocol, packet.length
        flows.src_port[i], flows.dst_port[i] = packet.src_port, packet.dst_port
        flows.start_ns[i], flows.rate[i] = packet.sampled.time_ns, packet.sampled.rate
    flows.end_ns[:], flows.packets[:] = flows.start_ns, 1
    flags = np.array([packet.flags for packet in told], np.int64)
    fill_connections(flows, np.where(flags == 0, UNTOLD, flags))
    return [Rows(flows, np.array([packet.sampled.order for packet in told], np.int64))]
