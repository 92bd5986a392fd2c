"""Every file of real exporters is read, or refused with a reason; the totals are nfdump's and tshark's."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.decode.exports import balanced, datagrams, rows
from tests.decode.exports_corpus import FLOWS, exporters, needs_corpus
from tests.decode.exports_oracles import Totals, needs_nfdump, needs_tshark, nfdump, tshark

from adumbra.decode.flow_exports import FlowDecoder
from adumbra.schema.records import FlowRecords

REASONS = (
    "records_options",
    "records_no_addresses",
    "records_no_counts",
    "records_not_ip",
    "sets_waiting",
    "datagrams_malformed",
)
WANT: dict[str, tuple[int | str, ...]] = {
    "ipfix_barracuda_extended_uniflow": (0, 0, 0, "records_no_counts 2"),
    "ipfix_barracuda": (4, 388, 4, "records_no_counts 4"),
    "ipfix_juniper_mx240_junos151r6s3": (0, 0, 0, "records_options 1"),
    "ipfix_mikrotik": (46, 103235, 253),
    "ipfix_netscaler": (3, 3106, 5, "sets_waiting 1"),
    "ipfix_nokia_bras": (0, 0, 0, "records_no_counts 1"),
    "ipfix_openbsd_pflow": (26, 99323, 209),
    "ipfix_procera": (0, 0, 0, "records_no_counts 8"),
    "ipfix_viptela": (1, 775, 8),
    "ipfix_vmware_vds": (5, 806, 8),
    "ipfix_yaf": (4, 596, 10, "records_options 1"),
    "netflow9_cisco_asr1001x": (25, 38255, 124),
    "netflow9_cisco_aci": (3, 297, 6),
    "netflow9_cisco_asa_1": (14, 888, 0),
    "netflow9_cisco_asa_2": (30, 130362, 0, "records_no_counts 4"),
    "netflow9_cisco_asr9k": (21, 208031, 531, "records_options 19"),
    "netflow9_cisco_nbar": (5, 3064, 40, "records_options 15"),
    "netflow9_cisco_wlc_8510": (0, 0, 0),
    "netflow9_cisco_wlc": (0, 0, 0, "records_no_addresses 19"),
    "netflow9_field_layer2segmentid": (1, 52, 1),
    "netflow9_fortigate_fortios_521": (1, 152, 3, "records_options 1"),
    "netflow9_fortigate_fortios_542_appid": (17, 29492, 105),
    "netflow9_h3c_netstream_varstring": (1, 702, 9),
    "netflow9_h3c": (16, 8729687, 6113),
    "netflow9_huawei_netstream": (1, 200, 4),
    "netflow9_juniper_srx": (0, 0, 0, "records_options 1"),
    "netflow9_macaddr": (0, 0, 0, "records_options 1", "records_no_counts 29"),
    "netflow9_nprobe": (1, 200, 2, "records_options 1", "records_no_addresses 1"),
    "netflow9_paloalto_81": (1, 363, 3),
    "netflow9_paloalto_panos": (8, 617, 8),
    "netflow9_ubnt_edgerouter": (16, 20418, 114),
    "netflow9_unknown_tpl266_292": (2, 310, 2),
    "ipfix_ixia_tpldata256": (1, 360, 4),
    "ipfix_ixia_tpldata271": (2, 132, 2),
    "netflow9_0length_fields": (10, 160, 5),
    "netflow9_iptnetflow_reduced_size_encoding_tpldata260": (12, 7598, 74, "sets_waiting 6"),
    "netflow9_softflowd": (7, 1128, 13),
    "netflow9_streamcore": (4, 7295, 28),
    "ipfix": (12, 13279, 54, "records_options 1"),
    "netflow5": (30, 18684, 230),
    "netflow5_invalid01": (0, 0, 0, "datagrams_malformed 1"),
    "netflow5_invalid02": (0, 0, 0, "datagrams_malformed 1"),
    "netflow5_juniper_mx80": (29, 3989, 31),
    "netflow5_microtik": (30, 40812, 160),
    "netflow9_cisco_1941K9": (29, 70258, 370),
    "netflow9_invalid01": (2, 194, 2, "records_options 1"),
    "netflow9_valid01": (7, 1128, 13),
    "capture datalink": (1, 96, 1),
    "capture ethernet-over-mpls-with-control-word": (8, 11345, 8, "records_not_ip 2"),
    "capture icmp": (4, 376, 4),
    "capture ipfix-srv6": (1, 104, 1),
    "capture ipfixprobe": (6, 25942, 60),
    "capture juniper-cpid": (1, 104, 1),
    "capture multiplesamplingrates": (12, 14818, 38, "records_options 2"),
    "capture v9": (4, 5848, 4, "records_options 4"),
    "capture samplingrate": (6, 3740, 6),
    "capture data+": (21, 58329, 66, "records_options 1"),
    "capture data-1140": (5, 4961, 5),
    "capture data-discard-interface": (1, 1500, 1),
    "capture data-encap-vxlan": (1, 154, 1),
    "capture data-icmpv4": (1, 84, 1),
    "capture data-icmpv6": (1, 72, 1),
    "capture data-local-interface": (1, 1500, 1),
    "capture data-multiple-interfaces": (1, 1500, 1),
    "capture data-qinq": (1, 80, 1),
    "capture data-sflow-expanded-sample": (1, 104, 1),
    "capture data-sflow-ipv4": (1, 1344, 1),
    "capture data-sflow-raw-ipv4": (2, 64, 2),
    "capture mpls": (2, 979, 11, "records_options 1"),
    "capture nat": (0, 0, 0, "records_no_counts 9"),
    "capture nfv5": (29, 88345, 78),
    "capture physicalinterfaces": (8, 31111, 29, "records_options 1"),
}
"""Of each exporter: rows, bytes and packets, unscaled; then what was refused, and how much of it."""

SFLOW = {name for name in WANT if name.startswith("capture data-")}
SECTIONS = {"capture datalink", "capture ethernet-over-mpls-with-control-word", "capture ipfix-srv6", "capture juniper-cpid"}
"""What holds sampled packets' headers: nfdump and tshark sum up flows only."""
NFDUMP_DIFFERS = {
    "ipfix": "reads only the first of two messages in a datagram",
    "netflow9_cisco_wlc": "keeps flows that have no addresses",
    "netflow9_nprobe": "keeps flows whose addresses are 0",
    "netflow9_fortigate_fortios_542_appid": "adds bytes in and bytes out of one and the same flow",
    "capture data+": "reads the first ten of 21 records only",
    "capture multiplesamplingrates": "scales by one of two samplers",
}
TSHARK_DIFFERS = {
    "ipfix": "reads only the first of two messages in a datagram",
    "netflow5": "reads only the first of 24 messages in a datagram",
    "netflow5_invalid01": "reads as many records as there is room for, of 55,582",
    "netflow5_invalid02": "reads as many records as there is room for, of 163",
    "ipfix_yaf": "adds other counters to the packets",
    "netflow9_cisco_wlc": "shows flows that have no addresses",
    "netflow9_nprobe": "shows flows whose addresses are 0",
    "netflow9_h3c": "reads only the first of 16 sets",
    "netflow9_invalid01": "doesn't read records of templates that it calls malformed",
}


def exported_ns(payload: bytes) -> int:
    """When a datagram was exported, by its exporter's clock; sFlow doesn't tell."""
    at = {5: 8, 9: 8, 10: 4}.get(int.from_bytes(payload[:2]))
    return 10**18 if at is None else int.from_bytes(payload[at : at + 4]) * 10**9


def decoded(name: str) -> tuple[FlowRecords, dict[str, int]]:
    decoder = FlowDecoder()
    payloads = [payload for _, payload in exporters()[name]]
    flows = decoder.decode(datagrams(payloads, [exported_ns(payload) for payload in payloads]))
    assert balanced(decoder.accounts(), len(rows(flows)))
    return flows, dict(decoder.accounts())


def totals(flows: FlowRecords, accounts: dict[str, int], *, scaled: bool = False) -> Totals:
    """Of the records with counts: a biflow is one."""
    rate = flows.rate if scaled else 1
    octets, packets = (flows.bytes.clip(min=0) * rate).sum(), (flows.packets.clip(min=0) * rate).sum()
    counted = int(((flows.bytes > 0) | (flows.packets > 0)).sum())
    return Totals(counted - accounts["reverse_rows"], int(octets), int(packets))


@needs_corpus
def test_every_file_is_there() -> None:
    read = [name for files in exporters().values() for name in {name for name, _ in files}]
    there = [path.name for folder in ("logstash-dat", "akvorado") for path in (FLOWS / folder).iterdir()]
    assert sorted(read) == sorted(there)
    assert set(exporters()) == set(WANT)


@needs_corpus
@pytest.mark.parametrize("name", WANT)
def test_what_is_read_and_refused(name: str) -> None:
    flows, accounts = decoded(name)
    refused = [f"{reason} {accounts[reason]}" for reason in REASONS if accounts[reason]]
    assert (len(flows), flows.bytes.clip(min=0).sum(), flows.packets.clip(min=0).sum(), *refused) == WANT[name]


@needs_corpus
@needs_nfdump
def test_totals_are_nfdumps(tmp_path: Path) -> None:
    """nfdump scales by some exporters' sampling rates, and leaves others' to its user."""
    names = sorted(WANT.keys() - SFLOW - SECTIONS)
    found = nfdump([[payload for _, payload in exporters()[name]] for name in names], tmp_path)
    differ = set()
    for name, records in zip(names, found, strict=True):
        counts = [[int(record[column]) for column in ("ibyt", "obyt", "ipkt", "opkt")] for record in records]
        counted = [count for count in counts if any(count)]
        theirs = Totals(len(counted), sum(c[0] + c[1] for c in counted), sum(c[2] + c[3] for c in counted))
        flows, accounts = decoded(name)
        if theirs not in (totals(flows, accounts), totals(flows, accounts, scaled=True)):
            differ.add(name)
    assert differ == set(NFDUMP_DIFFERS)


OCTETS = ("cflow.octets", "cflow.post_octets", "cflow.permanent_octets", "cflow.initiator_octets", "cflow.responder_octets")
PACKETS = tuple(name.replace("octets", "packets") for name in OCTETS)


@needs_corpus
@needs_tshark
def test_totals_are_tsharks(tmp_path: Path) -> None:
    """tshark shows each of a record's counters; which of them count is ours to say."""
    names = sorted(WANT.keys() - SFLOW - SECTIONS)
    payloads = [[payload for _, payload in exporters()[name]] for name in names]
    found = tshark(payloads, tmp_path, [*OCTETS, *PACKETS], "cflow")
    differ = set()
    for name, fields in zip(names, found, strict=True):
        told = {field: sum(map(int, values)) for field, values in fields.items()}
        flows, accounts = decoded(name)
        _, octets, packets = totals(flows, accounts)
        if octets not in choices(told, OCTETS) or packets not in choices(told, PACKETS):
            differ.add(name)
    assert differ == set(TSHARK_DIFFERS)


def choices(told: dict[str, int], fields: tuple[str, ...]) -> set[int]:
    """Counts since the last record, into the exporter or out of it; of the whole flow; or of both directions."""
    into, out, whole, there, back = (told[field] for field in fields)
    return {into, into + out, whole, there + back} - {0} or {0}


@needs_corpus
@needs_tshark
def test_sampled_packets_are_tsharks(tmp_path: Path) -> None:
    names = sorted(SFLOW - {"capture data-sflow-ipv4", "capture data-encap-vxlan"})  # no header; a packet within the packet
    payloads = [[payload for _, payload in exporters()[name]] for name in names]
    for name, found in zip(names, tshark(payloads, tmp_path, ["ip.len", "ipv6.plen"], "sflow"), strict=True):
        _, *lengths = map(int, found["ip.len"])  # the first is the datagram's own
        lengths += [int(length) + 40 for length in found["ipv6.plen"]]
        assert (len(lengths), sum(lengths)) == WANT[name][:2], name
