"""Round trip and bottleneck of a VM's path, from the links of its spec."""

from __future__ import annotations

import math

import pytest

from adumbra.emulate.paths import UNLINKED, NetworkPath, path_of, paths_of
from adumbra.schema.spec import expand_vms, parse_spec

MBPS = 1e6


def spec_with(links: str, subnets: str = "abcd"):
    return parse_spec(
        "name: n\ncidrs: [10.0.0.0/8]\nsubnets:\n"
        + "".join(f"  - {{name: {s}, cidr: 10.{i}.0.0/16}}\n" for i, s in enumerate(subnets))
        + "vms:\n"
        + "".join(f"  - {{name: vm-{s}, subnet: {s}}}\n" for s in subnets)
        + f"links: [{links}]\n"
    )


def link(one, other, rtt, bandwidth):
    return f"{{between: [{one}, {other}], rtt: {rtt}, bandwidth: {bandwidth}}}"


OUT = link("a", "internet", "20ms", "1Gbps")


@pytest.mark.parametrize(
    ("links", "subnet", "rtt_s", "bps", "to"),
    [
        ([OUT], "a", 0.020, 1000 * MBPS, "internet"),
        ([OUT], "b", UNLINKED.rtt_s, math.inf, ""),  # no link leads anywhere
        # a database's clients are the web servers it is linked to, not the internet behind them
        ([OUT, link("a", "b", "200us", "10Gbps")], "b", 0.0002, 10_000 * MBPS, "a"),
        # the direct way is slower than the one over a
        ([OUT, link("a", "b", "1ms", "10Gbps"), link("b", "internet", "50ms", "10Gbps")], "b", 0.021, 1000 * MBPS, "internet"),
        # two ways as long: the wider one
        (
            [OUT, link("a", "b", "1ms", "10Mbps"), link("a", "c", "500us", "1Gbps"), link("c", "b", "500us", "1Gbps")],
            "b", 0.001, 1000 * MBPS, "a",
        ),
        # of several linked subnets the farthest, and none beyond them
        ([OUT, link("b", "c", "1ms", "10Gbps"), link("c", "d", "2ms", "1Gbps")], "b", 0.001, 10_000 * MBPS, "c"),
        ([OUT, link("b", "c", "1ms", "10Gbps"), link("c", "d", "2ms", "1Gbps")], "c", 0.002, 1000 * MBPS, "d"),
        ([], "a", UNLINKED.rtt_s, math.inf, ""),
    ],
)  # fmt: skip
def test_paths(links, subnet, rtt_s, bps, to):
    spec = spec_with(", ".join(links))
    vm = next(vm for vm in expand_vms(spec) if vm.subnet == subnet)
    found = path_of(spec, vm)
    assert (found.bandwidth_bps, found.to) == (bps, to)
    assert found.rtt_s == pytest.approx(rtt_s)
    assert paths_of(spec)[subnet] == found


def test_every_subnet_with_vms_has_a_path():
    paths = paths_of(spec_with(OUT))
    assert set(paths) == set("abcd")
    assert all(isinstance(path, NetworkPath) and path.rtt_s > 0 for path in paths.values())
