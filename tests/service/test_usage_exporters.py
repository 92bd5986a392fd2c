"""Measured use of all machines that a real Prometheus knows, by node_exporter's metrics and by libvirt's exporter's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tests.remote_samples import Sampled, send
from tests.store.fake_http import Say, fake_server

from adumbra.schema.backtests import Usages
from adumbra.schema.errors import AdumbraError, InputError
from adumbra.service.usage_exporters import server_name
from adumbra.service.usages import Told, read_usages

GB = 2**30
SCRAPE_S, HOURS = 60, 6
COUNT = HOURS * 3600 // SCRAPE_S
NODE_S, LIBVIRT_S, DOUBLE_S = 1_704_067_200, 1_709_251_200, 1_711_929_600  # each in a month of its own


def told(start_s: int, exporter: str | None = None, hours: int = HOURS) -> Told:
    return Told(between=(start_s * 10**9, (start_s + hours * 3600) * 10**9), exporter=exporter)


def counter(start_s: int, a_second: Callable[[int], float], reset_at: int = -1) -> list[tuple[float, float]]:
    """A total that grows by so much a second after each scrape; it begins anew at one of them."""
    samples, total = [], 5e6
    for number in range(COUNT):
        total = 0.0 if number == reset_at else total
        samples.append((start_s + number * SCRAPE_S, total))
        total += SCRAPE_S * a_second(number)
    return samples


def gauge(start_s: int, value: Callable[[int], float]) -> list[tuple[float, float]]:
    return [(start_s + number * SCRAPE_S, value(number)) for number in range(COUNT)]


def half(before: float, after: float) -> Callable[[int], float]:
    return lambda number: after if number >= COUNT // 2 else before


def nodes() -> Iterator[Sampled]:
    """web: 2 cores, 0.5 of which, then 1.5 are used, rebooted in between; db: 1 core."""
    for host, cores, level, reset_at in (("web:9100", 2, half(0.5, 1.5), 100), ("10.0.0.5:9100", 1, half(0.25, 0.25), -1)):
        me = {"instance": host, "job": "node"}
        for cpu in range(cores):
            for mode, share in (("user", 0.7), ("system", 0.3), ("idle", 4.0), ("iowait", 2.0), ("steal", 1.0)):
                grown = counter(NODE_S, lambda n, s=share, c=cores, use=level: use(n) * s / c, reset_at)  # type: ignore[misc]
                yield "node_cpu_seconds_total", {**me, "cpu": str(cpu), "mode": mode}, grown
        yield "node_memory_MemTotal_bytes", me, gauge(NODE_S, lambda _: 8.0 * GB)
        spike = lambda n: 1.0 * GB if n == 7 else 5.0 * GB  # noqa: E731
        yield "node_memory_MemAvailable_bytes", me, gauge(NODE_S, spike)
        for device, factor in (("eth0", 1.0), ("lo", 50.0), ("veth12", 50.0), ("eth0.7", 50.0)):
            for way, bytes_a_s in (("receive", 1e6), ("transmit", 2e6)):
                labels = {**me, "device": device}
                yield f"node_network_{way}_bytes_total", labels, counter(NODE_S, lambda _, b=bytes_a_s * factor: b)  # type: ignore[misc]
        for mount, device, kind in (("/", "/dev/vda1", "ext4"), ("/mnt", "/dev/vda1", "ext4"), ("/run", "tmpfs", "tmpfs")):
            disk = {**me, "mountpoint": mount, "device": device, "fstype": kind}
            yield "node_filesystem_size_bytes", disk, gauge(NODE_S, lambda _: 40.0 * GB)
            yield "node_filesystem_free_bytes", disk, gauge(NODE_S, lambda _: 30.0 * GB)


def domains() -> Iterator[Sampled]:
    for domain, host in (("instance-1", "h1:9177"), ("instance-2", "h2:9177")):
        me = {"instance": host, "domain": domain}
        yield "libvirt_domain_info_virtual_cpus", me, gauge(LIBVIRT_S, lambda _: 4)
        yield "libvirt_domain_info_cpu_time_seconds_total", me, counter(LIBVIRT_S, half(1.0, 3.0))
        yield "libvirt_domain_info_maximum_memory_bytes", me, gauge(LIBVIRT_S, lambda _: 16.0 * GB)
        yield "libvirt_domain_info_memory_usage_bytes", me, gauge(LIBVIRT_S, lambda _: 16.0 * GB)
        if domain == "instance-1":
            yield "libvirt_domain_memory_stats_available_bytes", me, gauge(LIBVIRT_S, lambda _: 15.0 * GB)
            yield "libvirt_domain_memory_stats_usable_bytes", me, gauge(LIBVIRT_S, lambda _: 9.0 * GB)
        for tap in ("tap1", "tap2"):
            labels = {**me, "source_bridge": "br0", "target_device": tap}
            yield "libvirt_domain_interface_stats_receive_bytes_total", labels, counter(LIBVIRT_S, lambda _: 5e5)
            yield "libvirt_domain_interface_stats_transmit_bytes_total", labels, counter(LIBVIRT_S, lambda _: 1e5)


@pytest.fixture(scope="module")
def server(prometheus_url: str) -> str:
    send(prometheus_url, nodes())
    send(prometheus_url, domains())
    send(prometheus_url, [
        ("libvirt_domain_info_virtual_cpus", {"instance": host, "domain": "same"}, gauge(DOUBLE_S, lambda _: 2))
        for host in ("h1:9177", "h2:9177")
    ])  # fmt: skip
    return prometheus_url


def row(usages: Usages, resource: str, vm: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    panel = usages.resources[resource].panel
    return np.asarray(panel.values[panel.vms.index(vm)])


def test_node_exporters_machines_are_read(server: str) -> None:
    usages = read_usages(server, 300, None, told(NODE_S))
    cpu = usages.resources["cpu_cores"].panel
    assert (cpu.vms, cpu.step_s, cpu.start_ns) == (("10.0.0.5", "web"), 300, NODE_S * 10**9)
    assert cpu.values.shape == (2, HOURS * 12)
    web = row(usages, "cpu_cores", "web")
    half_way = HOURS * 6
    calm = np.r_[1 : 100 * SCRAPE_S // 300 - 1, 100 * SCRAPE_S // 300 + 1 : half_way - 1]
    assert web[calm] == pytest.approx(0.5, rel=1e-6)
    assert web[half_way + 1 : -1] == pytest.approx(1.5, rel=1e-6)
    assert np.nanmin(web) >= 0  # the reboot is no negative rate
    assert row(usages, "memory_gb", "web")[1] == pytest.approx(7)  # a minute's spike counts
    assert row(usages, "memory_gb", "web")[3:] == pytest.approx(3)
    assert row(usages, "bandwidth_mbps", "web")[1:-1] == pytest.approx(16)  # no loopback, no containers, no VLAN twice
    assert row(usages, "storage_gb", "web")[1:] == pytest.approx(10)  # a disk that is mounted twice counts once
    assert usages.resources["cpu_cores"].provisioned.tolist() == [1, 2]
    assert usages.resources["memory_gb"].provisioned.tolist() == [8, 8]
    assert usages.resources["storage_gb"].provisioned.tolist() == [40, 40]
    assert "read from node_exporter" in usages.notes
    assert usages.source == server


def test_libvirts_domains_are_read(server: str) -> None:
    usages = read_usages(server, 300, ["cpu_cores", "memory_gb", "bandwidth_mbps"], told(LIBVIRT_S))
    assert usages.resources["cpu_cores"].panel.vms == ("instance-1", "instance-2")
    assert row(usages, "cpu_cores", "instance-1")[1 : HOURS * 6 - 1] == pytest.approx(1)
    assert row(usages, "cpu_cores", "instance-1")[HOURS * 6 + 1 : -1] == pytest.approx(3)
    assert row(usages, "memory_gb", "instance-1")[1:] == pytest.approx(6)  # the guest tells
    assert row(usages, "memory_gb", "instance-2")[1:] == pytest.approx(16)  # the host knows no more
    assert row(usages, "bandwidth_mbps", "instance-2")[1:-1] == pytest.approx(8)
    assert usages.resources["cpu_cores"].provisioned.tolist() == [4, 4]
    assert usages.resources["memory_gb"].provisioned.tolist() == [16, 16]
    assert any("balloon" in note for note in usages.notes)


def test_a_step_that_begins_in_the_asked_time_is_of_what_followed(server: str) -> None:
    """A rate of the five minutes up to a time is that of the step which ends there."""
    usages = read_usages(server, 300, ["cpu_cores"], told(NODE_S, "node"))
    web = row(usages, "cpu_cores", "web")
    assert web[HOURS * 6 - 1] == pytest.approx(0.5, rel=0.01)
    assert web[HOURS * 6] == pytest.approx(1.5, rel=0.01)


REFUSED = [
    ({"step_s": 60}, NODE_S, None, "a sample every 60 s, and a rate takes two"),
    ({}, NODE_S - 90 * 86_400, None, "has no metrics of libvirt's exporter or node_exporter in that time"),
    ({}, NODE_S, "libvirt", "has no metrics of libvirt's exporter in that time"),
    ({}, NODE_S, "windows", "no exporter 'windows'"),
    ({}, DOUBLE_S, None, "1 domains run on several hosts at once, such as same"),
]


@pytest.mark.parametrize(("how", "start_s", "exporter", "what"), REFUSED)
def test_what_a_server_cannot_tell_is_refused(
    server: str, how: dict[str, float], start_s: int, exporter: str | None, what: str
) -> None:
    with pytest.raises(InputError, match=what):
        read_usages(server, how.get("step_s", 300), None, told(start_s, exporter))


def test_a_server_must_be_told_the_time(server: str) -> None:
    with pytest.raises(InputError, match="say from when and until when"):
        read_usages(server)


@pytest.mark.parametrize(
    ("status", "body", "what"),
    [
        (401, b"no: s3cr%t is wrong", "does not let us in"),
        (200, b"<html>", "no JSON"),
        (200, b'{"status": "success", "data": {"result": [{"metric": {}, "values": "x"}]}}', "a series that is none"),
        (200, b'{"status": "success", "data": {"result": []}}', "has no metrics"),
        (422, b'{"status": "error", "error": "too many samples"}', "too many samples"),
        (200, b"9" * 2**22, "answers with"),
    ],
)
def test_what_is_secret_is_shown_to_the_server_only(status: int, body: bytes, what: str) -> None:
    with fake_server(lambda _: Say(status, body)) as fake, pytest.raises(AdumbraError, match=what) as refused:
        read_usages(fake.url.replace("//", "//user:s3cr%25t@") + "/p", 300, None, told(NODE_S))
    assert "s3cr" not in str(refused.value)
    assert fake.url.removeprefix("http://") + "/p" in str(refused.value)
    assert fake.asked[0].headers["authorization"].startswith("Basic ")


UNUSABLE = [
    "http://", "http://u:s3cr/t@host", "http:/u:s3cr@host", "http://u:s3cr@host:x", "http://a b", "http://u:s3cr@h,http://b",
    "ftp://u:s3cr@h", "http://h?nosuch=s3cr",
]  # fmt: skip


@pytest.mark.parametrize("url", UNUSABLE)
def test_a_url_that_cannot_be_used_is_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="the URL of the Prometheus server can't be used") as refused:
        read_usages(url, 300, None, told(NODE_S))
    assert "s3cr" not in str(refused.value)


def test_a_servers_name_has_no_secret_in_it() -> None:
    assert server_name("https://u:s3cr@host:9090/prometheus?tenant=t") == "https://host:9090/prometheus"
