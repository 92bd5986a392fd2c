"""A shadow from a capture file to metric batches: every stage at work, wired as it is in use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.captures import Frame, enhanced, ethernet, interface, pcapng, section, statistics, write
from tests.meter.stories import CLIENT, DB, SHOP, WEB, Talk, at, check_accounts, datagram

from adumbra.emulate.paths import paths_of
from adumbra.emulate.roles import bundled_priors
from adumbra.emulate.vm import SIMULATED, EmulatedNetwork, EmulatedVm
from adumbra.metering import PacketMetering, Watch
from adumbra.schema.metrics import BY_NAME
from adumbra.schema.records import Accounts, MetricBatch, Origin
from adumbra.schema.sizing import Machine
from adumbra.schema.sources import Layer
from adumbra.schema.spec import expand_vms
from adumbra.shadow import Shadow
from adumbra.tap.replay import PcapReplay

VMS = expand_vms(SHOP)
BROKEN = ethernet(b"\x45" + bytes(5))


def make_shadow() -> Shadow:
    paths, priors = paths_of(SHOP), bundled_priors()
    machine = Machine(cpu_cores=2, memory_gb=8, bandwidth_mbps=1000, storage_gb=50)
    emulated = [EmulatedVm(vm.name, priors.prior(vm.role), machine, paths[vm.subnet]) for vm in VMS]
    return Shadow(SHOP, VMS, EmulatedNetwork(emulated, 5))


def watch(hash_seed: int = 0, layer: Layer = Layer.AUTO) -> Watch:
    return Watch(SHOP, VMS, layer, hash_seed=hash_seed)


def followed(path: Path, what: Watch | None = None) -> tuple[list[MetricBatch], Accounts]:
    with PcapReplay(path) as source:
        metering = PacketMetering(what or watch(), source)
        batches = list(make_shadow().run(metering))
        check_accounts(metering.accounts(), metering.accounts().offered)
    return batches, metering.accounts()


def column(batches: list[MetricBatch], name: str, vm: str = "web") -> dict[int, float]:
    """The seconds, from the stories' beginning, in which a column of a VM isn't 0 or NaN."""
    row = [each.name for each in VMS].index(vm)
    pairs = [(start, value) for each in batches for start, value in zip(each.start_ns, each.columns[name][:, row], strict=True)]
    return {int(start - at(0)) // 10**9: float(value) for start, value in pairs if value and not np.isnan(value)}


def conversations() -> list[Frame]:
    frames: list[Frame] = []
    for k in range(30):
        Talk(frames, port=20_000 + k, isn=k).opens(k * 0.7).asks(k * 0.7 + 0.1).replies(k * 0.7 + 0.2).closes(k * 0.7 + 0.5)
    Talk(frames, client=WEB, server=DB, service=5432).opens(3).asks(4).replies(4.2)
    frames += [datagram(k * 0.5, CLIENT, "10.20.3.9", sport=9000 + k) for k in range(20)]
    return sorted(frames, key=lambda frame: frame.time_ns)


def test_every_column_of_the_catalogue_in_every_batch(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pcap", conversations())
    batches, _ = followed(path)
    assert batches
    for each in batches:
        assert tuple(each.columns) == tuple(BY_NAME)
        assert all(values.shape == (len(each), len(VMS)) for values in each.columns.values())
        for name, values in each.columns.items():
            assert (values.dtype.kind == "i") == BY_NAME[name].whole, name
        assert (each.network, each.interval_s, each.vms) == ("shop", 1.0, tuple(vm.name for vm in VMS))
        assert each.source == f"pcap:{path}"
        assert each.origin is Origin.SHADOW
    starts = np.concatenate([each.start_ns for each in batches])
    assert (np.diff(starts) == 10**9).all()
    assert sum(column(batches, "connections_established").values()) == 31
    assert sum(column(batches, "requests").values()) == 30


def test_round_trips_are_simulated_only_where_one_side_is_seen(tmp_path: Path) -> None:
    frames: list[Frame] = []
    Talk(frames).opens(0, rtt=0.25).asks(0.5).replies(0.6)
    Talk(frames, client=CLIENT, server="10.20.3.5").syn(0.1).syn_again(1.1)
    batches, _ = followed(write(tmp_path / "a.pcap", sorted(frames, key=lambda frame: frame.time_ns)))
    assert column(batches, "rtt_ms_p50") == {0: pytest.approx(250.0)}
    one_sided = np.concatenate([each.one_sided for each in batches])
    assert one_sided[:, [vm.name for vm in VMS].index("farm")].all()
    assert column(batches, "rtt_ms_p50", "farm").keys() == {0, 1}
    assert set(SIMULATED) >= {"rtt_ms_p50", "cpu_seconds", "memory_bytes"}
    assert all(value > 0 for value in column(batches, "memory_bytes", "db").values())


def test_the_same_capture_gives_the_same_metrics_whatever_the_hash_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pcap", conversations())
    one, other = followed(path)[0], followed(path, watch(hash_seed=2**61 + 1))[0]
    for name in BY_NAME:
        left, right = (np.concatenate([each.columns[name] for each in batches]) for batches in (one, other))
        assert np.array_equal(left, right, equal_nan=True), name


def test_a_capture_without_traffic_gives_nothing(tmp_path: Path) -> None:
    batches, accounts = followed(write(tmp_path / "a.pcap", []))
    assert batches == []
    assert accounts.offered == 0


def test_frames_that_were_dropped_before_the_tap_are_missed_packets(tmp_path: Path) -> None:
    packet = datagram(0, CLIENT, WEB).data
    parts = [section(), interface(resolution=9), enhanced(at(0.5), packet, dropped=3), enhanced(at(1.5), packet, dropped=4)]
    batches, accounts = followed(write(tmp_path / "a.pcapng", b"".join(parts)))
    assert sum(column(batches, "missed_packets").values()) == 7
    assert accounts.losses.dropped == 7


def test_drops_that_are_told_at_the_end_of_the_capture_are_missed_packets(tmp_path: Path) -> None:
    """dumpcap and Wireshark write interface statistics once, behind the last packet."""
    content = pcapng([datagram(0.5, CLIENT, WEB), datagram(1.5, CLIENT, WEB)]) + statistics(0, dropped=9)
    batches, _ = followed(write(tmp_path / "a.pcapng", content))
    assert column(batches, "missed_packets") == {1: 9}


def test_a_second_source_tells_of_its_own_drops(tmp_path: Path) -> None:
    packet = datagram(0, CLIENT, WEB).data
    told = []
    for second, dropped in ((0.5, 8), (20.5, 3)):
        content = section() + interface(resolution=9) + enhanced(at(second), packet, dropped=dropped)
        batches, _ = followed(write(tmp_path / "a.pcapng", content))
        told.append(sum(column(batches, "missed_packets").values()))
    assert told == [8, 3]


def test_malformed_frames_and_a_cut_are_told(tmp_path: Path) -> None:
    content = write(
        tmp_path / "a.pcap", [datagram(0.5, CLIENT, WEB), Frame(at(1), BROKEN), datagram(1.5, CLIENT, WEB)]
    ).read_bytes()
    path = write(tmp_path / "cut.pcap", content[:-5])
    batches, accounts = followed(path)
    assert column(batches, "missed_packets", "db") == {0: 1}
    assert accounts.outcomes["ip_truncated"] == 1
    assert accounts.losses.ended == "the capture is cut off in the middle of a packet"
    assert accounts.losses.unread_bytes > 0
