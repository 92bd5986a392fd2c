"""Address blocks: an address, a range or a prefix, as one pair of integers. Pure; no I/O."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def address_of(version: int, number: int) -> Address:
    """The address with that number. Raises ValueError (ipaddress.AddressValueError) outside the version's space."""
    return ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)


def is_loopback(host: str) -> bool:
    """Whether a host is this one, by its name or address alone: nothing is looked up."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class AddressBlock:
    """The addresses from `first` up to and with `last`, as integers, of IP version 4 or 6."""

    version: int
    first: int
    last: int

    @classmethod
    def of_prefix(cls, prefix: Prefix) -> AddressBlock:
        return cls(prefix.version, int(prefix.network_address), int(prefix.broadcast_address))

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    def contains(self, other: AddressBlock) -> bool:
        return self.version == other.version and self.first <= other.first and other.last <= self.last

    def overlaps(self, other: AddressBlock) -> bool:
        return self.version == other.version and self.first <= other.last and other.first <= self.last

    def __str__(self) -> str:
        first, last = address_of(self.version, self.first), address_of(self.version, self.last)
        if self.count == 1:
            return str(first)
        if self.count > 2 and self.count & (self.count - 1) == 0 and self.first % self.count == 0:
            return f"{first}/{first.max_prefixlen - self.count.bit_length() + 1}"
        return f"{first}-{last}"


def parse_prefix(text: object) -> Prefix:
    """A prefix such as 10.20.0.0/16 or 2001:db8::/64. Raises ValueError saying how to mend it."""
    if isinstance(text, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return text
    if not isinstance(text, str) or "/" not in text or "%" in text:
        raise ValueError(f"{str(text)[:60]!r} is not a prefix; write it like 10.20.0.0/16")
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not a prefix; write it like 10.20.0.0/16") from None
    raise ValueError(f"{text} has bits set beyond its prefix length; did you mean {meant}?")


def parse_block(text: object) -> AddressBlock:
    """An address, a range like 10.0.0.1-10.0.0.9, or a prefix. Raises ValueError saying how to mend it."""
    if isinstance(text, str) and "/" in text:
        return AddressBlock.of_prefix(parse_prefix(text))
    try:
        if not isinstance(text, str):
            raise ValueError
        if "%" in text:  # the zone of an IPv6 address means something on one host only
            raise ValueError
        first, dash, last = text.partition("-")
        low = ipaddress.ip_address(first.strip())
        high = ipaddress.ip_address(last.strip()) if dash else low
    except ValueError:
        raise ValueError(
            f"{str(text)[:60]!r} is not an address; write 10.20.1.10, 10.20.1.10-10.20.1.19 or 10.20.1.16/28"
        ) from None
    if low.version != high.version or int(low) > int(high):
        raise ValueError(f"the range {text} runs backwards or mixes IP versions; write the lower address first")
    return AddressBlock(low.version, int(low), int(high))
