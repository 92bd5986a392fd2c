"""Opens packet sockets with their rings, filters and fanout: all that needs the privilege. Reads no packets, needs no NumPy."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adumbra.schema.addresses import Prefix
from adumbra.schema.errors import SourceError
from adumbra.tap import bpf, privileges
from adumbra.tap.bpf import LinkKind, Program

# linux/if_packet.h, linux/if_ether.h, asm-generic/socket.h, linux/if_arp.h
SOL_PACKET, SO_ATTACH_FILTER = 263, 26
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION, _FANOUT, _FANOUT_DATA, _IGNORE_OUTGOING = 1, 5, 6, 10, 18, 22, 23
_TPACKET_V3, _PROMISCUOUS = 2, 1
_FANOUT_HASH, _FANOUT_CBPF, _UNIQUE_ID, _DEFRAGMENT = 0, 6, 0x2000, 0x8000
_ETH_P_ALL, _SIOCGIFFLAGS = 3, 0x8913
_LINKS = {1: LinkKind.ETHERNET, 772: LinkKind.ETHERNET}  # Ethernet, loopback
_LINKS |= dict.fromkeys((0xFFFE, 512, 519, 768, 769, 776), LinkKind.RAW)  # none (tun, WireGuard), PPP, raw IP, IP tunnels
_LOOPBACK = 772
_FRAME_BYTES = 2048  # means nothing in TPACKET_V3, but is checked
_MIN_RING_BYTES, _MAX_RING_BYTES = 1 << 17, 1 << 32
_MIN_BLOCK_BYTES, _MAX_BLOCK_BYTES = 1 << 16, 1 << 24
_MAX_WORKERS = 256
_FEWEST_INSTRUCTIONS = 256
_BY_FLOW = "this kernel shares packets out by flow only"


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """How an interface is tapped.

    ring_bytes: of each worker's ring (halved until the kernel grants it); block_bytes: in which it is handed over, a power
    of two; retire_ms: when a block that isn't full is handed over; snap_bytes: how much of each packet is kept, headers and
    those of tunnels; idle_ms: after how long without packets an empty batch is given; promiscuous: whether frames to other
    MAC addresses are taken, as mirrors bring them; tunnels: whether VXLAN, Geneve, GRE and IP in IP between any addresses
    are taken. Raises SourceError where a value is out of bounds.
    """

    ring_bytes: int = 64 << 20
    block_bytes: int = 512 << 10
    retire_ms: int = 60
    snap_bytes: int = 384
    idle_ms: int = 200
    promiscuous: bool = True
    tunnels: bool = True

    def __post_init__(self) -> None:
        bounds = {
            "ring_bytes": (_MIN_RING_BYTES, _MAX_RING_BYTES),
            "block_bytes": (_MIN_BLOCK_BYTES, _MAX_BLOCK_BYTES),
            "retire_ms": (1, 10_000),
            "snap_bytes": (64, _MIN_BLOCK_BYTES // 2),
            "idle_ms": (10, 250),
        }
        for name, (least, most) in bounds.items():
            if not least <= getattr(self, name) <= most:
                raise SourceError(f"{name} of a live tap is {getattr(self, name)}", f"give {least} to {most}")
        if self.block_bytes & self.block_bytes - 1 or self.ring_bytes < 2 * self.block_bytes:
            raise SourceError(
                f"a ring of {self.ring_bytes} bytes in blocks of {self.block_bytes} can't be made",
                "give a block size that is a power of two, and at least two blocks",
            )


@dataclass(frozen=True, slots=True)
class PacketSocket:
    """An open packet socket with its ring, which takes nothing until it is armed. Can be sent to a process that is spawned.

    link: what frames begin with; ring_bytes: what the kernel granted; filter: what it will take; notes: in words, what could
    not be had as asked.
    """

    socket: socket.socket
    interface: str
    link: LinkKind
    ring_bytes: int
    settings: LiveSettings
    filter: Program
    notes: tuple[str, ...] = ()

    def arm(self) -> None:
        """From now on the ring takes what the filter passes. Needs no privilege; again is harmless."""
        attach_filter(self.socket, self.filter)

    def disarm(self) -> None:
        """From now on the ring takes nothing."""
        attach_filter(self.socket, bpf.closed_filter())

    def statistics(self) -> tuple[int, int]:
        """Packets dropped, and times that the ring was found full, since this was last asked: the kernel begins anew."""
        told = self.socket.getsockopt(SOL_PACKET, _STATISTICS, 12)
        _, drops, freezes = struct.unpack("=III", told)
        return drops, freezes

    def close(self) -> None:
        self.socket.close()

    def interface_is_there(self) -> bool:
        """Whether the socket's namespace still has an interface of that name."""
        try:
            fcntl.ioctl(self.socket, _SIOCGIFFLAGS, struct.pack("=16s24x", self.interface.encode()))
        except OSError:
            return False
        return True


def open_packet_sockets(
    interface: str, prefixes: Sequence[Prefix], settings: LiveSettings | None = None, workers: int = 1
) -> tuple[PacketSocket, ...]:
    """Opens one socket for each worker on an interface, for the packets from or to the prefixes.

    With several workers each packet goes to one, all packets of a remote address to the same. The caller closes the sockets.
    Raises SourceError where the privilege is missing (with the command that grants it), where the interface isn't there, is
    down or has no IP frames, where the kernel has no memory or lacks what is needed.
    """
    settings = settings or LiveSettings()
    if not 1 <= workers <= _MAX_WORKERS:
        raise SourceError(f"{workers} workers can't share the packets of {interface}", f"give 1 to {_MAX_WORKERS}")
    if len(prefixes) > bpf.MAX_PREFIXES:
        raise SourceError(f"{len(prefixes)} prefixes are too many to tap {interface} for", f"give at most {bpf.MAX_PREFIXES}")
    _check_interface(interface)
    opened: list[PacketSocket] = []
    try:
        opened.extend(_open(interface, prefixes, settings) for _ in range(workers))
        note = _share_out(opened, prefixes) if workers > 1 else ""
    except BaseException as error:
        for one in opened:
            one.close()
        if isinstance(error, OSError):
            what = f"{interface} can't be tapped: {error.strerror}"
            raise SourceError(what, "live taps need Linux 4.20 or newer with CONFIG_PACKET") from None
        raise
    return tuple(_noted(one, note) for one in opened)


def refitted(sockets: Sequence[PacketSocket], prefixes: Sequence[Prefix]) -> list[Program]:
    """The filters by which open sockets of an interface take the packets of these prefixes; several share them out so from now
    on. Raises SourceError where the kernel can't."""
    if len(prefixes) > bpf.MAX_PREFIXES:
        raise SourceError(
            f"{len(prefixes)} prefixes are too many to tap {sockets[0].interface} for", f"give at most {bpf.MAX_PREFIXES}"
        )
    try:
        if len(sockets) > 1 and not any(_BY_FLOW in note for note in sockets[0].notes):
            _share_by(sockets, prefixes)
        return [_fitting_filter(prefixes, one.settings, one.link) for one in sockets]
    except OSError as error:
        raise SourceError(
            f"{sockets[0].interface} can't be tapped for other prefixes: {error.strerror}", "start the tap again"
        ) from None


def _noted(one: PacketSocket, note: str) -> PacketSocket:
    return PacketSocket(
        one.socket, one.interface, one.link, one.ring_bytes, one.settings, one.filter, (*one.notes, *([note] if note else []))
    )


def attach_filter(one: socket.socket, program: Program) -> None:
    """Makes the program the socket's filter, in place of any other. Raises OSError; ENOMEM where it is too long here."""
    _with_program(program, lambda packed: one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, packed))


def _with_program(program: Program, use: Callable[[bytes], None]) -> None:
    """Calls `use` with a struct sock_fprog of the program, which stays in memory meanwhile."""
    code = ctypes.create_string_buffer(program.packed())
    use(struct.pack("@HP", len(program), ctypes.addressof(code)))


def _check_interface(interface: str) -> None:
    names = [name for _, name in socket.if_nameindex()]
    if interface not in names:
        raise SourceError(f"there is no network interface {interface[:60]!r}", f"give one of {', '.join(sorted(names))}")
    if not privileges.may_capture():
        raise SourceError(
            f"{interface} can't be tapped: this process may not open packet sockets",
            f"grant it that with `{privileges.how_to_grant()}`, or run it as root",
        )


def _open(interface: str, prefixes: Sequence[Prefix], settings: LiveSettings) -> PacketSocket:
    """A socket that is bound to the interface, with its ring, and takes nothing yet."""
    try:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: nothing comes before it is bound
    except PermissionError:
        raise SourceError(
            f"{interface} can't be tapped: packet sockets are refused here",
            f"grant the privilege with `{privileges.how_to_grant()}`, or run as root, in the host's own namespaces",
        ) from None
    try:
        attach_filter(made, bpf.closed_filter())
        made.setsockopt(SOL_PACKET, _VERSION, _TPACKET_V3)
        ring_bytes = _make_ring(made, interface, settings)
        made.bind((interface, _ETH_P_ALL))
        hardware = int(made.getsockname()[3])
        link = _LINKS.get(hardware)
        if link is None:
            raise SourceError(
                f"{interface} can't be tapped: its frames are of hardware type {hardware}", "tap an Ethernet or IP interface"
            )
        if made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENETDOWN:
            raise SourceError(f"{interface} is down", f"bring it up with `ip link set {interface} up`")
        if hardware == _LOOPBACK:  # each packet would be seen twice, as sent and as received
            made.setsockopt(SOL_PACKET, _IGNORE_OUTGOING, 1)
        elif settings.promiscuous:
            request = struct.pack("=iHH8s", socket.if_nametoindex(interface), _PROMISCUOUS, 0, b"")
            made.setsockopt(SOL_PACKET, _ADD_MEMBERSHIP, request)
        program = _fitting_filter(prefixes, settings, link)
    except BaseException:
        made.close()
        raise
    notes = [program.note] if program.note else []
    if ring_bytes < settings.ring_bytes // settings.block_bytes * settings.block_bytes:
        notes.append(f"the kernel granted a ring of {ring_bytes >> 10} KiB instead of {settings.ring_bytes >> 10} KiB")
    return PacketSocket(made, interface, link, ring_bytes, settings, program, tuple(notes))


def _make_ring(made: socket.socket, interface: str, settings: LiveSettings) -> int:
    """Has the kernel make the ring, or one of half the size, and so on. Gives its bytes."""
    blocks = settings.ring_bytes // settings.block_bytes
    while blocks >= 2:
        frames = blocks * (settings.block_bytes // _FRAME_BYTES)
        request = struct.pack("=7I", settings.block_bytes, blocks, _FRAME_BYTES, frames, settings.retire_ms, 0, 0)
        try:
            made.setsockopt(SOL_PACKET, _RX_RING, request)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            blocks //= 2
        else:
            return blocks * settings.block_bytes
    raise SourceError(
        f"{interface} can't be tapped: the kernel has no memory for a ring of two blocks of {settings.block_bytes >> 10} KiB",
        "give a smaller block_bytes, or free memory",
    )


def _fitting_filter(prefixes: Sequence[Prefix], settings: LiveSettings, link: LinkKind) -> Program:
    """The filter, shortened until the kernel has room for it (net.core.optmem_max)."""
    most = bpf.MAX_INSTRUCTIONS
    while True:
        program = bpf.compile_filter(prefixes, settings.snap_bytes, link, tunnels=settings.tunnels, most=most)
        try:
            # Tried on another socket, which sees no traffic: the worker's must take nothing until it is armed.
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as trial:
                attach_filter(trial, program)
        except OSError as error:
            if error.errno != errno.ENOMEM or most <= _FEWEST_INSTRUCTIONS:
                raise
            most //= 2
        else:
            return program


def _share_out(opened: Sequence[PacketSocket], prefixes: Sequence[Prefix]) -> str:
    """Has the kernel share the packets out by remote address, or, where it can't, by flow; gives what to say of it."""
    sockets = [one.socket for one in opened]
    try:
        _join(sockets, _FANOUT_CBPF)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _join(sockets, _FANOUT_HASH | _DEFRAGMENT)
        return f"{_BY_FLOW}, so that a remote may be seen by several workers"
    return _share_by(opened, prefixes)


def _share_by(opened: Sequence[PacketSocket], prefixes: Sequence[Prefix]) -> str:
    program = bpf.compile_fanout(prefixes, opened[0].link, tunnels=opened[0].settings.tunnels)
    _with_program(program, lambda packed: opened[0].socket.setsockopt(SOL_PACKET, _FANOUT_DATA, packed))
    return program.note


def _join(sockets: Sequence[socket.socket], kind: int) -> None:
    """All sockets into one group of the kernel's choice (its number in the lower half, how it shares in the upper)."""
    sockets[0].setsockopt(SOL_PACKET, _FANOUT, (kind | _UNIQUE_ID) << 16)
    group = sockets[0].getsockopt(SOL_PACKET, _FANOUT) & 0xFFFF
    for one in sockets[1:]:
        one.setsockopt(SOL_PACKET, _FANOUT, kind << 16 | group)
