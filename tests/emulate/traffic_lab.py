"""A small network whose traffic is generated, and the meter that reads it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from adumbra.emulate.paths import paths_of
from adumbra.emulate.roles import RolePrior, bundled_priors
from adumbra.emulate.traffic.calls import Ground, ground_of
from adumbra.emulate.traffic.generate import FILE_HEADER, Account, Generator, Wanted
from adumbra.emulate.traffic.model import COLUMNS, Calls, History, TrafficModel, VmTraffic
from adumbra.emulate.traffic.population import populate
from adumbra.emulate.traffic.rates import constant_rates
from adumbra.emulate.vm import EmulatedVm
from adumbra.metering import PacketMetering, Watch
from adumbra.schema.records import Series
from adumbra.schema.sizing import Machine
from adumbra.schema.spec import NetworkSpec, Vm, expand_vms, parse_spec
from adumbra.tap.replay import PcapReplay

START_NS = 1_790_000_000 * 10**9
LAB = """
name: lab
cidrs: [10.9.0.0/16, "2001:db8:9::/48"]
subnets:
  - {name: front, cidr: 10.9.1.0/24}
  - {name: back, cidr: 10.9.2.0/24}
  - {name: six, cidr: "2001:db8:9:1::/64"}
links:
  - {between: [front, internet], rtt: 20ms, bandwidth: 1Gbps}
  - {between: [front, back], rtt: 200us, bandwidth: 10Gbps}
  - {between: [six, internet], rtt: 40ms, bandwidth: 1Gbps}
vms:
  - {name: web, count: 2, subnet: front, role: web, ports: [80, 443]}
  - {name: db, subnet: back, role: postgresql, ports: [5432]}
  - {name: cache, subnet: back, role: redis, ports: [6379]}
  - {name: six, subnet: six, role: web, ports: [443]}
"""
MACHINE = Machine(2, 8, 1000, 20)


def lab(text: str = LAB) -> tuple[NetworkSpec, tuple[Vm, ...], Ground, list[RolePrior]]:
    spec = parse_spec(text)
    vms, paths, priors = expand_vms(spec), paths_of(spec), bundled_priors()
    emulated = [EmulatedVm(vm.name, priors.prior(vm.role), MACHINE, paths[vm.subnet]) for vm in vms]
    return spec, vms, ground_of(spec, vms, emulated), [priors.prior(vm.role) for vm in vms]


def model(ground: Ground, *, rate: float = 20.0, **figures: float) -> TrafficModel:
    """Web servers that are asked from outside, and ask a database and a cache; a server on IPv6 beside them."""
    web = VmTraffic(
        "", rate, 0.0, 3.0, 400.0, 0.8, 5000.0, 1.5, response_s=0.02, response_sigma=0.4, rtt_s=0.02, idle_s=0.2,
        clients=200, client_acks=0.6, server_acks=0.2, active=20.0,
    )  # fmt: skip
    web = replace(web, **figures)  # type: ignore[arg-type]
    db = VmTraffic(
        "", 0.0, 0.0, 40.0, 120.0, 0.5, 900.0, 1.0, response_s=0.002, response_sigma=0.5, rtt_s=0.0002, client_acks=0.3,
        active=4.0,
    )  # fmt: skip
    cache = replace(db, requests_per_connection=100.0, request_bytes=60.0, response_bytes=300.0, response_s=0.0002, active=6.0)
    of = {"web-1": web, "web-2": web, "db": db, "cache": cache, "six": replace(web, rtt_s=0.04)}
    vms = tuple(replace(of[vm.name], vm=vm.name) for vm in ground.vms)
    number = {name: g for g, name in enumerate(ground.groups)}
    asked = 2 * rate * 3.0
    calls = (
        Calls(number["web"], number["db"], 0.5, asked * 0.5 / 40.0, 0.0002, 2.0),
        Calls(number["web"], number["cache"], 2.0, asked * 2.0 / 100.0, 0.0002, 3.0),
    )
    rates = constant_rates(np.array([vm.connections_per_s for vm in vms] + [0.0] * len(vms)))
    return TrafficModel("lab", vms, ground.groups, tuple(int(g) for g in ground.group), calls, rates)


def generated(path: Path, traffic: TrafficModel, wanted: Wanted, text: str = LAB) -> tuple[Generator, Account]:
    """Writes a capture of the model's traffic."""
    spec, vms, ground, _ = lab(text)
    rate = float(traffic.rates.mean.max()) * wanted.factor
    generator = Generator(traffic, populate(spec, vms, traffic, ground, 2 * rate * wanted.duration_s), wanted)
    with path.open("wb") as file:
        file.write(FILE_HEADER)
        for block, _ in generator:
            file.write(block)
    return generator, generator.account()


def observed(path: Path, text: str = LAB) -> Series:
    """What the meter reads in a capture, as it is stored: float64[V, T] a column."""
    spec, vms, _, _ = lab(text)
    with PcapReplay(path) as source:
        metering = PacketMetering(Watch(spec, vms), source)
        intervals = list(metering)
    assert metering.accounts().foreign == metering.accounts().unclaimed == metering.accounts().late == 0
    start = np.concatenate([each.start_ns for each in intervals])
    assert (np.diff(start) == spec.interval_ns).all()
    names = (
        *COLUMNS,
        "connections_established",
        "retransmitted_packets",
        "out_of_order_packets",
        "duplicate_acks",
        "zero_windows",
    )
    values = {
        name: np.concatenate([np.asarray(each.columns[name], np.float64) for each in intervals]).T for name in names
    }  # fmt: skip
    one_sided = np.concatenate([each.one_sided for each in intervals]).T.astype(np.float64)
    return Series(spec.name, tuple(vm.name for vm in vms), int(start[0]), spec.interval, values, one_sided)


def within(series: Series, wanted: Wanted) -> Series:
    """The part of a series that lies in the time that was asked for."""
    first = (wanted.start_ns - series.start_ns) // 10**9
    last = first + int(wanted.duration_s)
    values = {name: rows[:, first:last] for name, rows in series.values.items()}
    return replace(series, start_ns=wanted.start_ns, values=values, one_sided=series.one_sided[:, first:last])


def history(series: Series) -> History:
    return History(series, series)


def sums(series: Series, names: Sequence[str]) -> dict[str, dict[str, int]]:
    return {vm: {name: int(np.nansum(series.values[name][v])) for name in names} for v, vm in enumerate(series.vms)}
