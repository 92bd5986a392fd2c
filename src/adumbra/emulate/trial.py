"""A VM's traffic tried on machines: what each would show over the whole time, and whether that is enough. Pure; no I/O.

The traffic is drawn once and carried through one machine after another: machines alike in what matters are tried once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adumbra.emulate import trial_kernels as kernels
from adumbra.emulate.chance_kernels import quantiles
from adumbra.emulate.layout import JOB, RUN
from adumbra.emulate.parameters import LEAST_SHARE
from adumbra.emulate.vm import EmulatedVm, fleet_of, normal_table
from adumbra.schema.records import NANOSECONDS, Floats, Ints
from adumbra.schema.sizing import BYTES_PER_GB, Machine
from adumbra.schema.units import format_duration, format_number, format_share

EASY_NS = 100_000.0
"""A link on which nothing is lost, and no message waits or takes to send longer than 0.1 ms, is as good as any wider one."""

_ALIKE = 0.01  # difference of the logarithms of speeds that are taken as alike


@dataclass(frozen=True, slots=True)
class Traffic:
    """What came for one VM: k intervals of work and bytes, and the n requests in them. `seed` fixes what was drawn of it.

    start_ns int64[k], each interval_ns long; first int64[k + 1]: interval i holds requests first[i] to first[i + 1];
    work_s float64[k], on a reference core; rx_bytes, tx_bytes float64[k]; arrive_ns int64[n], ascending; reference_ns
    int64[n], their services on a reference core; memory_bytes: the most that was needed at once.
    """

    vm: EmulatedVm
    seed: int
    interval_ns: int
    start_ns: Ints
    first: Ints
    work_s: Floats
    rx_bytes: Floats
    tx_bytes: Floats
    arrive_ns: Ints
    reference_ns: Ints
    memory_bytes: float

    @classmethod
    def of(
        cls, vm: EmulatedVm, start_ns: Ints, interval_ns: int, load: NDArray[np.void], *, seed: int, memory_bytes: float
    ) -> Traffic:
        """The traffic of the intervals whose load (layout.LOAD[k]) is given, every request of it drawn."""
        load = np.ascontiguousarray(load)
        first = np.concatenate([[0], np.cumsum(load["seen"] + load["drawn"])]).astype(np.int64)
        arrive_ns: Ints = np.empty(first[-1], np.int64)
        reference_ns: Ints = np.empty(first[-1], np.int64)
        stack: Ints = np.empty(256, np.int64)
        kernels.draw(
            fleet_of([vm], seed)[0], start_ns, interval_ns, first, load, normal_table(), stack, arrive_ns, reference_ns
        )
        work_s, rx_bytes, tx_bytes = (np.ascontiguousarray(load[name]) for name in ("work_s", "rx_bytes", "tx_bytes"))
        return cls(vm, seed, interval_ns, start_ns, first, work_s, rx_bytes, tx_bytes, arrive_ns, reference_ns, memory_bytes)

    @property
    def requests(self) -> int:
        return len(self.arrive_ns)

    @property
    def busiest_mbps(self) -> float:
        """What the busier direction carried in the busiest interval."""
        busiest = max(self.rx_bytes.max(initial=0.0), self.tx_bytes.max(initial=0.0))
        return float(busiest) * 8e3 / self.interval_ns

    @property
    def cores_needed(self) -> Floats:
        """Reference cores that the work of each interval takes if nothing waits, without the idle system, float64[k]."""
        return self.work_s / (self.interval_ns / NANOSECONDS)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A machine to be tried. core_speed: of one of its cores, in reference cores."""

    machine: Machine
    core_speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Tried:
    """What a machine would show. Latencies in ms, over all requests answered; NaN of none.

    cpu_utilization: mean share of the cores in use; cpu_p99: the same, exceeded in 1 % of the intervals (above 1: work is left
    over); cpu_short: share of the intervals that bring more work than the cores do; cores_usable: how many the software can
    use; loss: share of the offered that is refused, of requests by the cores or of bytes by the link.
    """

    cpu_utilization: float
    cpu_p99: float
    cpu_short: float
    cores_usable: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    loss: float
    memory_gb: float
    bandwidth_mbps: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


USUAL_LOSS = 0.01
"""The share that may be lost where nothing is said of it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a machine: the share of time its CPU may be short, p99 latency in ms, lost share; None: not asked."""

    shortfall: float = 0.01
    latency_ms_p99: float | None = None
    loss: float | None = USUAL_LOSS


def shortcomings(tried: Tried, machine: Machine, asked: Asked) -> tuple[str, ...]:
    """In words, why a machine isn't enough; empty where it is."""
    found = []
    if tried.cpu_short > asked.shortfall:
        bound = f", as its software uses {tried.cores_usable:g} of the cores" if tried.cores_usable < machine.cpu_cores else ""
        found.append(f"CPU short in {format_share(tried.cpu_short)} of the time{bound}")
    if tried.memory_gb > machine.memory_gb:
        found.append(f"needs {format_number(tried.memory_gb)} GB of memory")
    if asked.latency_ms_p99 is not None and tried.latency_ms_p99 > asked.latency_ms_p99:
        p99, most = (format_duration(ms / 1e3) for ms in (tried.latency_ms_p99, asked.latency_ms_p99))
        found.append(f"p99 is {p99}, not {most}")
    if asked.loss is not None and tried.loss > asked.loss:
        found.append(f"loses {format_share(tried.loss)}")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Link:
    """One way of a link, in bytes and ns: all that matters of it to what is sent."""

    base: float
    peak: float
    credit: float
    buffer: float

    @classmethod
    def of(cls, vm: np.void) -> _Link:
        names = ("base_bytes_per_ns", "peak_bytes_per_ns", "credit_bytes", "buffer_bytes")
        return cls(*(float(vm[name]) for name in names))

    def is_as_good_as(self, other: _Link) -> bool:
        """Whether it sends as much in whatever time, whatever comes.

        In a time t a token bucket sends min(peak t, credit + base t) at most, and nothing else decides what it does (Le Boudec
        and Thiran, Network Calculus, 2001, section 1.5). One such curve is nowhere below another if it isn't at its ends, nor
        where that one's credit is gone.
        """
        if self.base < other.base or self.peak < other.peak or self.buffer < other.buffer:
            return False
        bursts_ns = other.credit / (other.peak - other.base) if other.peak > other.base else 0.0
        return self.credit + self.base * bursts_ns >= other.peak * bursts_ns * (1.0 - 1e-9)  # equal but for rounding


@dataclass(frozen=True, slots=True)
class _Cores:
    """A machine's cores: so many requests at once, each at such a speed, in reference cores."""

    servers: float
    speed: float

    @classmethod
    def of(cls, vm: np.void, idle: float) -> _Cores:
        """Of a machine whose idle system takes some of them: so servers differ a little in speed. Those within about 1 % are
        taken as alike, at the speed in their middle, so that it doesn't matter which of them is tried first.
        """
        speed = (float(vm["cores"]) - idle) / max(math.floor(vm["cores"]), 1.0) * float(vm["core_speed"])
        return cls(float(vm["servers"]), math.exp(round(math.log(speed) / _ALIKE) * _ALIKE))

    def is_as_good_as(self, other: _Cores) -> bool:
        return self.servers >= other.servers and self.speed >= other.speed


class Trial:
    """Tries one VM's traffic on machines; what two of them have alike is computed once. Not to be shared by threads."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        n = traffic.requests
        self._offered: NDArray[np.uint8] = np.empty(n, np.uint8)
        self._carried: NDArray[np.uint8] = np.empty(n, np.uint8)  # what the link left of it, of `_sent`
        self._sent: tuple[_Link | None, float] | None = None  # the last link, and what it lost of all that came
        self._service_ns: Ints = np.empty(n, np.int64)
        self._inside_ns: Ints = np.zeros(n, np.int64)
        self._link_ns: Floats = np.zeros((2, n), np.float64)
        self._values: Floats = np.empty(n, np.float64)
        self._believed = traffic.vm.believed.cpu
        self._cpus: dict[tuple[float, float], tuple[float, float, float]] = {}
        self._tried: dict[tuple[float | None, ...], Tried] = {}
        self._known: dict[tuple[_Cores, _Link | None], tuple[float, float, float, float]] = {}
        self._enough: list[_Cores] = []  # on which no request waits
        self._easy: list[_Link] = []

    def of(self, candidate: Candidate) -> Tried:
        """What one machine would show. Memory and storage of it don't matter to that."""
        machine = candidate.machine
        key = (candidate.core_speed, machine.cpu_cores, machine.bandwidth_mbps, machine.peak_bandwidth_mbps)
        if key not in self._tried:
            self._tried[key] = self._try(candidate)
        return self._tried[key]

    def _try(self, candidate: Candidate) -> Tried:
        traffic, machine = self._traffic, candidate.machine
        idle = min(self._believed.idle_cores, (1.0 - LEAST_SHARE) * machine.cpu_cores)
        use, busy, short = self._cpu(machine.cpu_cores, idle, candidate.core_speed)
        p50, p95, p99, loss = self._latencies(candidate, idle)
        return Tried(
            cpu_utilization=use, cpu_p99=busy, cpu_short=short,
            cores_usable=min(machine.cpu_cores, float(self._believed.servers or math.inf)),
            latency_ms_p50=p50, latency_ms_p95=p95, latency_ms_p99=p99, loss=loss,
            memory_gb=traffic.memory_bytes / BYTES_PER_GB, bandwidth_mbps=traffic.busiest_mbps,
        )  # fmt: skip

    def _cpu(self, cores: float, idle: float, speed: float) -> tuple[float, float, float]:
        """Mean utilisation, its 99th percentile over intervals, and the share of them that bring more than can be done."""
        if (cores, speed) not in self._cpus:
            believed, needed = self._believed, self._traffic.cores_needed
            room = (cores - idle) * speed
            most = min(room, believed.servers * speed) if believed.servers else room
            asked = (needed / speed + idle) / cores if most == room else needed / most
            use = float((np.minimum(needed, most).mean() / speed + idle) / cores) if len(needed) else math.nan
            busy, short = quantiles(asked, 0.99, 0.99, 0.99)[0], float((needed > most).mean()) if len(needed) else math.nan
            self._cpus[cores, speed] = use, busy, short
        return self._cpus[cores, speed]

    def _latencies(self, candidate: Candidate, idle: float) -> tuple[float, float, float, float]:
        """p50, p95, p99 in ms and the share lost, from memory where a machine alike was tried."""
        put = replace(self._traffic.vm, machine=candidate.machine, core_speed=candidate.core_speed)
        vm = fleet_of([put], self._traffic.seed)[0]
        cores, link = _Cores.of(vm, idle), _Link.of(vm)
        to_send = None if any(link.is_as_good_as(each) for each in self._easy) else link
        alike = self._settled(cores), to_send
        if alike not in self._known:
            found = self._simulate(vm, cores, to_send)
            self._known[alike] = self._known[self._settled(cores), to_send] = found
        return self._known[alike]

    def _settled(self, cores: _Cores) -> _Cores:
        """The cores, or endlessly many of them where no request waits for these: more change nothing."""
        enough = any(cores.is_as_good_as(each) for each in self._enough)
        return replace(cores, servers=math.inf) if enough else cores

    def _simulate(self, vm: np.void, cores: _Cores, link: _Link | None) -> tuple[float, float, float, float]:
        """The same by the kernels. link: None for one that is known to be easy."""
        traffic, offered = self._traffic, self._offered
        if not self._compute(vm, cores.speed):
            self._enough.append(cores)
        refused = 1.0 - float(offered.mean()) if len(offered) else 0.0
        lost = self._send(vm, link, whole=refused == 0.0)
        answered = kernels.add_up(
            vm, traffic.first, self._wire_bytes(), self._inside_ns, self._link_ns, offered, self._values
        )  # fmt: skip
        p50, p95, p99 = quantiles(self._values[:answered], 0.5, 0.95, 0.99)
        return p50, p95, p99, 1.0 - (1.0 - refused) * (1.0 - lost)

    def _compute(self, vm: np.void, speed: float) -> int:
        """Lets the cores serve all requests; gives how many of these were held up by others, or refused."""
        traffic = self._traffic
        own = (traffic.arrive_ns, self._offered, self._service_ns, self._inside_ns)
        if vm["jobs"]:
            run, jobs = np.zeros(1, RUN)[0], np.zeros(int(vm["jobs"]), JOB)
            late_ns = np.empty(int(vm["jobs"]), np.float64)
            return int(kernels.shared(vm, traffic.reference_ns, speed, run, jobs, *own, late_ns))
        return int(kernels.queue(vm, traffic.reference_ns, speed, np.zeros(int(vm["servers"]), np.int64), *own))

    def _send(self, vm: np.void, link: _Link | None, *, whole: bool) -> float:
        """Sends both directions' bytes; gives the share of them that was lost. link: None for one that is known to be easy;
        whole: the cores refused nothing, so that this link shows what it showed with other such cores.
        """
        if whole and self._sent is not None and self._sent[0] == link:
            self._offered[:] = self._carried
            return self._sent[1]
        lost = 0.0
        if link is None:
            self._link_ns[:] = 0.0
        else:
            lost = self._carry(vm, link, whole=whole)
        self._carried[:] = self._offered
        self._sent = (link, lost) if whole else None
        return lost

    def _carry(self, vm: np.void, link: _Link, *, whole: bool) -> float:
        traffic, easy, dropped = self._traffic, whole, 0.0
        for way, total in enumerate((traffic.rx_bytes, traffic.tx_bytes)):
            waits = self._link_ns[way]
            lost = kernels.link(
                vm, traffic.start_ns, traffic.interval_ns, traffic.first, total, traffic.arrive_ns, self._offered, waits
            )
            dropped += lost
            easy = easy and lost == 0.0 and waits.max(initial=0.0) <= EASY_NS
        if easy and self._wire_bytes().max(initial=0.0) <= EASY_NS * link.base:
            self._easy.append(link)
        total_bytes = float(traffic.rx_bytes.sum() + traffic.tx_bytes.sum())
        return dropped / total_bytes if total_bytes > 0 else 0.0

    def _wire_bytes(self) -> Floats:
        counts = np.maximum(np.diff(self._traffic.first), 1)
        wire: Floats = (self._traffic.rx_bytes + self._traffic.tx_bytes) / counts
        return wire


def sweep(traffic: Traffic, candidates: Sequence[Candidate]) -> Iterator[Tried]:
    """What each candidate would show, in their order. They are tried in the order that settles the most."""
    trial = Trial(traffic)
    found: dict[int, Tried] = {}
    for number in sorted(range(len(candidates)), key=lambda k: _order(candidates[k])):
        found[number] = trial.of(candidates[number])
    return (found[number] for number in range(len(candidates)))


def _order(candidate: Candidate) -> tuple[float, ...]:
    """From narrow links upwards, so that the first easy one settles the rest; of one link, few cores first, likewise."""
    machine = candidate.machine
    peak_mbps = machine.peak_bandwidth_mbps or machine.bandwidth_mbps
    return machine.bandwidth_mbps, peak_mbps, candidate.core_speed, machine.cpu_cores
