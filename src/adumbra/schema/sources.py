"""What a user may name as a source: KIND:REST to a frozen spec, and back by str(). Pure; opens and looks up nothing."""

from __future__ import annotations

import difflib
import ipaddress
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from adumbra.schema.errors import InputError

MAX_CHARACTERS = 4096 + 64  # of a source's text: the longest path that Linux takes, and what stands around it
_MAX_VNI = (1 << 24) - 1
_MAX_PORT = 65_535
_MAX_INTERFACE_BYTES = 15

ANY_IPV4 = "0.0.0.0"  # noqa: S104 - a mirror's target must be reachable


class Layer(StrEnum):
    """Which of the IP packets that are wrapped in each other is metered."""

    AUTO = "auto"  # the outermost that has an end in the network; where none has, the outermost
    OUTERMOST = "outermost"
    INNERMOST = "innermost"


class Tunnel(StrEnum):
    """The encapsulations that this host can be the far end of."""

    VXLAN = "vxlan"
    GENEVE = "geneve"
    GRE = "gre"
    ERSPAN = "erspan"


class Export(StrEnum):
    """What flow exporters speak. NetFlow v5 and v9 and IPFIX share ports and collectors: each datagram says which it is."""

    NETFLOW = "netflow"
    SFLOW = "sflow"


@dataclass(frozen=True, slots=True)
class CaptureSource:
    """A pcap or pcapng file: pcap:FILE."""

    path: Path

    def __str__(self) -> str:
        return f"pcap:{self.path}"


@dataclass(frozen=True, slots=True)
class LiveSource:
    """A network interface of this host: live:IFACE."""

    interface: str

    def __str__(self) -> str:
        return f"live:{self.interface}"


@dataclass(frozen=True, slots=True)
class UdpTunnelSource:
    """VXLAN or Geneve that is sent to a UDP port of this host: vxlan:[ADDRESS:]PORT[,vni=N...].

    `address`: where to listen, "" for every address, IPv4 and IPv6; `vnis`: the networks that count, sorted, none for all.
    """

    tunnel: Tunnel
    address: str
    port: int
    vnis: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.tunnel}:{_at(self.address, self.port)}" + "".join(f",vni={vni}" for vni in self.vnis)


@dataclass(frozen=True, slots=True)
class RawTunnelSource:
    """GRE or ERSPAN, which are IP protocol 47, sent to this host: gre:[ADDRESS]. `address` is never empty."""

    tunnel: Tunnel
    address: str = ANY_IPV4

    def __str__(self) -> str:
        return f"{self.tunnel}:{_bracketed(self.address)}"


@dataclass(frozen=True, slots=True)
class CollectorSource:
    """Flow exports that are sent to a UDP port of this host: netflow:[ADDRESS:]PORT. `address` as in UdpTunnelSource."""

    export: Export
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.export}:{_at(self.address, self.port)}"


@dataclass(frozen=True, slots=True)
class ExportFileSource:
    """Flow exports in a file, a capture of them or the bare messages: netflow:FILE."""

    export: Export
    path: Path

    def __str__(self) -> str:
        mark = "./" if _LISTENER.fullmatch(str(self.path)) else ""
        return f"{self.export}:{mark}{self.path}"


@dataclass(frozen=True, slots=True)
class FlowLogSource:
    """A flow log of a cloud, or Zeek's conn.log: flowlog:FILE."""

    path: Path

    def __str__(self) -> str:
        return f"flowlog:{self.path}"


SourceSpec = CaptureSource | LiveSource | UdpTunnelSource | RawTunnelSource | CollectorSource | ExportFileSource | FlowLogSource

# What netflow: and sflow: take for a port to listen on; every other text is a file. One that is called so is ./2055.
_LISTENER = re.compile(r"[0-9]*|[^/]*:[0-9]*|\[[^/]*")

_FORMS = {
    "pcap": "pcap:FILE",
    "live": "live:IFACE",
    "vxlan": "vxlan:PORT, vxlan:ADDRESS:PORT or vxlan:PORT,vni=N",
    "geneve": "geneve:PORT, geneve:ADDRESS:PORT or geneve:PORT,vni=N",
    "gre": "gre: or gre:ADDRESS",
    "erspan": "erspan: or erspan:ADDRESS",
    "netflow": "netflow:PORT, netflow:ADDRESS:PORT or netflow:FILE",
    "ipfix": "netflow:PORT, netflow:ADDRESS:PORT or netflow:FILE",
    "sflow": "sflow:PORT, sflow:ADDRESS:PORT or sflow:FILE",
    "flowlog": "flowlog:FILE",
}
KINDS = tuple(kind for kind in _FORMS if kind != "ipfix")
_OTHER_NAMES = {
    "file": "pcap", "capture": "pcap", "cap": "pcap", "interface": "live", "iface": "live", "dev": "live", "nf": "netflow",
    "nflow": "netflow", "jflow": "netflow", "vpc": "flowlog", "vpcflow": "flowlog", "vpcflowlog": "flowlog", "zeek": "flowlog",
    "vpc-flow-log": "flowlog", "conn": "flowlog", "nvgre": "gre",
}  # fmt: skip
_CAPTURE_ENDS = (".pcap", ".pcapng", ".cap", ".dmp", ".pcap.gz", ".pcap.zst", ".pcapng.gz", ".pcapng.zst")
_LOG_ENDS = (".log", ".log.gz", ".json", ".json.gz")


def parse_source(text: str) -> SourceSpec:
    """The source that `text` names. Raises InputError with what is wrong and what to write; str() of the result parses back.

    A netflow: or sflow: of digits, or of anything and ":" and digits, without a "/", listens; any other names a file.
    """
    if len(text) > MAX_CHARACTERS or any(unicodedata.category(c) in _UNSHOWN for c in text):
        raise InputError(f"{_quoted(text)} is no source: it is too long, or has characters that can't be shown", _LIST)
    kind, colon, rest = text.partition(":")
    if not colon or kind not in _FORMS:
        raise InputError(f"{_quoted(text)} is no source", _suggestion(text))
    return _PARSERS[kind](kind, rest)


_UNSHOWN = {"Cc", "Cs", "Zl", "Zp"}  # controls, halves of surrogate pairs, ends of lines and paragraphs
_LIST = f"write one of {', '.join(f'{kind}:' for kind in KINDS)} and what to read"


def _suggestion(text: str) -> str:
    kind, colon, rest = text.partition(":")
    word = kind.strip().lower()
    if not colon and (word.endswith(_CAPTURE_ENDS) or word.endswith(_LOG_ENDS)):
        return f"did you mean {'pcap' if word.endswith(_CAPTURE_ENDS) else 'flowlog'}:{text[:80]}?"
    close = word if word in _FORMS else _OTHER_NAMES.get(word) or next(iter(difflib.get_close_matches(word, _FORMS, n=1)), "")
    if not close:
        return _LIST
    return f"did you mean {close}:{rest[:80]}?" if rest else f"write {_FORMS[close]}"


def _pcap(kind: str, rest: str) -> CaptureSource:
    return CaptureSource(_path(kind, rest))


def _flowlog(kind: str, rest: str) -> FlowLogSource:
    return FlowLogSource(_path(kind, rest))


def _live(kind: str, rest: str) -> LiveSource:
    wrong = not rest or rest in {".", ".."} or any(c in "/:" or c.isspace() for c in rest)
    if wrong or len(rest.encode(errors="replace")) > _MAX_INTERFACE_BYTES:  # as dev_valid_name() of Linux has it
        raise InputError(f"{_quoted(rest)} is no name of a network interface", f"write {_FORMS[kind]}, such as live:eth0")
    return LiveSource(rest)


def _udp_tunnel(kind: str, rest: str) -> UdpTunnelSource:
    where, *options = rest.split(",")
    address, port = _listening(kind, where)
    vnis = set()
    for option in options:
        key, _, value = option.partition("=")
        if key != "vni":
            raise InputError(f"{_quoted(option)} is no option of {kind}:", f"write {_FORMS[kind]}")
        if not _is_number(value, _MAX_VNI):
            raise InputError(f"{_quoted(value)} is no VNI", f"write vni=N with N from 0 to {_MAX_VNI}")
        vnis.add(int(value))
    return UdpTunnelSource(Tunnel(kind), address, port, tuple(sorted(vnis)))


def _raw_tunnel(kind: str, rest: str) -> RawTunnelSource:
    if not rest:
        return RawTunnelSource(Tunnel(kind))
    inner = rest[1:-1] if rest.startswith("[") and rest.endswith("]") else rest
    return RawTunnelSource(Tunnel(kind), _address(kind, inner))


def _export(kind: str, rest: str) -> CollectorSource | ExportFileSource:
    export = Export.NETFLOW if kind == "ipfix" else Export(kind)
    if rest and _LISTENER.fullmatch(rest) is None:
        return ExportFileSource(export, _path(kind, rest))
    return CollectorSource(export, *_listening(kind, rest))


_PARSERS: dict[str, Callable[[str, str], SourceSpec]] = {
    "pcap": _pcap, "live": _live, "vxlan": _udp_tunnel, "geneve": _udp_tunnel, "gre": _raw_tunnel, "erspan": _raw_tunnel,
    "netflow": _export, "ipfix": _export, "sflow": _export, "flowlog": _flowlog,
}  # fmt: skip


def _path(kind: str, text: str) -> Path:
    if not text:
        raise InputError(f"{kind}: names no file", f"write {_FORMS[kind]}")
    return Path(text)


def _listening(kind: str, text: str) -> tuple[str, int]:
    """[ADDRESS:]PORT; the address is "" where none is given."""
    host, colon, port = text.rpartition(":")
    if not _is_number(port, _MAX_PORT) or int(port) == 0:
        usual = {"vxlan": 4789, "geneve": 6081, "sflow": 6343, "ipfix": 4739}.get(kind, 2055)
        mend = f"write {_FORMS[kind]}, with a port from 1 to 65535, such as {usual}"
        raise InputError(f"{_quoted(port)} is no UDP port to listen on", mend)
    if not colon:
        return "", int(port)
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise InputError(f"{_quoted(text)} can be read in two ways", f"put the IPv6 address in brackets: {kind}:[ADDRESS]:PORT")
    return _address(kind, host[1:-1] if bracketed else host), int(port)


def _address(kind: str, text: str) -> str:
    """The address in its shortest form."""
    try:
        if "%" in text:
            raise ValueError
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise InputError(
            f"{_quoted(text)} is no IP address of this host", f"write {_FORMS[kind]}; names and zones are not looked up"
        ) from None


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= most


def _at(address: str, port: int) -> str:
    return f"{_bracketed(address)}:{port}" if address else str(port)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
