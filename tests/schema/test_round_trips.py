"""What is written is read back: specs, address blocks, quantities."""

from __future__ import annotations

import ipaddress
import json
import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.thorough import tries

from adumbra.schema.addresses import AddressBlock, address_of, parse_block, parse_prefix
from adumbra.schema.spec import NetworkSpec, expand_vms, parse_spec, spec_to_dict
from adumbra.schema.units import (
    DURATION_S,
    RATE_BPS,
    format_bytes,
    format_duration,
    format_number,
    format_rate,
    format_share,
    parse_duration_s,
    parse_rate_bps,
    parse_share,
)

names = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@st.composite
def blocks(draw: st.DrawFn) -> AddressBlock:
    version = draw(st.sampled_from([4, 6]))
    top = 2 ** (32 if version == 4 else 128) - 1
    if draw(st.booleans()):
        bits = draw(st.integers(0, 32 if version == 4 else 128))
        first = draw(st.integers(0, top)) >> bits << bits
        return AddressBlock(version, first, first + 2**bits - 1)
    first = draw(st.integers(0, top))
    return AddressBlock(version, first, draw(st.integers(first, min(top, first + 1000))))


@given(blocks())
def test_a_block_is_written_as_it_is_read(block: AddressBlock) -> None:
    assert parse_block(str(block)) == block
    assert block.count == block.last - block.first + 1
    assert block.contains(block)
    assert block.overlaps(block)


@given(blocks(), blocks())
def test_blocks_overlap_where_they_share_an_address(one: AddressBlock, other: AddressBlock) -> None:
    shared = one.version == other.version and max(one.first, other.first) <= min(one.last, other.last)
    assert one.overlaps(other) == other.overlaps(one) == shared
    assert not one.contains(other) or (shared and one.count >= other.count)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "2001:db8::/32", " 10.0.0.0/8 ", ipaddress.ip_network("10.0.0.0/30")])
def test_prefixes(text: object) -> None:
    assert parse_prefix(text) == ipaddress.ip_network(str(text).strip())
    assert AddressBlock.of_prefix(parse_prefix(text)).count == parse_prefix(text).num_addresses


@pytest.mark.parametrize("text", ["", "10.0.0.1", "10.0.0.0/33", "10.0.0.0/a", "a/8", 8, None, "/", "10.0.0.0/8/8", "::/129"])
def test_what_is_no_prefix(text: object) -> None:
    with pytest.raises(ValueError, match="is not a prefix; write it like"):
        parse_prefix(text)


def test_numbers_become_addresses() -> None:
    assert str(address_of(4, 1)) == "0.0.0.1"
    assert str(address_of(6, 1)) == "::1"
    with pytest.raises(ValueError):
        address_of(4, 2**32)


# ---- quantities ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**9 - 1), st.sampled_from(sorted(DURATION_S)), st.sampled_from(["", " "]))
def test_durations(whole: int, part: int, unit: str, space: str) -> None:
    want = (whole + part / 1e9) * float(DURATION_S[unit])
    assert parse_duration_s(f"{whole}.{part:09d}{space}{unit}") == pytest.approx(want, rel=1e-12)


@given(st.integers(0, 10**18 - 1), st.sampled_from(sorted(RATE_BPS)))
def test_rates(number: int, unit: str) -> None:
    assert parse_rate_bps(f"{number}{unit}") == pytest.approx(number * float(RATE_BPS[unit]))


@pytest.mark.parametrize("read", [parse_duration_s, parse_rate_bps, parse_share])
@pytest.mark.parametrize(
    "text",
    ["", "1", "s", "-1s", "+1s", "1 s s", "1e3s", "0x1s", "1,5s", "1.s", ".5s", "NaN s", "infs", "1S", "١s", 1, None, True],
)
def test_what_is_no_quantity(read, text: object) -> None:
    with pytest.raises(ValueError, match="has no unit that is known here; write it like"):
        read(text)


@pytest.mark.parametrize(("text", "want"), [("0%", 0.0), ("100%", 1.0), ("0.1%", 0.001), ("12.5 %", 0.125)])
def test_shares(text: str, want: float) -> None:
    assert parse_share(text) == want


def test_a_share_above_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"100\.1% is not a share"):
        parse_share("100.1%")


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        (0, "0 ns"), (1e-9, "1 ns"), (2.5e-7, "250 ns"), (9.999e-7, "1 us"), (3e-5, "30 us"), (0.00099951, "1 ms"),
        (0.25, "250 ms"), (0.99949, "999 ms"), (0.9996, "1 s"), (1, "1 s"), (59.94, "59.9 s"), (59.96, "1 min"), (60, "1 min"),
        (899, "14 min 59 s"), (3600, "1 h"), (3661, "1 h 1 min"), (86399.6, "1 d"), (604800, "7 d"), (90061, "1 d 1 h"),
        (math.inf, "-"), (math.nan, "-"),
    ],
)  # fmt: skip
def test_durations_to_read(seconds: float, want: str) -> None:
    assert format_duration(seconds) == want


@given(st.floats(1e-9, 1e9))
def test_no_duration_reads_as_an_exponent(seconds: float) -> None:
    assert "e" not in format_duration(seconds)


@pytest.mark.parametrize(
    ("count", "want"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1 kB"), (1234, "1.23 kB"), (1.2e9, "1.2 GB"), (5e15, "5 PB"), (math.nan, "-")],
)
def test_bytes_to_read(count: float, want: str) -> None:
    assert format_bytes(count) == want


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (0, "0"), (1, "1"), (9.995, "9.99"), (9.9951, "10"), (77.0, "77"), (999.4, "999"), (999.6, "1,000"), (1274.9, "1,270"),
        (1e7, "10,000,000"), (0.0631, "0.0631"), (4.5e-7, "0.00000045"), (-1234.5, "-1,230"), (math.inf, "-"), (math.nan, "-"),
    ],
)  # fmt: skip
def test_numbers_to_read(value: float, want: str) -> None:
    assert format_number(value) == want


@given(st.floats(-1e15, 1e15, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-9), st.integers(1, 6))
def test_a_number_to_read_is_the_number_but_for_its_last_digits(value: float, digits: int) -> None:
    text = format_number(value, digits)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.51 * 10.0 ** (1 - digits))


@pytest.mark.parametrize(
    ("share", "want"), [(0.0, "0 %"), (0.00045, "0.045 %"), (0.918, "91.8 %"), (12.7, "1,270 %"), (None, "-"), (math.nan, "-")]
)
def test_shares_to_read(share: float | None, want: str) -> None:
    assert format_share(share) == want


def test_rates_to_read() -> None:
    assert [format_rate(rate) for rate in (12.5e6, 1e9, 999_600, 3)] == ["12.5 Mbps", "1 Gbps", "1 Mbps", "3 bps"]


# ---- specs ---------------------------------------------------------------------------------------------------------------


def quantity(units: list[str], least: int = 1, most: int = 10**6) -> st.SearchStrategy[str]:
    numbers = st.one_of(
        st.integers(least, most).map(str),
        st.tuples(st.integers(least, most), st.integers(0, 10**9 - 1)).map("{0[0]}.{0[1]:09d}".format),
    )
    return st.builds("{}{}".format, numbers, st.sampled_from(units))


small_shares = st.integers(1, 50 * 10**9).map(lambda n: f"{n // 10**9}.{n % 10**9:09d}%")


@st.composite
def specs(draw: st.DrawFn) -> dict:
    """A spec that is right: subnets of both versions, VMs with addresses and without."""
    subnets, vms = [], []
    for i in range(draw(st.integers(1, 4))):
        v6 = draw(st.booleans())
        subnets.append({"name": f"s{i}", "cidr": f"2001:db8:{i}::/64" if v6 else f"10.{i}.0.0/24"})
        at = 100
        for k in range(draw(st.integers(0 if i else 1, 3))):
            group: dict = {"name": f"vm{i}-x{k}", "subnet": f"s{i}"}
            if draw(st.booleans()):
                group["count"] = draw(st.integers(1, 5))
            if draw(st.booleans()):
                own = []
                for _ in range(draw(st.integers(1, 3))):
                    wide = group.get("count", 1) + draw(st.integers(0, 3))
                    low, high = (f"2001:db8:{i}::{n:x}" if v6 else f"10.{i}.0.{n}" for n in (at, at + wide - 1))
                    own.append(f"{low}-{high}")
                    at += wide + draw(st.integers(0, 2))
                group["addresses"] = own if len(own) > 1 else own[0]
            if draw(st.booleans()):
                group["role"] = draw(names)
            if draw(st.booleans()):
                group["ports"] = draw(st.lists(st.integers(1, 65535), max_size=3))
            if draw(st.booleans()):
                group["resources"] = {"cpu_cores": draw(st.floats(0.001, 4096)), "memory_gb": draw(st.integers(1, 65536))}
            vms.append(group)
    spec: dict = {"name": draw(names), "cidrs": ["10.0.0.0/8", "2001:db8::/32"], "subnets": subnets, "vms": vms}
    ends = [subnet["name"] for subnet in subnets] + ["internet"]
    spec["links"] = [
        {
            "between": [ends[0], end],
            "rtt": draw(quantity(list(DURATION_S), most=1000)),
            "bandwidth": draw(quantity(list(RATE_BPS), most=900)),
        }
        for end in draw(st.lists(st.sampled_from(ends[1:]), unique=True))
    ]
    spec["targets"] = {"shortfall": draw(small_shares), "loss": draw(small_shares), "latency_p99": draw(quantity(["us", "ms"]))}
    spec["interval"] = f"{draw(st.integers(100, 3_600_000))}ms"
    if draw(st.booleans()):
        spec["donors"] = [{"from": "192.168.0.0/24", "to": "10.0.0.0/24"}, {"from": "fd00::/64", "to": "2001:db8::/64"}]
    return spec


@settings(max_examples=tries(75, thorough=200), deadline=None)
@given(specs())
def test_a_spec_comes_back_from_its_plain_data(given_spec: dict) -> None:
    spec = parse_spec(json.dumps(given_spec))
    again = parse_spec(json.dumps(spec_to_dict(spec)))
    assert again == spec
    assert spec_to_dict(again) == spec_to_dict(spec)
    assert expand_vms(again) == expand_vms(spec)


@settings(max_examples=tries(75, thorough=200), deadline=None)
@given(specs())
def test_each_vm_has_addresses_of_its_own_in_its_subnet(given_spec: dict) -> None:
    spec = parse_spec(json.dumps(given_spec))
    vms = expand_vms(spec)
    assert len({vm.name for vm in vms}) == len(vms) == sum(group.count for group in spec.vms)
    owned: list[AddressBlock] = []
    for vm in vms:
        home = AddressBlock.of_prefix(spec.subnet(vm.subnet).cidr)
        assert vm.addresses
        assert all(home.contains(block) for block in vm.addresses)
        owned += vm.addresses
    owned.sort(key=lambda block: (block.version, block.first))
    assert all(not one.overlaps(other) for one, other in pairwise(owned))
    for group in spec.vms:
        members = [vm for vm in vms if vm.group == group.name]
        assert len(members) == group.count
        assert [vm.name for vm in members] == (
            [group.name] if group.count == 1 else [f"{group.name}-{k + 1}" for k in range(group.count)]
        )
        if group.addresses:
            assert all(any(pool.contains(block) for pool in group.addresses) for vm in members for block in vm.addresses)


def test_defaults_are_not_written_out() -> None:
    least = {
        "name": "a",
        "cidrs": ["10.0.0.0/8"],
        "subnets": [{"name": "s", "cidr": "10.0.0.0/24"}],
        "vms": [{"name": "v", "subnet": "s"}],
    }
    spec = parse_spec(json.dumps(least))
    assert isinstance(spec, NetworkSpec)
    assert spec_to_dict(spec) == least
