"""Generating traffic: from a network's stored metrics, or its roles' priors, to a capture of what its VMs would see."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from adumbra.emulate.roles import bundled_priors
from adumbra.emulate.traffic import model as traffic
from adumbra.emulate.traffic.calls import Ground, ground_of
from adumbra.emulate.traffic.generate import FILE_HEADER, Account, Generator, Wanted, factor_for
from adumbra.emulate.traffic.model import COLUMNS, History, TrafficModel
from adumbra.emulate.traffic.population import Population, populate
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import NANOSECONDS, SeriesQuery
from adumbra.service import networks
from adumbra.service.networks import Network
from adumbra.service.observations import Progress, emulated_vms
from adumbra.service.workspace import Workspace
from adumbra.store.protocol import Readable
from adumbra.tap.pcap_writer import CaptureWriter

MOST_CELLS = 1_000_000
"""Of the history, intervals times VMs, that are read at once: as fine as they are kept, or all of it in longer steps."""
MOST_DURATION_S = 30 * 86_400.0
_MOST_RATE = 1e7
_LEAST_STEPS = 64


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """What to generate. start_ns: none: from the end of what was observed on. factor: times the model's rates; or else
    connections_per_s: from outside, of all VMs together, on the average. cut: see emulate.traffic.generate.Wanted.
    """

    duration_s: float = 60.0
    seed: int = 1
    start_ns: int | None = None
    factor: float = 1.0
    connections_per_s: float | None = None
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Learned:
    """A network's traffic model, what it stands on, and the end of what was observed (none: nothing was)."""

    network: Network
    ground: Ground
    model: TrafficModel
    end_ns: int | None


@dataclass(frozen=True, slots=True)
class Generated:
    """What was generated, and where it is."""

    network: str
    place: str
    wanted: Wanted
    account: Account
    model: TrafficModel

    def to_dict(self) -> dict[str, Any]:
        return {
            "network": self.network, "place": self.place, **asdict(self.wanted), "end_ns": self.wanted.end_ns,
            **asdict(self.account), "model": self.model.to_dict(),
        }  # fmt: skip


def learn(workspace: Workspace, name: str, connections_per_s: float | None = None) -> Learned:
    """Fits the traffic model of a network to what is stored of it: see learn_of."""
    return learn_of(networks.get(workspace, name), workspace.metrics, connections_per_s)


def learn_of(network: Network, metrics: Readable, connections_per_s: float | None = None) -> Learned:
    """Fits the traffic model of a network to what is stored of it; or takes its roles' priors, where nothing is.

    Raises TooLittleDataError where nothing is stored and no rate is given.
    """
    name = network.name
    ground = ground_of(network.spec, network.vms, emulated_vms(network))
    priors = [bundled_priors().prior(vm.role) for vm in network.vms]
    history = _history(metrics, network)
    if history is not None:
        model = traffic.fit(history, ground, priors, name)
        if model.rates.mean.sum() > 0:
            end_ns = history.coarse.start_ns + round(history.coarse.steps * history.coarse.step_s * NANOSECONDS)
            return Learned(network, ground, model, end_ns)
    if connections_per_s is None:
        what = "nothing of" if history is None else "no TCP connection to"
        raise TooLittleDataError(
            f"{what} {name} was observed yet, so there is no rate to generate at",
            f"run `adumbra observe {name} pcap:FILE`, or give a rate with --connections-per-s",
        )
    return Learned(network, ground, traffic.from_priors(ground, priors, connections_per_s, name), None)


def generate(
    workspace: Workspace,
    name: str,
    target: Path | IO[bytes],
    options: GenerateOptions | None = None,
    progress: Progress = lambda *_: None,
) -> Generated:
    """Writes a capture of generated traffic to a file, or a stream. The same options give the same bytes.

    Raises InputError for options out of range, TooLittleDataError where there is no rate to generate at.
    """
    options = options or GenerateOptions()
    check_options(options)
    progress(0.0, "fitting the traffic model")
    learned = learn(workspace, name, options.connections_per_s)
    workspace.release_metrics()
    return write(learned, target, options, progress)


def write(learned: Learned, target: Path | IO[bytes], options: GenerateOptions, progress: Progress) -> Generated:
    """The same, of what was learned."""
    wanted = _wanted(learned, options)
    generator = Generator(learned.model, population_of(learned, wanted), wanted)
    with CaptureWriter(target) as writer:
        writer.write(FILE_HEADER)
        for block, done in generator:
            writer.write(block)
            progress(done, f"{generator.packets:,} packets")
    account = generator.account()
    return Generated(learned.network.name, str(target) if isinstance(target, Path) else "-", wanted, account, learned.model)


def population_of(learned: Learned, wanted: Wanted) -> Population:
    """The machines that talk in this traffic."""
    times = np.linspace(wanted.start_ns, wanted.end_ns, 16)
    rate = float(np.max([learned.model.rates.at(int(time_ns)).sum() for time_ns in times])) * wanted.factor
    connections = rate * (wanted.duration_s + 120.0) * 2.0
    return populate(learned.network.spec, learned.network.vms, learned.model, learned.ground, connections)


def check_options(options: GenerateOptions) -> None:
    """Raises InputError for options out of range."""
    if not 0.001 <= options.duration_s <= MOST_DURATION_S:
        raise InputError(f"a duration of {options.duration_s:g} s is out of range", "give one from 1ms to 30d")
    if options.seed < 0:
        raise InputError(f"a seed of {options.seed} is not possible", "give a whole number from 0 on")
    rate = options.connections_per_s
    if rate is not None and not (0 < rate <= _MOST_RATE):
        raise InputError(f"{rate:g} connections a second are out of range", f"give a number above 0, up to {_MOST_RATE:,.0f}")
    if rate is not None and options.factor != 1.0:
        raise InputError("--traffic and --connections-per-s both say how much", "give one of them")
    if not 0 < options.factor <= 1e6:
        raise InputError(f"{options.factor:g} times the traffic is out of range", "give a factor above 0, such as 2x")


def _wanted(learned: Learned, options: GenerateOptions) -> Wanted:
    known = learned.end_ns if learned.end_ns is not None else learned.network.record.created_ns
    whole_s = -(-known // NANOSECONDS)
    start_ns = options.start_ns if options.start_ns is not None else whole_s * NANOSECONDS
    if not 0 <= start_ns < 2**32 * NANOSECONDS - 2 * MOST_DURATION_S * NANOSECONDS:
        raise InputError("a capture can't hold that time", "give a --start from 1970 to 2105")
    wanted = Wanted(start_ns, options.duration_s, options.seed, options.factor, options.cut)
    if options.connections_per_s is not None and learned.end_ns is not None:
        return factor_for(learned.model, wanted, options.connections_per_s)
    return wanted


def _history(metrics: Readable, network: Network) -> History | None:
    """What is stored of a network's VMs: all of it, and the last of it as fine as it is kept. None: nothing."""
    span = metrics.span(network.name)
    wanted = {vm.name for vm in network.vms}
    known = tuple(name for name in metrics.vms(network.name) if name in wanted)
    if span is None or not known:
        return None
    interval_ns = network.spec.interval_ns
    steps = max((span[1] - span[0]) // interval_ns, 1)
    most = max(MOST_CELLS // len(known), _LEAST_STEPS)
    query = SeriesQuery(network.name, COLUMNS, known)
    if steps <= most:
        whole = metrics.read(query)
        return History(whole, whole)
    fine = metrics.read(replace(query, start_ns=span[1] - most * interval_ns))
    coarse = metrics.read(replace(query, step_s=network.spec.interval * math.ceil(steps / most)))
    return History(coarse, fine)


def rates_of(generated: Generated) -> Mapping[str, Mapping[str, float]]:
    """Per VM, what was generated a second, within the time that was asked for."""
    length_s = generated.wanted.duration_s
    return {
        vm: {column: count / length_s for column, count in counts.items()} for vm, counts in generated.account.within.items()
    }
