"""With ADUMBRA_SERVER set a command prints what it prints without: byte for byte, as a table and as JSON, and fails alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard
from tests.api.lives import START_S, batch
from tests.api.serving import SPEC
from tests.client.answering import NOW_NS, Both, Said, both

from adumbra.schema.records import MetricBatch, Origin
from adumbra.schema.state import ObservationState
from adumbra.service import networks
from adumbra.service.workspace import Workspace

SHOP = Path(__file__).parents[2] / "examples" / "shop"
MOST_CAPTURE_BYTES = 2**20
STEPS = 90
"""Seconds of metrics: what is learned of them costs the most here, and is done four times."""
BOTH_FORMS = ("table", "json")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Two networks at both places: lab, with some metrics, and shop, with nothing yet."""
    folder = tmp_path_factory.mktemp("both")
    with Workspace(folder / "here") as workspace:
        networks.create(workspace, SPEC.format(name="lab"), "lab.yaml", NOW_NS - 3)
        networks.create(workspace, (SHOP / "shop.yaml").read_text(), "shop.yaml", NOW_NS - 2)
        began = workspace.state.begin_observation("lab", "pcap:made.pcap", "made", NOW_NS - 2)
        workspace.metrics.write(batch("lab", START_S, STEPS))
        workspace.metrics.write(real())
        accounts = {"accounts": {"offered": 1000, "attributed": 990}}
        workspace.state.finish_observation(began.id, ObservationState.DONE, accounts, NOW_NS - 1)
    (folder / "use.csv").write_text(usage())
    cut_capture(SHOP / "shop.pcap.zst", folder / "shop.pcap")
    (folder / "bad.csv").write_text("vm,time,cpu_cores\nweb-1,1700000100,0.1,7\n")
    (folder / "bad.yaml").write_text(SPEC.format(name="bad").replace("m7i.large", "m7i.lorge"))
    (folder / "policy.yaml").write_text("approval: {above: $0.01/h}\nvms: {db: {floors: {memory_gb: 6}}}\n")
    (folder / "bad-policy.yaml").write_text("budget: $1/h\nvms:\n  nobody: {floors: {cpu_cores: 2}}\n")
    (folder / "new.yaml").write_text(SPEC.format(name="new"))
    with both(folder, folder / "here") as opened:
        yield opened


def real() -> MetricBatch:
    """What the real machines of lab used, but for db, of which there is none."""
    made = batch("lab", START_S, STEPS)
    columns = {name: made.columns[name][:, :2] * 1.25 for name in ("cpu_seconds", "memory_bytes", "rx_bytes", "tx_bytes")}
    sided = np.zeros((STEPS, 2), np.bool_)
    return MetricBatch("lab", 1.0, made.vms[:2], made.start_ns, columns, sided, "libvirt", Origin.LIVE)


def usage() -> str:
    """What the VMs of lab would be measured to use."""
    made = batch("lab", START_S, STEPS)
    rows = [
        f"{vm},{START_S + t},{0.02 + 0.004 * int(made.columns['requests'][t, v]):.6f}"
        for v, vm in enumerate(made.vms)
        for t in range(STEPS)
    ]
    return "\n".join(["vm,time,cpu_cores", *rows]) + "\n"


def cut_capture(path: Path, to: Path) -> None:
    """The first packets of a capture, which are seen in a second."""
    with zstandard.open(path, "rb") as packed:
        data = packed.read(MOST_CAPTURE_BYTES)
    end = 24  # of the file's header; a packet's own is 16 bytes, and tells its length in the third word
    while end + 16 <= len(data) and (after := end + 16 + int.from_bytes(data[end + 8 : end + 12], "little")) <= len(data):
        end = after
    to.write_bytes(data[:end])


READ: list[list[str]] = [
    ["network", "list"],
    ["network", "show", "lab"],
    ["events"],
    ["events", "lab", "--limit", "2"],
    ["metrics", "lab"],
    ["metrics", "lab", "--vm", "db", "--since", "1m", "--step", "10s"],
    ["metrics", "shop"],
    ["model", "list", "lab"],
    ["sources", "lab"],
    ["live", "lab"],
    ["live", "lab", "--last", "1m", "--step", "20s"],
]
CHANGE: list[list[str]] = [
    ["network", "create", "{folder}/new.yaml"],
    ["network", "update", "{folder}/new.yaml"],
    ["network", "delete", "new"],
    ["calibrate", "lab", "{folder}/use.csv"],
    ["calibrate", "lab", "--show"],
    ["calibrate", "lab", "{folder}/use.csv", "--measured-on", "0.5", "--train-share", "50%"],
    ["calibrate", "lab", "--reset"],
    ["whatif", "lab", "--traffic", "2x"],
    ["whatif", "lab", "--vm", "db", "--type", "c7g.large", "--last", "30s"],
    ["whatif", "lab", "--vm", "db", "--sweep", "--last", "5s"],
    ["train", "lab"],
    ["train", "lab", "--seed", "7"],
    ["model", "list", "lab"],
    ["model", "show", "lab", "1"],
    ["model", "rollback", "lab", "1"],
    ["model", "forget", "lab", "2"],
    ["forecast", "lab", "--horizon", "5m"],
    ["profile", "lab"],
    ["profile", "lab", "--shortfall", "5%", "--horizon", "1h", "--risk", "pooled"],
    ["activate", "lab", "--provider", "terraform", "--dry-run"],
    ["activate", "lab", "--provider", "terraform"],
    ["network", "list"],
    ["plan", "show", "lab"],
    ["deactivate", "lab", "--dry-run"],
    ["deactivate", "lab"],
    ["policy", "set", "lab", "{folder}/policy.yaml"],
    ["policy", "show", "lab"],
    ["activate", "lab", "--provider", "terraform", "--dry-run"],
    ["activate", "lab", "--provider", "terraform"],
    ["plan", "show", "lab"],
    ["plan", "reject", "lab"],
    ["activate", "lab", "--provider", "terraform"],
    ["plan", "approve", "lab"],
    ["plan", "show", "lab"],
    ["deactivate", "lab"],
    ["activate", "lab", "--provider", "terraform", "--approve"],
    ["deactivate", "lab"],
    ["policy", "clear", "lab"],
    ["observe", "shop", "pcap:{folder}/shop.pcap"],
    ["metrics", "shop", "--vm", "web-1"],
    ["network", "show", "shop"],
    ["generate", "shop", "{folder}/made.pcap", "--duration", "2s"],
]
"""In this order: each goes on from what the ones before it left."""
FAIL: list[list[str]] = [
    ["network", "show", "nobody"],
    ["network", "create", "{folder}/bad.yaml"],
    ["network", "create", "{shop}/shop.yaml"],
    ["network", "update", "{folder}/new.yaml"],
    ["network", "delete", "nobody"],
    ["observe", "lab", "nonsense"],
    ["observe", "lab", "pcap:/no/such/file"],
    ["observe", "nobody", "pcap:{shop}/shop.pcap.zst"],
    ["metrics", "nobody"],
    ["policy", "set", "lab", "{folder}/bad-policy.yaml"],
    ["policy", "show", "lab"],
    ["policy", "clear", "lab"],
    ["plan", "show", "nobody"],
    ["plan", "approve", "shop"],
    ["plan", "reject", "shop", "999"],
    ["plan", "rollback", "shop"],
    ["plan", "rollback", "lab", "--dry-run"],
    ["metrics", "lab", "--vm", "nobody"],
    ["metrics", "lab", "--step", "1500ms"],
    ["metrics", "lab", "--step", "7parsecs"],
    ["calibrate", "lab", "--show"],
    ["calibrate", "nobody", "--show"],
    ["calibrate", "lab", "/no/such/file.csv"],
    ["calibrate", "lab", "{folder}/bad.csv"],
    ["calibrate", "lab", "{folder}/use.csv", "--update"],
    ["calibrate", "shop", "{folder}/use.csv"],
    ["calibrate", "lab", "--from-traffic"],
    ["whatif", "lab", "--vm", "nobody"],
    ["whatif", "lab", "--type", "m7i.lorge"],
    ["whatif", "lab", "--traffic", "2000x"],
    ["whatif", "shop"],
    ["train", "shop"],
    ["train", "nobody"],
    ["forecast", "shop"],
    ["forecast", "lab", "--horizon", "100d"],
    ["profile", "shop"],
    ["profile", "lab", "--shortfall", "90%"],
    ["profile", "shop", "--by-hour"],
    ["activate", "shop", "--provider", "terraform"],
    ["activate", "shop", "--provider", "terraform", "--dry-run"],
    ["activate", "lab", "--provider", "abacus"],
    ["model", "show", "lab", "9"],
    ["model", "rollback", "lab"],
    ["model", "forget", "lab", "9"],
    ["live", "shop"],
    ["live", "nobody"],
    ["live", "lab", "--last", "1s"],
    ["live", "lab", "--step", "90m"],
    ["calibrate", "lab", "live:"],
    ["generate", "shop", "{folder}/none.pcap"],
]


def filled(pair: Both, arguments: list[str]) -> list[str]:
    return [each.format(folder=pair.here.parent, shop=SHOP) for each in arguments]


@pytest.mark.parametrize("form", BOTH_FORMS)
@pytest.mark.parametrize("arguments", READ, ids=" ".join)
def test_what_is_read_is_the_same(pair: Both, arguments: list[str], form: str) -> None:
    here, there = (asked(*filled(pair, arguments), "-o", form) for asked in (pair.ask_here, pair.ask_there))
    assert here.status == 0, here.told
    assert there == here


@pytest.mark.parametrize("arguments", FAIL, ids=" ".join)
def test_what_can_not_be_done_is_told_in_the_same_words(pair: Both, arguments: list[str]) -> None:
    here, there = (asked(*filled(pair, arguments)) for asked in (pair.ask_here, pair.ask_there))
    assert here.status in {1, 2}
    assert (there.status, there.told) == (here.status, here.told)


@pytest.mark.parametrize("arguments", CHANGE, ids=" ".join)
def test_what_is_changed_is_told_the_same(pair: Both, arguments: list[str]) -> None:
    form = ["-o", "json"] if arguments[:2] != ["network", "delete"] else []
    here = pair.ask_here(*filled(pair, arguments), *form)
    made = _moved(pair)
    there = pair.ask_there(*filled(pair, arguments), *form)
    assert here.status == 0, here.told
    assert _by_the_same(there) == _by_the_same(here)
    assert _moved(pair) == made


def _by_the_same(said: Said) -> Said:
    """Who decided on a plan is another one at each place."""
    return replace(said, shown=re.sub(r'"decided_by": "[^"]+"', '"decided_by": "somebody"', said.shown))


def _moved(pair: Both) -> bytes | None:
    """What a command wrote beside, taken away."""
    path = pair.here.parent / "made.pcap"
    found = path.read_bytes() if path.exists() else None
    path.unlink(missing_ok=True)
    return found


def test_a_command_of_this_host_alone_says_so(pair: Both) -> None:
    for arguments in (["mirror", "list"], ["store", "status"], ["demo"], ["backtest", "network:lab"]):
        said = pair.ask_there(*arguments)
        assert said.status == 2
        assert "works in this host's own workspace, and ADUMBRA_SERVER names a server" in said.told
    said = pair.ask_there("live", "lab", "--read", "5s")
    assert (said.status, "the server reads lab by itself" in said.told) == (2, True)
    said = pair.ask_there("train", "lab", "--ray", "local")
    assert (said.status, "leave --ray out" in said.told) == (2, True)
