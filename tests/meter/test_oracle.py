"""The meter against tshark: the same capture through both, second by second and VM by VM."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests import tshark
from tests.captures import SHARED, Frame, needs_shared, pcap, pcapng, write
from tests.meter.stories import SHOP, Seen, Talk, check_accounts, collect
from tests.meter.test_time import busy

from adumbra.decode.packets import Decoder
from adumbra.meter.attribute import Attribution
from adumbra.meter.intervals import Meter, MeterSettings
from adumbra.meter.summary import Summary
from adumbra.schema.addresses import address_of
from adumbra.schema.records import Intervals
from adumbra.schema.spec import NetworkSpec, expand_vms, parse_spec
from adumbra.tap.replay import PcapReplay

COUNTS = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "connections_attempted", "connections_initiated",
    "connections_established",
)  # fmt: skip
MICROSECOND_MS = 0.001


def metered(path: Path, spec: NetworkSpec, settings: MeterSettings | None = None) -> Seen:
    vms = expand_vms(spec)
    meter, attribution, decoder = Meter(len(vms), spec.interval_ns, settings), Attribution(spec, vms), Decoder()
    summary = Summary(len(vms))
    given: list[Intervals] = []
    with PcapReplay(path) as source:
        for frames in source:
            given.extend(map(summary.intervals, meter.add(attribution.assign(decoder.decode(frames)))))
        given.extend(map(summary.intervals, meter.finish()))
        seen = collect(tuple(vm.name for vm in vms), given, meter.accounts(source.losses()))
    check_accounts(seen.accounts, seen.accounts.offered)
    return seen


def assert_as_tshark(path: Path, spec: NetworkSpec, least_round_trips: int = 1) -> None:
    """Bytes, packets, SYNs and handshakes exactly, round trips to the microsecond, in every second of every VM."""
    vms = expand_vms(spec)
    blocks = [(block, vm.name) for vm in vms for block in vm.addresses]
    vm_of = {str(address_of(b.version, n)): name for b, name in blocks for n in range(b.first, min(b.last, b.first + 300) + 1)}
    theirs, ours = tshark.cells(path, vm_of), metered(path, spec)
    seconds = [round(second) + 1_700_000_000 for second in ours.seconds]
    differ, compared = [], 0
    for k, second in enumerate(seconds):
        for v, vm in enumerate(ours.vms):
            want = theirs.pop((vm, second), tshark.Cell())
            got = {name: int(ours.columns[name][k, v]) for name in COUNTS}
            differ += [
                (vm, second, name, got[name], getattr(want, name)) for name in COUNTS if got[name] != getattr(want, name)
            ]
            for name, level in (("rtt_ms_p50", 0.5), ("rtt_ms_p99", 0.99)):
                value = ours.columns[name][k, v]
                if not want.rtt_ms:
                    assert np.isnan(value), (vm, second)
                else:
                    assert value == pytest.approx(np.quantile(want.rtt_ms, level), abs=MICROSECOND_MS), (vm, second)
                    compared += 1
    assert not differ, differ[:5]
    assert not theirs, "tshark saw traffic in seconds that the meter did not give"
    assert compared >= least_round_trips


def addressed(frames: list[Frame]) -> list[Frame]:
    return sorted((frame for frame in frames if len(frame.data) > 20), key=lambda frame: frame.time_ns)


@tshark.needs_tshark
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("jumps", [False, True])
def test_made_up_traffic(tmp_path: Path, seed: int, jumps: bool) -> None:
    frames = [
        frame for frame in addressed(busy(seed, 400, jumps=jumps, ports=400)) if b"\xc0\xa8\x07\x0b" not in frame.data[26:34]
    ]
    content = pcapng(frames) if seed == 2 else pcap(frames, "us" if seed == 3 else "ns")
    assert_as_tshark(write(tmp_path / "made.pcap", content), SHOP, 20)


@tshark.needs_tshark
def test_handshakes_with_losses(tmp_path: Path) -> None:
    frames: list[Frame] = []

    def talk(k: int) -> Talk:
        return Talk(frames, port=20_000 + k, isn=1000 * k)

    talk(1).opens(0.1).asks(0.2)
    talk(2).syn(0).syn_again(1).answer(1.01).ack(1.03)
    talk(3).syn(0).syn_again(1).syn_again(3).answer(3.01).ack(3.03).asks(3.1)
    lost_answer = talk(4).syn(0).answer(0.01).syn_again(1)
    lost_answer._send(1.01, False, 0x12, 0, seq=lost_answer.server_isn)
    lost_answer.ack(1.03)
    lost_ack = talk(5).syn(0).answer(0.01)
    lost_ack._send(0.5, False, 0x12, 0, seq=lost_ack.server_isn)
    lost_ack.asks(0.53)
    talk(6).syn(0).rst(0.01, by_client=False).syn_again(1).answer(1.01).ack(1.02)
    talk(7).opens(0).closes(1)
    Talk(frames, port=20_007, isn=5_000_000, server_isn=3).opens(5).asks(6)
    talk(8).syn(0)
    Talk(frames, port=20_008, isn=5_000_000).syn(2).answer(2.01).ack(2.03)
    assert_as_tshark(write(tmp_path / "losses.pcap", sorted(frames, key=lambda f: f.time_ns)), SHOP, 8)


def nets_spec(nets: dict[str, list[str]]) -> NetworkSpec:
    subnets = "".join(f"  - {{name: s{i}, cidr: {prefix}}}\n" for i, prefix in enumerate(nets))
    vms = "".join(
        f"  - {{name: h{host.replace('.', '-')}, subnet: s{i}, addresses: [{host}]}}\n"
        for i, hosts in enumerate(nets.values())
        for host in hosts
    )
    return parse_spec(f"name: net\ncidrs: [{', '.join(nets)}]\nsubnets:\n{subnets}vms:\n{vms}")


PLANT_HOSTS = [f"141.81.0.{host}" for host in (10, 23, 24, 26, 43, 44, 46, 63, 64, 66, 83, 84, 86, 104, 143, 144, 163, 164)]
PLANT = nets_spec({"141.81.0.0/24": PLANT_HOSTS})
SUBSTATION = nets_spec({"192.168.0.0/24": [f"192.168.0.{host}" for host in (1, 10, 18, 20, 21, 22, 35, 40, 42, 60, 241)]})
TLS_HOSTS = nets_spec({
    "10.0.0.0/8": ["10.0.2.15", "10.0.0.1", "10.5.11.120", "10.30.29.3"],
    "192.168.0.0/16": ["192.168.1.159", "192.168.6.86", "192.168.4.149", "192.168.2.126", "192.168.6.109"],
    "104.154.89.0/24": ["104.154.89.105"], "107.170.241.0/24": ["107.170.241.107"], "8.8.4.0/24": ["8.8.4.4"],
})  # fmt: skip


@needs_shared
@tshark.needs_tshark
def test_the_plant() -> None:
    path = SHARED / "plant_141.81_merged.pcap"
    assert_as_tshark(path, PLANT, 2)
    seen = metered(path, PLANT)
    assert seen.accounts.offered == seen.accounts.attributed == 26_267
    assert seen.accounts.untracked == seen.accounts.late == seen.accounts.uncounted == 0


@needs_shared
@tshark.needs_tshark
@pytest.mark.parametrize(("name", "spec", "round_trips"), [("Synchrophasor.pcap", SUBSTATION, 28), ("SSL.pcap", TLS_HOSTS, 80)])
def test_a_substation_and_bursty_tls(name: str, spec: NetworkSpec, round_trips: int) -> None:
    assert_as_tshark(SHARED / name, spec, round_trips)


@needs_shared
@tshark.needs_tshark
@pytest.mark.parametrize(("name", "spec"), [("Synchrophasor.pcap", SUBSTATION), ("plant_141.81_merged.pcap", PLANT)])
def test_retransmissions_are_tsharks_with_those_it_calls_out_of_order(name: str, spec: NetworkSpec) -> None:
    both = "tcp.analysis.retransmission or tcp.analysis.out_of_order"
    command = ["tshark", "-n", "-r", str(SHARED / name), "-Y", both, "-T", "fields", "-e", "ip.src", "-e", "ip.dst"]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    hosts = {str(address_of(block.version, block.first)) for vm in expand_vms(spec) for block in vm.addresses}
    theirs = sum(address in hosts for row in rows for address in row.split("\t"))
    assert metered(SHARED / name, spec).columns["retransmitted_packets"].sum() == theirs > 0
