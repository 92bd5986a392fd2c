"""Reads records of Azure's NSG and virtual network flow logs, JSON objects, into rows. No files, no attribution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from adumbra.decode.flow_logs_rows import (
    DUPLICATE,
    MALFORMED,
    NO_CONNECTIONS,
    PARSED,
    TCP,
    UDP,
    UNSUPPORTED,
    Connections,
    Ends,
    MalformedError,
    Reporters,
    Rows,
    Tally,
    address,
    epoch_ns,
    port,
    whole,
)  # fmt: skip
from adumbra.schema.records import UNTOLD

_PROTOCOLS = {"T": TCP, "U": UDP}
_MOST_FLOWS = 1 << 18
_BEGUN, _CONTINUED, _ENDED, _DENIED, _UNSTATED = "B", "C", "E", "D", "A"


class _Flow(NamedTuple):
    """A flow that was told of: when last, and, where its beginning was, whether it has been answered."""

    last_ns: int
    begun: bool
    answered: bool


class AzureRecords:
    """Azure's flow logs ("Flow logging for network security groups", "Virtual network flow logs", Azure Network Watcher).

    A tuple speaks for the flow's initiator, and gives a row for what that sent and one for what it received. C and E count
    since the flow's last tuple: such a row begins there, or, where that isn't known (at most 262,144 flows are), is an instant.
    B counts nothing yet; D (and a denial of version 1) is a failed attempt whose packets, if they aren't told, are
    untold. A TCP flow that has begun is an attempt; it is established once the initiator has sent two packets and got one,
    a concluded handshake (inferred), and has failed if it ends before. Version 1 tells only that a flow was allowed or
    denied. A flow within the network is logged at both interfaces: the first that tells of it counts, what the other tells
    within 20 minutes is a duplicate.
    """

    def __init__(self, rows: Rows, tally: Tally) -> None:
        self._rows, self._tally = rows, tally
        self._reporters = Reporters()
        self._flows: dict[Ends, _Flow] = {}

    def read(self, record: Mapping[str, object], line: int) -> None:
        """Reads a record's tuples and counts what became of each."""
        found = False
        for mac, text in _tuples(record):
            found = True
            try:
                self._read(mac, text, virtual_network="flowRecords" in record)
            except MalformedError as error:
                self._tally.drop(MALFORMED, line, error)
        if not found:
            self._tally.drop(UNSUPPORTED, line, "a record without flow tuples")

    def _read(self, mac: object, text: object, *, virtual_network: bool) -> None:
        values = text.split(",") if isinstance(text, str) and len(text) < 1024 else []
        if not (len(values) >= 13 if virtual_network else len(values) in {8, 13}):
            raise MalformedError(f"a flow tuple of {len(values)} parts")
        protocol = whole(values[5], "protocol", 255) if virtual_network else _PROTOCOLS.get(values[5])
        if protocol is None:
            raise MalformedError(f"{values[5][:20]!r} is no protocol of a flow tuple")
        ends = Ends(address(values[1]), address(values[2]), port(values[3]), port(values[4]), protocol)
        time_ns = epoch_ns(values[0])
        state = values[7] if virtual_network or values[7] == _DENIED or len(values) < 13 else values[8]
        if state not in {_BEGUN, _CONTINUED, _ENDED, _DENIED, _UNSTATED}:
            raise MalformedError(f"{state[:20]!r} is no state of a flow")
        sent_packets, sent_bytes, got_packets, got_bytes = (_count(value) for value in (values[9:13] or [""] * 4))
        if self._reporters.is_duplicate(ends, (mac, values[6]), time_ns):
            self._tally.count(DUPLICATE)
            return
        if state == _BEGUN:
            sent_packets = sent_bytes = 0
        start_ns, connections = self._follow(ends, state, time_ns, (sent_packets, got_packets))
        self._rows.add(ends, (start_ns, time_ns), (sent_bytes, sent_packets), connections)
        self._tally.count(PARSED)
        if state in {_CONTINUED, _ENDED}:
            self._rows.add(ends.back(), (start_ns, time_ns), (got_bytes, got_packets), connections.of_answers())
            self._tally.count(PARSED)

    def _follow(self, ends: Ends, state: str, time_ns: int, packets: tuple[int, int]) -> tuple[int, Connections]:
        """When what a tuple counts began, and what it says of connections."""
        flow = self._flows.pop(ends, None)
        if state == _DENIED:
            return time_ns, Connections(1, 0, 1, 1) if ends.protocol == TCP else NO_CONNECTIONS._replace(from_client=1)
        begins = state == _BEGUN
        flow = flow if flow and not begins else _Flow(time_ns, begins, answered=False)
        answers = flow.begun and not flow.answered and packets[0] >= 2 and packets[1] >= 1
        fails = flow.begun and not flow.answered and not answers and state == _ENDED
        if state in {_BEGUN, _CONTINUED}:
            if len(self._flows) >= _MOST_FLOWS:
                del self._flows[next(iter(self._flows))]
            self._flows[ends] = _Flow(max(time_ns, flow.last_ns), flow.begun, flow.answered or answers)
        if ends.protocol != TCP:
            told = NO_CONNECTIONS._replace(from_client=1)
        elif state == _UNSTATED:
            told = Connections(1, UNTOLD, UNTOLD, 1)
        else:
            told = Connections(int(begins), int(answers), int(fails), 1)
        return min(flow.last_ns, time_ns), told


def _count(text: str) -> int:
    return UNTOLD if text == "" else whole(text, "a count")


def _tuples(record: Mapping[str, object]) -> Iterator[tuple[object, object]]:
    """Each flow tuple of a record, with the interface that logged it, by its hardware address."""
    whose = record.get("macAddress")
    for flow in (*_items(record.get("flowRecords"), "flows"), *_items(record.get("properties"), "flows")):
        for group in (*_items(flow, "flowGroups"), *_items(flow, "flows")):
            mac = group.get("mac", whose) if isinstance(group, Mapping) else whose
            for text in _items(group, "flowTuples"):
                yield str(mac), text


def _items(value: object, name: str) -> list[object]:
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, list) else []
