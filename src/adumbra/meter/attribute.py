"""Says whose a packet is: exact addresses by hash, prefixes and ranges by search, donors' old addresses as the new ones."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from adumbra.meter import attribution_kernels as kernels
from adumbra.meter.layout import IPV4_HIGH
from adumbra.schema.addresses import AddressBlock
from adumbra.schema.records import FlowRecords, Packets
from adumbra.schema.spec import NetworkSpec, Vm

NOBODY = -1
UNCLAIMED = -2
_MAX_EXACT_IN_BLOCK = 256
_MAX_EXACT = 1 << 20
_LOW_HALF = 0xFFFFFFFFFFFFFFFF
_IPV4_HIGH = int(IPV4_HIGH)  # keeps IPv4 addresses apart from the IPv6 ones that have the same number


@dataclass(frozen=True, slots=True)
class _Owned:
    block: AddressBlock
    owner: int


class Attribution:
    """Assigns each packet's ends to a network's VMs, by row; -1 for foreign, -2 for the network's own but no VM's."""

    def __init__(self, spec: NetworkSpec, vms: Sequence[Vm]) -> None:
        space = [_Owned(AddressBlock.of_prefix(cidr), UNCLAIMED) for cidr in spec.cidrs]
        taken = [_Owned(block, row) for row, vm in enumerate(vms) for block in vm.addresses]
        owned = [*space, *taken, *_donated(spec, space), *_donated(spec, taken)]
        self._exact = _hash_table(owned)
        self._ranges = {version: _flatten([o for o in owned if o.block.version == version]) for version in (4, 6)}

    def assign(self, packets: Packets) -> Packets:
        """Fills src_vm and dst_vm in place, and gives the same packets back."""
        kernels.assign(
            packets.outcome, packets.version, packets.src_hi, packets.src_lo, packets.dst_hi, packets.dst_lo,
            self._exact, self._ranges[4], self._ranges[6], packets.src_vm, packets.dst_vm,
        )  # fmt: skip
        return packets

    def assign_flows(self, records: FlowRecords) -> FlowRecords:
        """Fills src_vm and dst_vm in place, and gives the same records back."""
        read = np.zeros(len(records), np.uint8)
        kernels.assign(
            read, records.version, records.src_hi, records.src_lo, records.dst_hi, records.dst_lo,
            self._exact, self._ranges[4], self._ranges[6], records.src_vm, records.dst_vm,
        )  # fmt: skip
        return records


def _donated(spec: NetworkSpec, owned: list[_Owned]) -> list[_Owned]:
    """The owners of disjoint blocks of the network, again, at the old addresses that donors have for them."""
    moved = []
    owned = sorted(owned, key=_place)
    for donor in spec.donors:
        old, new = AddressBlock.of_prefix(donor.from_), AddressBlock.of_prefix(donor.to)
        at = max(0, bisect_right(owned, (new.version, new.first), key=_place) - 1)
        for item in owned[at : bisect_right(owned, (new.version, new.last), key=_place)]:
            if item.block.overlaps(new):
                first, last = max(item.block.first, new.first), min(item.block.last, new.last)
                shift = old.first - new.first
                moved.append(_Owned(AddressBlock(old.version, first + shift, last + shift), item.owner))
    return moved


def _place(item: _Owned) -> tuple[int, int]:
    return item.block.version, item.block.first


Table = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int32]]


def _hash_table(owned: list[_Owned]) -> Table:
    """Single addresses and small blocks by exact address: open addressing, at most half full. Owner -1: an empty slot.

    What has no place here is found by range all the same.
    """
    numbers = (
        (item.block.version, number, item.owner)
        for item in owned
        if item.owner >= 0 and item.block.count <= _MAX_EXACT_IN_BLOCK
        for number in range(item.block.first, item.block.last + 1)
        if item.block.version == 4 or number >> 64 != _IPV4_HIGH
    )
    entries = [
        (_IPV4_HIGH if version == 4 else number >> 64, number & _LOW_HALF, owner)
        for version, number, owner in islice(numbers, _MAX_EXACT)
    ]
    size = 1 << max(4, (2 * len(entries)).bit_length())
    hi, lo, owner = np.zeros(size, np.uint64), np.zeros(size, np.uint64), np.full(size, NOBODY, np.int32)
    if entries:
        columns = list(zip(*entries, strict=True))
        kernels.fill_table(
            np.array(columns[0], np.uint64), np.array(columns[1], np.uint64), np.array(columns[2], np.int32), hi, lo, owner
        )
    return hi, lo, owner


def _flatten(owned: list[_Owned]) -> Table:
    """Disjoint ranges, in order, by their beginnings; the smallest block around an address owns it."""
    end = 1 << (128 if owned and owned[0].block.version == 6 else 32)
    starts = sorted({o.block.first for o in owned} | {o.block.last + 1 for o in owned if o.block.last + 1 < end})
    pending = sorted(owned, key=lambda o: (o.block.first, -o.block.count))
    hi, lo, owner = [], [], []
    around: list[_Owned] = []
    at = 0
    for start in starts:
        while at < len(pending) and pending[at].block.first <= start:
            around.append(pending[at])
            at += 1
        while around and around[-1].block.last < start:
            around.pop()
        owner.append(around[-1].owner if around else NOBODY)
        hi.append(start >> 64)
        lo.append(start & _LOW_HALF)
    return np.array(hi, np.uint64), np.array(lo, np.uint64), np.array(owner, np.int32)
