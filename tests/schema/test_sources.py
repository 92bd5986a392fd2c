"""What may be named as a source: every form, every refusal with what to write instead, and the way back by str()."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.schema.errors import InputError
from adumbra.schema.sources import (
    KINDS,
    CaptureSource,
    CollectorSource,
    Export,
    ExportFileSource,
    FlowLogSource,
    LiveSource,
    RawTunnelSource,
    SourceSpec,
    Tunnel,
    UdpTunnelSource,
    parse_source,
)

VXLAN, GENEVE, GRE, ERSPAN = Tunnel.VXLAN, Tunnel.GENEVE, Tunnel.GRE, Tunnel.ERSPAN
NETFLOW, SFLOW = Export.NETFLOW, Export.SFLOW


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("pcap:shop.pcap", CaptureSource(Path("shop.pcap"))),
        ("pcap:a:b c.pcap", CaptureSource(Path("a:b c.pcap"))),
        ("live:eth0", LiveSource("eth0")),
        ("vxlan:4789", UdpTunnelSource(VXLAN, "", 4789)),
        ("vxlan:10.0.0.1:8472,vni=42", UdpTunnelSource(VXLAN, "10.0.0.1", 8472, (42,))),
        ("vxlan:[2001:db8:0::1]:4789,vni=7,vni=0,vni=7", UdpTunnelSource(VXLAN, "2001:db8::1", 4789, (0, 7))),
        ("geneve:[::]:6081,vni=16777215", UdpTunnelSource(GENEVE, "::", 6081, (16777215,))),
        ("gre:", RawTunnelSource(GRE, "0.0.0.0")),
        ("gre:10.0.0.1", RawTunnelSource(GRE, "10.0.0.1")),
        ("gre:::", RawTunnelSource(GRE, "::")),
        ("erspan:[2001:db8::1]", RawTunnelSource(ERSPAN, "2001:db8::1")),
        ("netflow:2055", CollectorSource(NETFLOW, "", 2055)),
        ("netflow:127.0.0.1:2055", CollectorSource(NETFLOW, "127.0.0.1", 2055)),
        ("ipfix:[::1]:4739", CollectorSource(NETFLOW, "::1", 4739)),
        ("netflow:./2055", ExportFileSource(NETFLOW, Path("2055"))),
        ("netflow:data/nfv5.pcap", ExportFileSource(NETFLOW, Path("data/nfv5.pcap"))),
        ("ipfix:yaf.dat", ExportFileSource(NETFLOW, Path("yaf.dat"))),
        ("sflow:6343", CollectorSource(SFLOW, "", 6343)),
        ("sflow:2024.pcap", ExportFileSource(SFLOW, Path("2024.pcap"))),
        ("flowlog:vpc.log.gz", FlowLogSource(Path("vpc.log.gz"))),
    ],
)  # fmt: skip
def test_what_may_be_named(text: str, want: SourceSpec) -> None:
    assert parse_source(text) == want
    assert parse_source(str(want)) == want


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "write one of pcap:, live:, vxlan:, geneve:, gre:, erspan:, netflow:, sflow:, flowlog:"),
        ("shop.pcap", "did you mean pcap:shop.pcap?"),
        ("conn.log", "did you mean flowlog:conn.log?"),
        ("eth0", "write one of"),
        ("vlxan:4789", "did you mean vxlan:4789?"),
        ("PCAP:x.pcap", "did you mean pcap:x.pcap?"),
        ("zeek:conn.log", "did you mean flowlog:conn.log?"),
        ("pcapng:x", "did you mean pcap:x?"),
        ("gre", "write gre: or gre:ADDRESS"),
        ("pcap:", "pcap: names no file; write pcap:FILE"),
        ("live:", "such as live:eth0"),
        ("live:a/b", "no name of a network interface"),
        ("live:abcdefghijklmnop", "no name of a network interface"),
        ("vxlan:", "no UDP port to listen on; write vxlan:PORT"),
        ("vxlan:0", "a port from 1 to 65535, such as 4789"),
        ("vxlan:65536", "a port from 1 to 65535"),
        ("vxlan:4789 ", "no UDP port"),
        ("geneve:x.pcap", "such as 6081"),
        ("vxlan:4789,vni=16777216", "'16777216' is no VNI; write vni=N with N from 0 to 16777215"),
        ("vxlan:4789,vni=", "is no VNI"),
        ("vxlan:4789,vnl=3", "'vnl=3' is no option of vxlan:"),
        ("vxlan:::1:4789", "put the IPv6 address in brackets: vxlan:[ADDRESS]:PORT"),
        ("gre:localhost", "'localhost' is no IP address of this host"),
        ("gre:fe80::1%eth0", "names and zones are not looked up"),
        ("netflow:", "write netflow:PORT, netflow:ADDRESS:PORT or netflow:FILE"),
        ("netflow:localhost:2055", "'localhost' is no IP address"),
        ("netflow:10.0.0.300:2055", "'10.0.0.300' is no IP address"),
        ("sflow:99999", "'99999' is no UDP port"),
        ("sflow:[::1", "put the IPv6 address in brackets"),
        ("pcap:a\nb", "characters that can't be shown"),
        ("pcap:" + "a" * 9000, "too long"),
    ],
)  # fmt: skip
def test_what_is_refused_and_what_to_write(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_source(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


kinds = st.sampled_from([*KINDS, "ipfix", "vxlam", ""])
rests = st.one_of(
    st.text(max_size=40),
    st.text("0123456789:.[]/,=vniabf% ", max_size=40),
    st.builds(
        lambda a, p, o: f"{a}:{p}{o}", st.ip_addresses().map(str), st.integers(0, 70_000), st.sampled_from(["", ",vni=3"])
    ),
    st.builds("[{}]:{}".format, st.ip_addresses(v=6), st.integers(0, 70_000)),
)


def parsed(text: str) -> SourceSpec | InputError:
    try:
        return parse_source(text)
    except InputError as error:
        return error


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.text(max_size=60), st.builds("{}:{}".format, kinds, rests)))
def test_any_text_is_a_source_that_reads_back_or_is_refused_in_one_line(text: str) -> None:
    result = parsed(text)
    if isinstance(result, InputError):
        assert len(str(result).splitlines()) == 1
        assert result.mend
    else:
        assert parsed(str(result)) == result


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.builds(
            lambda t, a, p, v: UdpTunnelSource(t, a, p, tuple(sorted(v))),
            st.sampled_from([VXLAN, GENEVE]), st.one_of(st.just(""), st.ip_addresses().map(str)), st.integers(1, 65_535),
            st.sets(st.integers(0, (1 << 24) - 1), max_size=5),
        ),
        st.builds(RawTunnelSource, st.sampled_from([GRE, ERSPAN]), st.ip_addresses().map(str)),
        st.builds(
            ExportFileSource, st.sampled_from([NETFLOW, SFLOW]),
            st.text("0123456789:[]./ab", min_size=1, max_size=12).filter(lambda t: t.strip("/.")).map(Path),
        ),
    )
)  # fmt: skip
def test_every_spec_reads_back_from_its_text(spec: SourceSpec) -> None:
    assert parse_source(str(spec)) == spec
