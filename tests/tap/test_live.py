"""Live taps on interfaces in namespaces of the test's own: what is sent is what is seen, and what is missed is told."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network
from itertools import islice
from pathlib import Path

import pytest
from tests.captures import SYN, Frame, ethernet, ip, tcp, udp
from tests.netns.spaces import Spaces, needs
from tests.tap.live_worker import work

from adumbra.decode.packets import Decoder
from adumbra.decode.share import share_of
from adumbra.schema.errors import SourceError
from adumbra.schema.records import Frames, Losses, Outcome
from adumbra.tap import privileges
from adumbra.tap.live import BATCH_FRAMES, LiveTap
from adumbra.tap.packet_socket import LiveSettings, PacketSocket, open_packet_sockets
from adumbra.tap.replay import PcapReplay

pytestmark = [pytest.mark.root, needs()]

NET = [ip_network("10.20.0.0/16"), ip_network("2001:db8:20::/48")]
IN4, OUT4, IN6, OUT6 = "10.20.1.10", "198.51.100.7", "2001:db8:20::5", "2001:db8:21::5"
SHOP = Path(__file__).parents[2] / "examples" / "shop" / "shop.pcap.zst"
SMALL = LiveSettings(ring_bytes=8 << 20, tunnels=False)


@pytest.fixture
def net() -> Iterator[Spaces]:
    """A namespace `near` with an interface n0, cabled to f0 in `far`."""
    with Spaces("near", "far") as made:
        made.veth(("near", "n0"), ("far", "f0"), ["10.20.1.10/24"], ["10.20.1.99/24"])
        for space, interface in (("near", "n0"), ("far", "f0")):
            made.run(space, "ip", "link", "set", interface, "mtu", "65535", "arp", "off")
        yield made


def opened(net: Spaces, settings: LiveSettings = SMALL, workers: int = 1, interface: str = "n0") -> tuple[PacketSocket, ...]:
    with net.inside("near"):
        return open_packet_sockets(interface, NET, settings, workers)


class Sender:
    """Sends frames as they are into the far end of the cable."""

    def __init__(self, net: Spaces, space: str = "far", interface: str = "f0") -> None:
        with net.inside(space):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.bind((interface, 0))

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            assert self._socket.send(frame) == len(frame)

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()


def copied(batch: Frames) -> list[Frame]:
    """The frames of a batch, which is valid only until the next, with their bytes."""
    rows = zip(batch.offset, batch.captured, batch.length, batch.time_ns, batch.link, strict=True)
    return [Frame(int(t), batch.data[at : at + captured].tobytes(), int(n), int(link)) for at, captured, n, t, link in rows]


def seen(tap: LiveTap, act: Callable[[], None]) -> list[Frame]:
    """What the tap gives of what is done once it takes packets."""
    return [frame for share in all_seen([tap], act) for frame in share]


def all_seen(taps: Sequence[LiveTap], act: Callable[[], None]) -> list[list[Frame]]:
    """The same of several taps."""
    batches = [iter(tap) for tap in taps]
    for each in batches:
        assert len(next(each)) == 0  # nothing is sent yet
    act()
    time.sleep(0.1)  # a loaded machine delivers later than it sends
    for tap in taps:
        tap.stop()
    return [[frame for batch in each for frame in copied(batch)] for each in batches]


def packet(src: str, dst: str, payload: bytes = b"") -> bytes:
    return ethernet(ip(src, dst, 6, tcp(40000, 80, SYN, payload=payload)))


def test_a_recorded_capture_is_seen_as_its_file_gives_it(net: Spaces) -> None:
    with PcapReplay(SHOP) as replay:
        sent = list(islice((frame for batch in replay for frame in copied(batch)), 3000))
    want = [frame.data for frame in sent if frame.data[12:14] == b"\x08\x00"]  # the rest is ARP; all IP is the network's
    assert 2000 < len(want) < len(sent)
    began = time.time_ns()
    with Sender(net) as sender, LiveTap(opened(net)[0], time.time_ns) as tap:
        got = seen(tap, lambda: sender.send(*(frame.data for frame in sent)))
        losses = tap.losses()
    assert [frame.data for frame in got] == [data[: SMALL.snap_bytes] for data in want]
    assert [frame.wire for frame in got] == [len(data) for data in want]
    assert {frame.link for frame in got} == {1}
    times = [frame.time_ns for frame in got]
    assert began < times[0] <= times[-1] < time.time_ns()
    assert times == sorted(times)
    assert losses == Losses()


def test_both_versions_and_directions_are_seen_and_nothing_else(net: Spaces) -> None:
    passing = [packet(OUT4, IN4), packet(OUT6, IN6), packet(IN4, OUT4)]
    foreign = [packet(OUT4, "203.0.113.1"), packet(OUT6, "2001:db8:99::1"), ethernet(b"\x00\x01" + bytes(40), 0x0806)]
    back = [packet(IN4, OUT4, b"back"), packet(IN6, OUT6, b"back")]
    with Sender(net) as sender, Sender(net, "near", "n0") as near, LiveTap(opened(net)[0], time.time_ns) as tap:

        def both_ways() -> None:
            for a, b in zip(passing, foreign, strict=True):
                sender.send(a, b)
            near.send(*back)

        assert [frame.data for frame in seen(tap, both_ways)] == passing + back


@pytest.mark.parametrize("tags", [(0x8100,), (0x88A8,), (0x88A8, 0x8100), (0x8100, 0x8100), (0x88A8, 0x8100, 0x8100)])
@pytest.mark.parametrize(("src", "dst"), [(OUT4, IN4), (IN6, OUT6)])
def test_tags_are_seen_through_also_where_only_the_header_has_them(
    net: Spaces, tags: tuple[int, ...], src: str, dst: str
) -> None:
    """The kernel takes the outermost tag of a received frame out of it; the IP packet beneath is whole and its length right."""
    plain = packet(src, dst)
    tagged = plain[:12] + b"".join(struct.pack("!HH", tag, 5) for tag in tags) + plain[12:]
    foreign = tagged.replace(IPv4Address(IN4).packed, bytes(4)).replace(IPv6Address(IN6).packed, bytes(16))
    with Sender(net) as sender, LiveTap(opened(net)[0], time.time_ns) as tap:
        got = seen(tap, lambda: sender.send(foreign, tagged, plain))
    assert [frame.data for frame in got] == [tagged[:12] + tagged[16:], plain]
    assert [frame.wire for frame in got] == [len(tagged) - 4, len(plain)]


def test_frames_to_other_macs_are_seen_in_promiscuous_mode(net: Spaces) -> None:
    with LiveTap(opened(net)[0], time.time_ns):
        assert "promiscuity 1" in net.run("near", "ip", "-d", "link", "show", "n0")
    assert "promiscuity 0" in net.run("near", "ip", "-d", "link", "show", "n0")
    with LiveTap(opened(net, LiveSettings(promiscuous=False))[0], time.time_ns):
        assert "promiscuity 0" in net.run("near", "ip", "-d", "link", "show", "n0")


def test_more_frames_than_a_batch_holds(net: Spaces) -> None:
    count = 2 * BATCH_FRAMES + 77
    frames = [packet(OUT4, IN4, number.to_bytes(4, "big")) for number in range(count)]
    with Sender(net) as sender, LiveTap(opened(net, LiveSettings(ring_bytes=32 << 20))[0], time.time_ns) as tap:
        got = seen(tap, lambda: sender.send(*frames))
    assert [frame.data for frame in got] == frames


@pytest.mark.parametrize("block_bytes", [1 << 16, 1 << 19])
def test_what_a_full_ring_drops_is_counted(net: Spaces, block_bytes: int) -> None:
    settings = LiveSettings(ring_bytes=2 * block_bytes, block_bytes=block_bytes)
    with Sender(net) as sender, LiveTap(opened(net, settings)[0], time.time_ns) as tap:
        frames = [packet(OUT4, IN4, number.to_bytes(4, "big") + bytes(300)) for number in range(6000)]
        got = seen(tap, lambda: sender.send(*frames))
        losses = tap.losses()
    assert 0 < len(got) < len(frames)
    assert losses.dropped == len(frames) - len(got)
    assert losses.freezes >= 1
    assert tap.losses() == losses  # the kernel begins anew at each reading; what was told before stands


def test_two_workers_see_each_packet_once_and_a_remote_in_one(net: Spaces) -> None:
    rng = random.Random(4)
    remotes = [str(IPv4Address(0xC6120000 + rng.getrandbits(12))) for _ in range(40)]
    local = [f"10.20.1.{n}" for n in range(1, 20)]
    frames = []
    for number in range(2000):
        remote, own = rng.choice(remotes), rng.choice(local)
        ends = (remote, own) if rng.random() < 0.5 else (own, remote)
        frames.append(packet(*ends, number.to_bytes(4, "big")))
    frames += [packet(a, b, b"between") for a in local[:6] for b in local[6:12]]
    frames += [frame[:12] + b"\x81\x00\x00\x07" + frame[12:] for frame in frames[:100]]
    sockets = opened(net, SMALL, workers=2)
    with Sender(net) as sender, LiveTap(sockets[0], time.time_ns) as one, LiveTap(sockets[1], time.time_ns) as other:
        shares = all_seen([one, other], lambda: sender.send(*frames))
        assert one.losses() == other.losses() == Losses()
    untagged = [frame[:12] + frame[16:] if frame[12:14] == b"\x81\x00" else frame for frame in frames]
    assert sorted(frame.data for share in shares for frame in share) == sorted(untagged)
    assert min(map(len, shares)) > 400
    for worker, share in enumerate(shares):
        for frame in share:
            src, dst = (int.from_bytes(frame.data[at : at + 4], "big") for at in (26, 30))
            assert share_of(src, dst, 4, NET, 2) == worker


def test_many_prefixes_are_filtered_and_shared_out_by_the_kernel(net: Spaces) -> None:
    rng = random.Random(5)
    wanted = [ip_network((rng.getrandbits(24) << 8, 24)) for _ in range(500)]
    with net.inside("near"):
        sockets = open_packet_sockets("n0", wanted, SMALL, 2)
    assert {one.notes for one in sockets} == {()}
    ends = [str(p.network_address + rng.randrange(256)) for p in rng.sample(wanted, 200)]
    frames = [packet(OUT4, own) for own in ends] + [packet(own, OUT4) for own in ends]
    frames += [packet(OUT4, str(IPv4Address(rng.getrandbits(32)))) for _ in range(50)]
    with Sender(net) as sender, LiveTap(sockets[0], time.time_ns) as one, LiveTap(sockets[1], time.time_ns) as other:
        counts = [len(share) for share in all_seen([one, other], lambda: sender.send(*frames))]
    assert sorted(counts) == [0, 400]  # one remote: one worker


def test_where_the_kernel_has_less_room_for_filters_they_are_shortened(net: Spaces) -> None:
    """net.core.optmem_max was 20 KiB before Linux 6.7."""
    rng = random.Random(7)
    wanted = [ip_network((rng.getrandbits(24) << 8, 24)) for _ in range(900)]
    net.run("near", "sysctl", "-qw", "net.core.optmem_max=20480", check=False)
    if net.run("near", "sysctl", "-n", "net.core.optmem_max", check=False).strip() != "20480":
        pytest.skip("this kernel has one limit for all namespaces")
    with net.inside("near"):
        (one,) = open_packet_sockets("n0", wanted, SMALL)
    assert "ranges of addresses asked for as" in one.notes[0]
    with Sender(net) as sender, LiveTap(one, time.time_ns) as tap:
        assert tap.notes == one.notes
        got = seen(tap, lambda: sender.send(*(packet(OUT4, str(p.network_address)) for p in wanted)))
    assert len(got) == len(wanted)


def test_segments_that_offload_made_one_are_one_long_frame(net: Spaces) -> None:
    """TCP over a cable whose ends offload segmentation: frames above the MTU, whose IP lengths still sum to the data."""
    for space, interface in (("near", "n0"), ("far", "f0")):
        net.run(space, "ip", "link", "set", interface, "mtu", "1500", "arp", "on")
    size = 1 << 20
    with net.inside("near"):
        server = socket.create_server((IN4, 8080))

    def receive() -> None:
        connection, _ = server.accept()
        with connection:
            while connection.recv(1 << 16):
                pass

    def transfer() -> None:
        reader = threading.Thread(target=receive)
        reader.start()
        with net.inside("far"), socket.create_connection((IN4, 8080)) as client:
            client.sendall(bytes(size))
        reader.join(10)

    decoder = Decoder()
    payload = longest = 0
    with server, LiveTap(opened(net)[0], time.time_ns) as tap:
        batches = iter(tap)
        next(batches)
        transfer()
        time.sleep(0.1)
        tap.stop()
        for batch in batches:
            packets = decoder.decode(batch)
            assert (packets.outcome == Outcome.PARSED).all()
            to_server = packets.dst_port == 8080
            payload += int(packets.payload_bytes[to_server].sum())
            longest = max(longest, int(batch.length.max(initial=0)))
            assert (batch.captured <= SMALL.snap_bytes).all()
        assert tap.losses() == Losses()
    assert longest > 1514
    assert payload == size


def test_loopback_packets_are_seen_once() -> None:
    with Spaces("near") as net:
        net.run("near", "ip", "address", "add", "10.20.1.10/32", "dev", "lo")
        with net.inside("near"), LiveTap(open_packet_sockets("lo", NET, SMALL)[0], time.time_ns) as tap:

            def send() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp_socket:
                    udp_socket.bind((IN4, 5000))
                    for number in range(5):
                        udp_socket.sendto(bytes([number]), (IN4, 5000))

            got = seen(tap, send)
    assert [frame.data[42] for frame in got] == list(range(5))


@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="needs /dev/net/tun")
def test_interfaces_without_a_link_header_give_bare_ip(net: Spaces) -> None:
    import fcntl

    with net.inside("near"), open("/dev/net/tun", "r+b", buffering=0) as tun:
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"wire", 0x0001 | 0x1000))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
        net.run("near", "ip", "link", "set", "wire", "up")
        sent = [ip(OUT4, IN4, 17, udp(1, 2, b"in")), ip(OUT6, IN6, 17, udp(1, 2, b"in")), ip(OUT4, OUT4, 17, udp(1, 2, b"in"))]
        with LiveTap(opened(net, interface="wire")[0], time.time_ns) as tap:
            got = seen(tap, lambda: [tun.write(each) for each in sent] and None)
    assert [frame.data for frame in got] == sent[:2]
    assert {frame.link for frame in got} == {101}


def test_an_idle_tap_says_how_far_it_is_complete(net: Spaces) -> None:
    with LiveTap(opened(net)[0], time.time_ns) as tap:
        began = last = time.monotonic()
        for batch in islice(tap, 5):
            assert len(batch) == 0
            assert 0.05e9 < time.time_ns() - batch.complete_to_ns < 1e9
            assert time.monotonic() - last < 0.3
            last = time.monotonic()
        assert last - began < 1.5


def test_no_frame_is_older_than_what_was_said_to_be_complete(net: Spaces) -> None:
    """Bursts and pauses over a ring that is gone round many times: each frame is given, once."""
    rng, sent, done = random.Random(6), [0], threading.Event()

    def chatter() -> None:
        ends = time.monotonic() + 3
        with Sender(net) as sender:
            while time.monotonic() < ends:
                burst = rng.randrange(1, 200)
                sender.send(*[packet(OUT4, IN4)] * burst)
                sent[0] += burst
                time.sleep(rng.choice([0.001, 0.01, 0.05, 0.15, 0.35]))
        time.sleep(0.1)
        done.set()

    talker = threading.Thread(target=chatter)
    complete = count = 0
    settings = LiveSettings(ring_bytes=1 << 20, block_bytes=1 << 16)
    with LiveTap(opened(net, settings)[0], time.time_ns, should_stop=done.is_set) as tap:
        for batch in tap:
            if not talker.ident:
                talker.start()
            count += len(batch)
            assert batch.time_ns.min(initial=2**62) >= complete
            assert len(batch) == 0 or batch.complete_to_ns < batch.time_ns.max()
            complete = max(complete, batch.complete_to_ns)
        assert tap.losses() == Losses()
    talker.join(10)
    assert count == sent[0] > 2000  # some 300 KB, and many blocks that were handed over unfilled


@pytest.mark.parametrize(("act", "ended"), [(["set", "n0", "down"], "n0 went down"), (["delete", "n0"], "n0 is gone")])
def test_an_interface_that_goes_ends_the_source_with_what_it_had(net: Spaces, act: list[str], ended: str) -> None:
    with Sender(net) as sender, LiveTap(opened(net)[0], time.time_ns) as tap:
        batches = iter(tap)
        next(batches)
        sender.send(packet(OUT4, IN4))
        net.run("near", "ip", "link", *act)
        began = time.monotonic()
        assert [frame.data for batch in batches for frame in copied(batch)] == [packet(OUT4, IN4)]
        assert time.monotonic() - began < 2
        assert tap.losses().ended == ended


def test_batches_that_are_still_held_when_the_tap_is_left_stay_readable(net: Spaces) -> None:
    with Sender(net) as sender, LiveTap(opened(net)[0], time.time_ns) as tap:
        batches = iter(tap)
        next(batches)
        sender.send(packet(OUT4, IN4))
        kept = next(batches)
    assert [frame.data for frame in copied(kept)] == [packet(OUT4, IN4)]
    assert tap.progress() is None
    assert tap.name == "live:n0"


def test_workers_without_privileges_read_what_was_opened_for_them(net: Spaces, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in privileges.SINGLE_THREADED.items():
        monkeypatch.setenv(name, value)
    spawn = multiprocessing.get_context("spawn")
    sockets = opened(net, LiveSettings(ring_bytes=1 << 18, block_bytes=1 << 16), workers=2)
    pipes = [spawn.Pipe() for _ in sockets]
    workers = [spawn.Process(target=work, args=(one, pipe[1])) for one, pipe in zip(sockets, pipes, strict=True)]
    frames = [packet(str(IPv4Address(0xC6120000 + n)), IN4, bytes(100)) for n in range(300)]
    try:
        for worker, one in zip(workers, sockets, strict=True):
            worker.start()
            one.close()
        for pipe, _ in pipes:
            assert pipe.poll(60)
            assert pipe.recv() == "ready"
        with Sender(net) as sender:
            sender.send(*frames)
        time.sleep(0.3)
        for pipe, _ in pipes:
            pipe.send("end")
        told = []
        for pipe, _ in pipes:
            assert pipe.poll(20)
            told.append(pipe.recv())
    finally:
        for worker in workers:
            worker.join(10)
            worker.kill()
    assert sorted(data for got, _, _ in told for data, _ in got) == sorted(frames)
    assert [(losses, bare) for _, losses, bare in told] == [(Losses(), True)] * 2
    assert all(got for got, _, _ in told)


# ---- what can't be opened ------------------------------------------------------------------------------------------------


def refused(net: Spaces, interface: str = "n0", workers: int = 1) -> str:
    with net.inside("near"), pytest.raises(SourceError) as told:
        open_packet_sockets(interface, NET, SMALL, workers)
    return str(told.value)


def test_a_wrong_name_lists_the_interfaces_there_are(net: Spaces) -> None:
    assert refused(net, "eth7") == "there is no network interface 'eth7'; give one of lo, n0"


def test_an_interface_that_is_down_says_how_to_bring_it_up(net: Spaces) -> None:
    net.run("near", "ip", "link", "set", "n0", "down")
    assert refused(net) == "n0 is down; bring it up with `ip link set n0 up`"


def test_too_many_workers_are_refused(net: Spaces) -> None:
    assert "give 1 to 256" in refused(net, workers=257)


def test_without_the_privilege_the_command_that_grants_it_is_named() -> None:
    program = """
from adumbra.schema.errors import SourceError
from adumbra.tap import packet_socket, privileges
privileges.drop_all()
try:
    packet_socket.open_packet_sockets("lo", [])
except SourceError as error:
    print(error)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.startswith(
        "lo can't be tapped: this process may not open packet sockets; grant it that with `sudo setcap"
    )
    assert privileges.how_to_grant() in done.stdout


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ring_bytes": 1}, "ring_bytes of a live tap is 1; give"),
        ({"block_bytes": 100_000}, "power of two"),
        ({"ring_bytes": 1 << 19, "block_bytes": 1 << 19}, "at least two blocks"),
        ({"retire_ms": 0}, "retire_ms"),
        ({"snap_bytes": 10}, "snap_bytes"),
        ({"idle_ms": 5000}, "give 10 to 250"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, int], says: str) -> None:
    with pytest.raises(SourceError, match=says):
        LiveSettings(**settings)
