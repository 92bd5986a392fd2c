"""Tasks give the same wherever they are worked on: here, on a Ray of this host, and by a command that joins it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.service.test_backtests import Refuses
from tests.service.test_whatif import SPEC, traffic
from tests.service.usage_samples import usages

from adumbra import fanout_ray
from adumbra.fanout import IN_PROCESS, Fanout, Progress
from adumbra.fanout_ray import LocalSize, RayFanout, _check, facts
from adumbra.forecast.gate import Serving, judge
from adumbra.forecast.training import train
from adumbra.profile.rules import RULES
from adumbra.schema.errors import AdumbraError, ClusterError, InputError, SpecError, TooLittleDataError
from adumbra.schema.records import Panel
from adumbra.service import networks
from adumbra.service.backtests import BacktestRequest, backtest, sizers_of
from adumbra.service.whatif import Question, what_if
from adumbra.service.workspace import Workspace

pytest.importorskip("ray")
SECONDS = 1_000_000_000
LEARNED = ("cpu_cores", "memory_gb")


def quiet(_share: float, _what: str) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayFanout]:
    """A Ray of this host, with two workers; all that it wrote is gone in the end."""
    import ray

    with RayFanout("local", LocalSize(cpus=2, object_store_bytes=100 * 2**20)) as opened:
        folder = Path(ray._private.worker._global_node.get_temp_dir_path())
        assert folder.is_dir()
        yield opened
    assert not folder.exists()


def test_what_a_killed_one_left_is_removed_and_what_is_in_use_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout_ray, "_FOLDERS", str(tmp_path))
    left, used, other = (tmp_path / name for name in ("adumbra-ray-left", "adumbra-ray-used", "else"))
    for folder in (left, used, other):
        folder.mkdir()
        (folder / "in-use").touch()
    (tmp_path / "adumbra-ray-link").symlink_to(other)
    held = fanout_ray._hold(str(used))
    assert held is not None
    fanout_ray._remove_left()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adumbra-ray-link", "adumbra-ray-used", "else"]
    os.close(held)
    fanout_ray._remove_left()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adumbra-ray-link", "else"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network in it, and its traffic."""
    folder = tmp_path_factory.mktemp("home")
    with Workspace(folder) as workspace:
        networks.create(workspace, SPEC, "lab.yaml", 1)
        workspace.metrics.write(traffic())
    return folder


def panels(steps: int, seed: int = 3) -> dict[str, Panel]:
    rng = np.random.default_rng(seed)
    vms = ("a", "b", "c")
    return {
        resource: Panel(resource, vms, 1_700_000_000 * SECONDS, 60.0, rng.gamma(4.0, 0.25, (3, steps)).cumsum(axis=1) % 5)
        for resource in LEARNED
    }


# What is worked on, where others can import it


def ordinal(shared: int, task: int, progress: Progress) -> tuple[int, int]:
    progress(0.5, "half")
    return shared, task**2


def total(shared: np.ndarray, task: int, progress: Progress) -> tuple[float, bool]:
    return float(shared[task:].sum()), shared.flags.writeable


def refuse(shared: AdumbraError, task: int, progress: Progress) -> int:
    if task == 1:
        raise shared
    return task


def misbehave(shared: Path, task: str, progress: Progress) -> str:
    """Dies the first time, or each time; or errs in a way that nobody foresaw; or leaves a mark once it was let live."""
    tries = len(list(shared.glob(f"{task}-*")))
    (shared / f"{task}-{tries}").touch()
    if task == "dies" or (task == "dies once" and tries == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "errs":
        raise ValueError("seven\nof nine")
    if task == "lingers":
        time.sleep(20)
        (shared / "survived").touch()
    return f"{task} {tries}"


PLACES = ("in process", "ray")


@pytest.fixture(params=PLACES)
def fanout(request: pytest.FixtureRequest) -> Fanout:
    place: Fanout = IN_PROCESS if request.param == "in process" else request.getfixturevalue("cluster")
    return place


class TestContract:
    def test_results_come_by_name_in_the_order_of_the_tasks(self, fanout: Fanout) -> None:
        told: list[float] = []
        tasks = {f"task {number}": number for number in range(12)}
        done = fanout.map(ordinal, 7, tasks, lambda share, _: told.append(share))
        assert list(done.items()) == [(name, (7, number**2)) for name, number in tasks.items()]
        assert told == sorted(told)
        assert told[0] > 0
        assert told[-1] <= 1
        assert fanout.map(ordinal, 7, {}, quiet) == {}

    def test_large_arrays_are_shared(self, fanout: Fanout) -> None:
        shared = np.arange(2_000_000, dtype=np.float64)  # 16 MB: for each of the tasks they would be more than there is
        done = fanout.map(total, shared, {str(k): k for k in range(20)}, quiet)
        assert [done[str(k)][0] for k in range(20)] == [float(shared[k:].sum()) for k in range(20)]

    @pytest.mark.parametrize(
        "error",
        [TooLittleDataError("what", "mend"), SpecError(["line 1", "line 2"]), InputError("what")],
        ids=str,
    )
    def test_an_error_that_is_meant_for_the_user_arrives_whole(self, fanout: Fanout, error: AdumbraError) -> None:
        with pytest.raises(type(error)) as caught:
            fanout.map(refuse, error, {"first": 0, "second": 1, "third": 2}, quiet)
        assert (str(caught.value), caught.value.what, caught.value.mend) == (str(error), error.what, error.mend)
        assert getattr(caught.value, "problems", None) == getattr(error, "problems", None)


class TestTrouble:
    def test_a_task_whose_process_dies_is_tried_again(self, cluster: RayFanout, tmp_path: Path) -> None:
        done = cluster.map(misbehave, tmp_path, {name: name for name in ("well", "dies once", "too")}, quiet)
        assert done == {"well": "well 0", "dies once": "dies once 1", "too": "too 0"}

    @pytest.mark.parametrize(("task", "told"), [("dies", "WorkerCrashedError"), ("errs", "ValueError: seven; look at")])
    def test_one_that_fails_again_is_told_in_a_line(self, cluster: RayFanout, tmp_path: Path, task: str, told: str) -> None:
        with pytest.raises(ClusterError, match=f"{task} failed 2 times on the Ray cluster: {told}") as caught:
            cluster.map(misbehave, tmp_path, {task: task}, quiet)
        assert "\n" not in str(caught.value)
        assert len(list(tmp_path.iterdir())) == 2

    def test_what_is_on_its_way_is_given_up_with_the_rest(self, cluster: RayFanout, tmp_path: Path) -> None:
        def stop(_share: float, _what: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            cluster.map(misbehave, tmp_path, {"well": "well", **{f"lingers {k}": "lingers" for k in range(3)}}, stop)
        assert len(cluster.map(ordinal, 1, {str(k): k for k in range(4)}, quiet)) == 4
        assert not (tmp_path / "survived").exists()

    @pytest.mark.parametrize("address", ["", "ray", "ray://localhost:10001", "10.0.0.5:", "localhost:x"])
    def test_what_is_no_address(self, address: str) -> None:
        with pytest.raises(InputError, match="is no address of a Ray cluster; give HOST:PORT"), RayFanout(address):
            pass

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"numpy": "1.0"}, "has numpy 1.0, this host"),
            ({"Adumbra": "0.1.0 (other)"}, r"has Adumbra 0.1.0 \(other\), this host"),
            ({"Python": "3.9.1"}, "has Python 3.9.1, this host"),
        ],
    )
    def test_a_node_that_would_give_other_results_is_refused(self, change: dict[str, str], told: str) -> None:
        here = facts()
        _check("10.0.0.7", here, dict(here))
        with pytest.raises(InputError, match=f"the node 10.0.0.7 of the Ray cluster {told}"):
            _check("10.0.0.7", here, here | change)
        with pytest.raises(InputError, match=r"no Adumbra of this version: No module named 'adumbra'; install Adumbra"):
            _check("10.0.0.7", here, "No module named 'adumbra'")


class TestSameResults:
    def test_a_training_and_its_judgement(self, cluster: RayFanout) -> None:
        """To the last bit, as it is kept."""
        old, use = train(panels(150), 5, quiet), panels(260)
        serving = Serving(1, old, (1_700_000_000 + 150 * 60) * SECONDS)
        here, there = (train(use, 5, quiet, place) for place in (IN_PROCESS, cluster))
        assert here.to_bytes() == there.to_bytes()
        assert {learned.chosen for learned in here.resources} >= {"lightgbm"}
        judged = judge(here, use, serving)
        assert judged == judge(there, use, serving, cluster)
        assert len(judged.compared) == len(LEARNED)

    def test_a_sweep(self, cluster: RayFanout, home: Path) -> None:
        question = Question(factor=30.0, last_s=60.0, every_type=True)
        with Workspace(home) as workspace:
            here, there = (what_if(workspace, "lab", question, fanout=place) for place in (IN_PROCESS, cluster))
        assert here.to_dict() == there.to_dict()
        assert len(here.vms) == 2

    def test_a_back_test(self, cluster: RayFanout) -> None:
        rules = tuple(RULES[name] for name in ("peak", "crane", "krr"))
        request = BacktestRequest(rules=rules, resources=("cpu_cores",))
        asked = (*sizers_of(request), Refuses())
        here, there = (backtest(usages(), request, sizers=asked, fanout=place) for place in (IN_PROCESS, cluster))
        assert here.to_dict() == there.to_dict()
        for of_here, of_there in zip(here.resources, there.resources, strict=True):
            assert any("refuses gave no sizes" in note for note in of_here.notes)
            for one, other in zip(of_here.scored, of_there.scored, strict=True):
                np.testing.assert_array_equal(one.given.amounts, other.given.amounts)


def adumbra(home: Path, *arguments: str, program: str = "from adumbra.cli.main import run; run()") -> Any:
    environment = os.environ | {"ADUMBRA_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100"}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


class TestCommands:
    def test_a_command_joins_a_cluster_and_tells_the_same(self, cluster: RayFanout, home: Path) -> None:
        import ray

        address = ray.get_runtime_context().gcs_address
        asked = ("whatif", "lab", "--sweep", "--traffic", "3x", "--last", "30s", "-o", "json")
        here, there = (adumbra(home, *asked, *more) for more in ((), ("--ray", address)))
        assert (there.returncode, there.stderr) == (0, "")
        assert json.loads(there.stdout) == json.loads(here.stdout)

    @pytest.mark.parametrize(
        ("program", "address", "status", "told"),
        [
            ("", "127.0.0.1:1", 1, "no Ray cluster answers at 127.0.0.1:1: Connection refused; check the address"),
            ("", "somewhere", 2, "--ray somewhere is no address of a Ray cluster; give HOST:PORT"),
            ("import sys; sys.modules['ray'] = None\n", "local", 2, "not installed; run `pip install 'adumbra[ray]'`"),
        ],
        ids=["nobody answers", "no address", "no extra"],
    )
    def test_what_can_not_be_done_is_told_in_one_line(
        self, home: Path, program: str, address: str, status: int, told: str
    ) -> None:
        run = adumbra(home, "train", "lab", "--ray", address, program=f"{program}from adumbra.cli.main import run; run()")
        assert (run.returncode, run.stdout) == (status, "")
        assert told in run.stderr
        assert len(run.stderr.splitlines()) == 1
