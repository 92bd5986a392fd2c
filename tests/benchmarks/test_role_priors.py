"""The role priors are what benchmarks/roles makes of its measurement, its fit finds costs that are known, and it runs."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adumbra.emulate.demand import wakes
from adumbra.emulate.roles import BUNDLED, load_priors

ROLES = Path(__file__).parents[2] / "benchmarks" / "roles"
DOCS = ROLES.parents[1] / "docs" / "roles.md"
MODULES = ("fit", "stated", "report", "wires", "plan", "load")


@pytest.fixture(scope="module")
def benchmark():
    """The benchmark's modules, by name; they find each other beside themselves, and are forgotten afterwards."""
    sys.path.insert(0, str(ROLES))
    try:
        yield {name: __import__(name) for name in MODULES}
    finally:
        sys.path.remove(str(ROLES))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def measured():
    return json.loads((ROLES / "measured.json").read_text())


@pytest.fixture(scope="module")
def refitted(benchmark, measured):
    return benchmark["fit"].fit_all(measured)


def same(one, other, path=""):
    """Whether two plain values are alike, floats to 1 % (the last digits of a fit depend on the machine's arithmetic)."""
    if isinstance(one, dict):
        assert set(one) == set(other), path
        for key in one:
            same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=0.01), path
    else:
        assert one == other, path


def test_the_bundled_priors_are_the_fit_of_the_measurement(refitted):
    same(json.loads(BUNDLED.read_text()), json.loads(json.dumps(refitted[0])))


def test_the_page_shows_the_bundled_priors(benchmark, measured):
    assert benchmark["report"].page(DOCS.read_text(), measured) == DOCS.read_text()


def test_every_role_is_measured_or_pooled(measured, refitted):
    priors, errors = refitted
    assert set(priors["roles"]) == {*measured["roles"], "generic"}
    assert set(measured["roles"]) == {"nginx", "nginx-tls", "haproxy", "postgresql", "mysql", "redis", "memcached", "app"}
    for name, found in errors.items():
        out = found["held_out_workload"]
        assert priors["roles"][name]["spread"]["cpu"] > out["log_rms"] > 0.05
        assert f"{out['factor_median']:.2g}" in priors["roles"][name]["source"]
    assert "apache" not in priors["aliases"]


COSTS = {"few": (2e-4, 6e-5, 3e-9, 1e-9, 1e-6, 5e-4), "heavy": (4e-3, 2e-3, 2e-8, 1e-8, 2e-6, 2e-3)}


def runs_from(fit, demand, work_s, group):
    """Runs of equal weight, for fits that don't look at levels."""
    count = len(work_s)
    return fit.Runs(demand, work_s, np.ones(count), np.array(group), np.array(["low"] * count))


def made_runs(fit, costs, noise, rng):
    """Runs of six workloads of unlike sizes over kept and new connections, with work by known costs and log-normal noise."""
    rows, groups = [], []
    for workload in range(6):
        size_in, size_out = 10 ** rng.uniform(1.5, 4), 10 ** rng.uniform(2, 5.5)
        for new in (0.0, 1.0):
            for requests in (30, 300, 3000):
                packets = requests * (2 + size_in / 1448 + size_out / 1448 + 6 * new)
                woken = float(wakes(np.float64(requests), 3.0))  # a run takes 3 s
                rows.append([max(new * requests, 2), requests, requests * size_in, requests * size_out, packets, woken])
                groups.append(f"w{workload}")
    demand = np.array(rows)
    return runs_from(fit, demand, demand @ np.array(costs) * np.exp(rng.normal(0, noise, len(rows))), groups)


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_fit_recovers_known_costs(benchmark, name, noise):
    fit, costs = benchmark["fit"], COSTS[name]
    runs = made_runs(fit, costs, noise, np.random.default_rng(5))
    wire_s = fit.wire_costs([runs])
    law = fit.fit_law(runs, wire_s)
    assert (law.costs > 0).all()
    assert law.costs[[0, 1, 5]] == pytest.approx(np.array(costs)[[0, 1, 5]], rel=0.05 if not noise else 0.35)
    errors = np.abs(np.log(fit.predict(law, runs) / runs.work_s))
    assert np.median(errors) < (0.02 if not noise else 0.25)
    left_out = fit.summary(fit.held_out(runs, runs.group, wire_s), runs.weight)
    assert left_out["factor_median"] < (1.1 if not noise else 1.3)


def test_costs_that_cannot_be_told_apart_share(benchmark):
    """With a connection for each request always, their sum is known and neither is 0 or all of it."""
    fit, rng = benchmark["fit"], np.random.default_rng(1)
    requests = rng.uniform(50, 5000, 40)
    demand = np.column_stack([requests, requests, requests * 100, requests * 100, requests * 8])
    runs = runs_from(fit, demand, requests * 1e-3, np.repeat(["a", "b", "c", "d"], 10))
    costs = fit.fit_law(runs, np.array([1e-10, 1e-10, 1e-7])).costs
    assert costs[0] + costs[1] == pytest.approx(1e-3, rel=0.05)
    assert min(costs[:2]) > 0.2e-3


def test_a_role_of_cheap_and_dear_workloads_has_their_mean(benchmark):
    """Workloads of 0.1 and 10 ms a request: a VM may have either, and CPU adds up by means."""
    fit = benchmark["fit"]
    requests, each = np.array([100.0, 200.0, 100.0, 200.0]), np.array([1e-4, 1e-4, 1e-2, 1e-2])
    demand = np.column_stack([np.full(4, 1e-9), requests, requests, requests, requests])
    runs = runs_from(fit, demand, requests * each, list("aabb"))
    law = fit.fit_law(runs, np.array([1e-10, 1e-10, 1e-8]))
    assert law.noise == pytest.approx(math.log(10), rel=0.05)  # from their geometric mean, where half is as wrong as twice
    assert law.costs[1] == pytest.approx(np.mean(each), rel=0.15)


def test_without_a_cost_of_waking_single_requests_are_told_too_cheap(benchmark):
    """Where a request costs more when it comes alone, a law that can't say so tells too little at low rates and too much at
    high ones; one that can is right at both.
    """
    fit = benchmark["fit"]
    runs = made_runs(fit, COSTS["few"], 0.0, np.random.default_rng(3))
    wire_s, low, high = fit.wire_costs([runs]), runs.demand[:, 1] == 30, runs.demand[:, 1] == 3000
    for some, far in ((runs, 0.03), (runs.without_wakes(), None)):
        off = np.log(fit.predict(fit.fit_law(some, wire_s), some) / runs.work_s)
        if far is None:
            assert off[low].mean() < -0.2
            assert off[high].mean() > 0.2
        else:
            assert np.abs(off).max() < far


def test_waking_is_worth_its_cost(refitted):
    """Of runs of a workload that the fit hadn't seen, no role's are told worse with it."""
    for found in refitted[1].values():
        assert found["held_out_workload"]["log_rms"] < found["without_wakes"]["log_rms"]


def test_the_pooled_prior_lies_between_the_measured_ones(refitted):
    roles = {name: prior for name, prior in refitted[0]["roles"].items() if name != "generic"}
    generic = refitted[0]["roles"]["generic"]
    for key in ("request_s", "connection_s", "packet_s", "wake_s"):
        each = [prior["cpu"][key] for prior in roles.values()]
        assert min(each) < generic["cpu"][key] < max(each)
        assert generic["cpu"][key] == pytest.approx(math.exp(np.mean(np.log(each))), rel=0.01)
    assert generic["spread"]["cpu"] > max(min(prior["spread"]["cpu"] for prior in roles.values()), 1.0)


def mysql_packet(number, body):
    return len(body).to_bytes(3, "little") + bytes([number]) + body


OK, EOF, MORE = b"\0\0\0\2\0\0\0", b"\xfe\0\0\2\0", b"\xfe\0\0\x0a\0"
ROWS = mysql_packet(1, b"\1") + mysql_packet(2, b"column") + mysql_packet(3, EOF) + mysql_packet(4, b"\1x")


@pytest.mark.parametrize(
    ("dialect", "answer"),
    [
        ("http", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        ("http", b"HTTP/1.1 304 Not Modified\r\nDate: x\r\n\r\n"),
        ("http", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        ("resp", b"+OK\r\n"),
        ("resp", b"$3\r\nabc\r\n"),
        ("resp", b"$-1\r\n"),
        ("resp", b"*2\r\n$1\r\na\r\n*1\r\n:7\r\n"),
        ("memcache", b"VALUE k 0 3\r\nabc\r\nEND\r\n"),
        ("memcache", b"STORED\r\n"),
        ("postgres", b"D\0\0\0\6\0\0" + b"C\0\0\0\5\0" + b"Z\0\0\0\5I"),
        ("mysql", mysql_packet(1, OK)),
        ("mysql", ROWS + mysql_packet(5, EOF)),
        ("mysql", ROWS + mysql_packet(5, MORE) + mysql_packet(6, OK)),
    ],
)
def test_where_an_answer_ends(benchmark, dialect, answer):
    """However it is cut, it is complete with its last byte and not before."""
    spoken = benchmark["wires"].DIALECTS[dialect]
    for cut in range(len(answer)):
        length = spoken.length(bytearray(answer[:cut]), False)
        assert length == 0 or length > cut
    assert spoken.length(bytearray(answer), False) == len(answer)
    assert not spoken.failed(bytearray(answer))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and control groups need root")
@pytest.mark.skipif(
    shutil.which("redis-server") is None or shutil.which("ethtool") is None, reason="needs redis-server and ethtool"
)
def test_a_tiny_measurement_of_redis(benchmark, tmp_path):
    """The whole program, once, small: servers, load, accounts, fit. What it finds is plausible, and it leaves nothing."""
    words = [
        str(ROLES / "measure.sh"),
        "--quick",
        "--role",
        "redis",
        "--workload",
        "cache",
        "--workload",
        "sessions",
        "--seconds",
        "0.4",
        "--no-install",
    ]
    with subprocess.Popen([*words, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True) as process:
        said = process.communicate(timeout=120)[1]
    if "no control groups" in said:
        pytest.skip(said.strip())
    assert process.returncode == 0, said
    found = json.loads((tmp_path / "measured.json").read_text())
    runs = found["roles"]["redis"]["runs"]
    busiest = max(runs, key=lambda run: run["answered"])
    assert busiest["answered"] > 50
    assert busiest["bytes_out"] > 400 * busiest["answered"]  # half of one mix, most of the other, are answers of 1 kB
    assert busiest["failed"] == 0
    assert 1e-6 < busiest["cpu_s"] / busiest["answered"] < 5e-3
    assert any(run["connections"] == run["answered"] for run in runs if run["mode"] == "new")
    assert found["roles"]["redis"]["memory"]["prepared"]["grown"] > 3e6
    found["system"] = json.loads(BUNDLED.read_text())["system"]
    fit = benchmark["fit"]
    priors, _ = fit.fit_all(found)
    (tmp_path / "roles.json").write_text(fit.text_of(priors))
    assert load_priors(tmp_path / "roles.json").prior("redis").cpu.request_s > 0
    left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert f"roles{process.pid}" not in left
    assert not list(Path("/sys/fs/cgroup").glob(f"*/roles{process.pid}*"))
