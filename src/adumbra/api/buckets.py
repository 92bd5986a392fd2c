"""Token buckets, of which so many are kept: each client may do so much at once, and goes on at a rate. No clock, no I/O."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache


class Buckets:
    """A bucket for each client. rate_per_s: how fast they fill; burst: what they hold; most: how many are kept.

    Of those that are too many, the one that was asked longest ago goes; it would be full again, or nearly, by then.
    """

    def __init__(self, rate_per_s: float, burst: float, most: int) -> None:
        self._rate, self._burst, self._most = rate_per_s, burst, most
        self._kept: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, client: str, now_s: float) -> float:
        """Takes one. Gives 0, or, where there is none, in how many seconds there will be."""
        held = self._held(client, now_s)
        taken = held >= 1.0
        self._keep(client, held - 1.0 if taken else held, now_s)
        return 0.0 if taken else (1.0 - held) / self._rate

    def give_back(self, client: str) -> None:
        """Gives back one that was taken."""
        if client in self._kept:
            held, then_s = self._kept[client]
            self._kept[client] = min(self._burst, held + 1.0), then_s

    def _held(self, client: str, now_s: float) -> float:
        held, then_s = self._kept.get(client, (self._burst, now_s))
        return min(self._burst, held + max(0.0, now_s - then_s) * self._rate)

    def _keep(self, client: str, held: float, now_s: float) -> None:
        self._kept[client] = held, now_s
        self._kept.move_to_end(client)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)


class Known:
    """By which secrets clients were known lately: so many, by their hashes. The rest are forgotten, at no cost."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._marks: OrderedDict[bytes, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._marks)

    def mark(self, secret: bytes) -> str | None:
        """Who came with that secret."""
        found = self._marks.get(secret)
        if found is not None:
            self._marks.move_to_end(secret)
        return found

    def note(self, secret: bytes, mark: str) -> None:
        """They came with that secret, and were known by it."""
        self._marks[secret] = mark
        self._marks.move_to_end(secret)
        if len(self._marks) > self._most:
            self._marks.popitem(last=False)

    def forget(self, secret: bytes) -> None:
        """That secret isn't accepted any more."""
        self._marks.pop(secret, None)


@lru_cache(maxsize=4_096)
def place(address: str) -> str:
    """What counts as one client's address: of IPv6 the network of 64 bits, which one customer has to themselves."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
