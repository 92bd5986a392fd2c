"""What a provider tells of real machines: counters as they stand, and where their packets pass. Nouns only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MachineReading:
    """One real machine's counters at one moment, as its provider reports them. None: the provider doesn't tell.

    run: names the machine's present run; where it differs from an earlier reading's, counters began anew at 0 since.
    cpu_time_ns: CPU time of its cores since the run began; cpu_cores: cores that it has now; memory_bytes: in use, by the
    guest's own word; memory_provisioned_bytes: what it has now. rx and tx are the machine's own directions (rx: into it), bytes
    with their link header; dropped: refused by its port. storage_bytes: taken of its disk; read and write: of all its disks.
    """

    vm: str
    time_ns: int
    run: str
    cpu_time_ns: int | None = None
    cpu_cores: float | None = None
    memory_bytes: int | None = None
    memory_provisioned_bytes: int | None = None
    rx_bytes: int | None = None
    tx_bytes: int | None = None
    rx_packets: int | None = None
    tx_packets: int | None = None
    rx_dropped: int | None = None
    tx_dropped: int | None = None
    storage_bytes: int | None = None
    storage_provisioned_bytes: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    read_ops: int | None = None
    write_ops: int | None = None


@dataclass(frozen=True, slots=True)
class LivePort:
    """The network device of the host through which all of a machine's packets pass; what leaves it goes into the machine."""

    vm: str
    device: str
