"""Bytes in, columns out: datagrams of NetFlow v5 and v9, IPFIX and sFlow v5 become FlowRecords. No sockets, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from adumbra.decode.exporters import Exporters, Limits
from adumbra.decode.flow_fields import DataSet, flow_rows, sampled_rows
from adumbra.decode.flow_rows import Rows, joined
from adumbra.decode.netflow import IPFIX, READ, V5, V9, NetFlow
from adumbra.decode.sampled_headers import SampledHeaders
from adumbra.decode.sflow import SFlow
from adumbra.schema.records import Datagrams, FlowRecords

_MESSAGE_ORDERS = 1 << 22  # more than the rows that a message, and what waited for its templates, can give
_MAX_MESSAGES = 64
_DATAGRAM_ORDERS = _MESSAGE_ORDERS << 16
_SFLOW_V5 = b"\0\0\0\5"

ACCOUNTS: tuple[str, ...] = (
    "datagrams",  # offered = read + bad_version + truncated + malformed
    "datagrams_read",
    "datagrams_bad_version",
    "datagrams_truncated",  # shorter than it says itself; what was whole in it counts
    "datagrams_malformed",
    "datagrams_lost",  # v9 and sFlow: by gaps in the exporters' sequence numbers
    "sets",  # of v9 and IPFIX = read + templates + unknown + malformed + waiting + dropped
    "sets_read",
    "sets_templates",
    "sets_unknown",  # of a reserved number
    "sets_malformed",
    "sets_waiting",  # now, for their template
    "sets_dropped",  # whose template didn't come in time, or that didn't fit into the bound
    "records",  # of the sets read, v5 records, sFlow samples = given + the following
    "records_given",
    "records_options",
    "records_no_addresses",
    "records_no_counts",  # events of firewalls and address translation
    "records_unbelievable",  # counts that are too large to add up
    "records_cut_off",
    "records_counter_samples",
    "records_unsupported",  # samples or sampled headers of kinds that aren't read
    "records_not_ip",
    "records_unreadable",  # sampled headers that are malformed or too short
    "records_lost",  # v5 and IPFIX: by gaps in the exporters' sequence numbers
    "reverse_rows",  # second rows of biflows: rows = records_given + these
    "samples_dropped",  # by sFlow agents, as they say
    "rates_unknown",  # given records whose sampler nothing was told of: they count unscaled
    "clocks_replaced",  # datagrams whose exporter's clock was more than a day off
    "times_replaced",  # given records whose times were not believed
    "templates",
    "templates_refused",
    "templates_forgotten",
    "exporters_forgotten",
    "domains_forgotten",
    "restarts",  # sequence numbers that began anew
)
"""What `FlowDecoder.accounts` tells: every datagram, set and record once, and what else was noticed."""


class FlowDecoder:
    """Decodes batch after batch of exporters' datagrams, and keeps what they tell of themselves, within limits."""

    def __init__(self, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self._accounts: Counter[str] = Counter()
        self._exporters = Exporters(limits, self._accounts)
        self._netflow = NetFlow(self._exporters, limits, self._accounts)
        self._sampled = SampledHeaders(self._accounts)
        self._sflow = SFlow(self._exporters, limits, self._accounts, self._sampled)

    def decode(self, datagrams: Datagrams) -> FlowRecords:
        """The flows that these datagrams tell of, in the order in which their templates were known; hostile bytes are
        counted, never raised.

        How datagrams are cut into batches changes no row. A biflow gives two rows, one where nothing came back. Data whose
        template isn't known yet are given with the batch in which it comes. complete_to_ns is the datagrams': flows that
        ended before may follow, by their exporters' timeouts. sFlow's rows have the times at which they were received.
        """
        for i in range(len(datagrams)):
            at, received_ns = int(datagrams.offset[i]), int(datagrams.time_ns[i])
            raw = datagrams.data[at : at + int(datagrams.size[i])].tobytes()
            self._accounts["datagrams"] += 1
            self._accounts[self._read(raw, at, datagrams.exporter[i], received_ns, i * _DATAGRAM_ORDERS)] += 1
        if len(datagrams):
            self._exporters.expire(int(datagrams.time_ns.max()))
        rows: list[Rows] = []
        for sets in _by_template(self._netflow.take()):
            rows += sampled_rows(sets, self._sampled) if sets[0].template.section else flow_rows(sets, self._accounts)
        rows += self._sflow.rows(datagrams.data)
        return joined(rows, datagrams.complete_to_ns)

    def accounts(self) -> Mapping[str, int]:
        """Where every datagram, set and record went, by the names of ACCOUNTS."""
        told = {name: self._accounts[name] for name in ACCOUNTS}
        return told | {"sets_waiting": self._exporters.waiting()}

    def _read(self, raw: bytes, at: int, name: str, received_ns: int, order: int) -> str:
        if len(raw) < 4:
            return "datagrams_truncated"
        version = int.from_bytes(raw[:2])
        if raw[:4] == _SFLOW_V5:
            return self._sflow.read(raw, at, self._exporters.hear(name), received_ns, order)
        reader = {V5: self._netflow.read_v5, V9: self._netflow.read_v9, IPFIX: self._netflow.read_ipfix}.get(version)
        if reader is None:
            return "datagrams_bad_version"
        exporter = self._exporters.hear(name)
        fate, size = reader(raw, exporter, received_ns, order)
        at = size
        for _ in range(_MAX_MESSAGES - 1):  # some tools put one message behind the other into a datagram
            if fate != READ or len(raw) - at < 16 or raw[at : at + 2] != raw[:2]:
                break
            fate, size = reader(raw[at:], exporter, received_ns, order + at * _MESSAGE_ORDERS)
            at += size
        return fate


def _by_template(sets: list[DataSet]) -> list[list[DataSet]]:
    groups: dict[int, list[DataSet]] = {}
    for data_set in sets:
        groups.setdefault(id(data_set.template), []).append(data_set)
    return list(groups.values())
