"""Tasks worked on by a Ray cluster, or by a Ray of this host alone, started for the purpose. The only module that knows Ray.

Decides nothing about the tasks: it sends them, bounded in number, and brings back what came of each.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import logging
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from adumbra.fanout import Progress, R, S, T, Work
from adumbra.schema.errors import AdumbraError, ClusterError, InputError
from adumbra.schema.version import __version__

if TYPE_CHECKING:
    from types import ModuleType

LOCAL = "local"
ATTEMPTS = 2
"""How often a task is tried that failed for another reason than what it was given: its process died, its node went."""
_IN_FLIGHT = 2
"""Tasks that are sent for each core: the one that it works on, and the next."""
_SAME = ("numpy", "lightgbm", "numba")
"""What must be of one version everywhere for results to be the same."""
_FOLDERS, _PREFIX, _MARK = "/tmp", "adumbra-ray-", "in-use"  # noqa: S108 paths of sockets have 107 bytes at most
_CONNECT_S, _PROBE_S = 5.0, 150.0  # a node that has much to do takes a minute to begin a worker
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True, slots=True)
class LocalSize:
    """How much of this host a local Ray takes; None: all its cores, and as much memory for objects as Ray sees fit."""

    cpus: int | None = None
    object_store_bytes: int | None = None


class RayFanout:
    """Works on a Ray cluster; use it by `with`. address: of its head, HOST:PORT, or "local" for a Ray of this host alone.

    Entering raises InputError where Ray isn't installed or the address isn't one, or where a node would give other results
    (other versions of Python, Adumbra or the libraries it computes with), and ClusterError where nobody answers. A program
    can be in one cluster at a time.
    """

    def __init__(self, address: str = LOCAL, size: LocalSize | None = None) -> None:
        self._address = address.strip()
        self._size = size or LocalSize()
        self._closing = contextlib.ExitStack()
        self._ray: ModuleType | None = None
        self._width = 1

    def __enter__(self) -> Self:
        ray = _ray()
        with contextlib.ExitStack() as opening:
            if self._address == LOCAL:
                opening.enter_context(_local(ray, self._size))
            else:
                opening.enter_context(_joined(ray, self._address))
            _check_nodes(ray)
            self._closing = opening.pop_all()
        self._ray, self._width = ray, max(1, int(ray.cluster_resources().get("CPU", 1)))
        return self

    def __exit__(self, *exc: object) -> None:
        self._ray = None
        self._closing.close()

    @property
    def width(self) -> int:
        return self._width

    def map(self, work: Work[S, T, R], shared: S, tasks: Mapping[str, T], progress: Progress) -> dict[str, R]:
        """See fanout.Fanout. Raises ClusterError where a task fails again and again for no fault of what it was given."""
        if self._ray is None:
            raise RuntimeError("the cluster isn't joined: use it in a `with` block")
        sent = _Sent(self._ray, work, self._ray.put(shared), tasks)
        waiting, done = list(tasks), dict[str, R]()
        try:
            while waiting or sent.running:
                while waiting and len(sent.running) < _IN_FLIGHT * self._width:
                    sent.send(waiting.pop(0))
                for name, result in sent.next():
                    done[name] = result
                    progress(len(done) / len(tasks), f"{len(done)} of {len(tasks)}: {name}")
        except BaseException:
            sent.cancel()
            raise
        return {name: done[name] for name in tasks}


class _Sent:
    """Tasks that are on their way, by the reference of what will come of each."""

    def __init__(self, ray: ModuleType, work: Any, shared: Any, tasks: Mapping[str, Any]) -> None:
        self._ray, self._work, self._shared, self._tasks = ray, work, shared, tasks
        self._remote = ray.remote(num_cpus=1, max_retries=0)(_run)
        self._tried: dict[str, int] = {}
        self.running: dict[Any, str] = {}

    def send(self, name: str) -> None:
        self._tried[name] = self._tried.get(name, 0) + 1
        self.running[self._remote.remote(self._work, self._shared, self._tasks[name])] = name

    def next(self) -> Iterator[tuple[str, Any]]:
        """What came of those that ended first; one that failed is sent again. Raises what a task raised."""
        ended, _ = self._ray.wait(list(self.running), num_returns=1)
        for reference in ended:
            name = self.running.pop(reference)
            try:
                result, error = self._ray.get(reference)
            except self._ray.exceptions.RayError as trouble:
                if self._tried[name] >= ATTEMPTS:
                    raise ClusterError(
                        f"{name} failed {ATTEMPTS} times on the Ray cluster: {_in_a_line(trouble)}",
                        "look at the cluster's logs, or run it without --ray",
                    ) from trouble
                self.send(name)
                continue
            if error is not None:
                raise error
            yield name, result

    def cancel(self) -> None:
        """Gives up what is on its way."""
        for reference in self.running:
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
        self.running.clear()


def _run(work: Any, shared: Any, task: Any) -> tuple[Any, AdumbraError | None]:
    """One task, where it is worked on: what came of it, or what is wrong with what it was given."""
    try:
        return work(shared, task, _unwatched), None
    except AdumbraError as error:
        return None, error


def _unwatched(done: float, what: str) -> None:
    """Progress within a task is seen by nobody: who waits is told of whole ones."""


def _in_a_line(trouble: Exception) -> str:
    """What went wrong, without the traceback that Ray puts into its text."""
    cause = getattr(trouble, "cause", None) or trouble
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}{f': {lines[0][:200]}' if lines else ''}"


def _ray() -> ModuleType:
    """Ray, told to be quiet and to tell nobody of its use."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError("--ray needs Ray, which is not installed", "run `pip install 'adumbra[ray]'`") from None
    return ray


@contextlib.contextmanager
def _local(ray: ModuleType, size: LocalSize) -> Iterator[None]:
    """A Ray of this host alone, which goes in the end with all that it wrote."""
    _remove_left()
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=_FOLDERS)
    held = _hold(folder, "new")
    os.rename(f"{folder}/new", f"{folder}/{_MARK}")  # it is held before anybody sees it
    try:
        with _explained("start Ray on this host", "run it again, or without --ray"):
            ray.init(
                address=LOCAL, num_cpus=size.cpus, object_store_memory=size.object_store_bytes, include_dashboard=False,
                log_to_driver=False, logging_level=logging.ERROR, _temp_dir=folder,
            )  # fmt: skip
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def _hold(folder: str, mark: str = _MARK) -> int | None:
    """Marks a folder as in use for as long as this process lives. None: somebody else does, or it is gone."""
    number = None
    try:
        number = os.open(f"{folder}/{mark}", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if number is not None:
            os.close(number)
        return None
    return number


def _remove_left() -> None:
    """Removes this user's folders whose process was killed."""
    for folder in Path(_FOLDERS).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            ours = folder.lstat().st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink()
            if ours and (folder / _MARK).exists() and (held := _hold(str(folder))) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(held)


@contextlib.contextmanager
def _joined(ray: ModuleType, address: str) -> Iterator[None]:
    """This program as one of a cluster's."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise InputError(
            f"--ray {address[:80]} is no address of a Ray cluster",
            "give HOST:PORT of its head, such as 10.0.0.5:6379, or local",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address}: {getattr(error, 'strerror', None) or error}",
            "check the address; `ray start --head --port 6379` starts one",
        ) from None
    try:
        with _explained(f"join the Ray cluster at {address}", "this host must be one of its nodes: `ray start --address`"):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _explained(doing: str, mend: str) -> Iterator[None]:
    """Ray's ways to fail, in one line."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, TimeoutError) as error:
        text = str(error)
        if "Version mismatch" in text:
            told = " ".join(text.replace("This process on", "this one, on").split())[:300]
            raise InputError(f"could not {doing}: {told}", "use the same versions on every node") from None
        raise ClusterError(f"could not {doing}: {_in_a_line(error)}", mend) from error


def facts() -> dict[str, str]:
    """What results hang on, here: versions, and what the program's own files hold."""
    own = {"Python": platform.python_version(), "Adumbra": f"{__version__} ({_mark()})"}
    for name in _SAME:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            own[name] = importlib.metadata.version(name)
    return own


@cache
def _mark() -> str:
    """A short hash of the program's files."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _check_nodes(ray: ModuleType) -> None:
    """Asks every node what it would compute with. Raises InputError for one that isn't as this host is."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def told() -> dict[str, str] | str:  # sent by its code, as the module may not be there
        try:
            from adumbra.fanout_ray import facts as there
        except ImportError as error:
            return str(error)
        return there()

    ask = ray.remote(num_cpus=0, max_retries=1)(told)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    asked = {
        node["NodeManagerAddress"]: ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in nodes
    }
    here = facts()
    for address, reference in asked.items():
        try:
            there = ray.get(reference, timeout=_PROBE_S)
        except ray.exceptions.RayError as trouble:
            raise ClusterError(
                f"the node {address} of the Ray cluster does not answer: {_in_a_line(trouble)}", "mend it, or take it out"
            ) from trouble
        _check(address, here, there)


def _check(address: str, here: Mapping[str, str], there: Mapping[str, str] | str) -> None:
    if isinstance(there, str):
        raise InputError(
            f"the node {address} of the Ray cluster has no Adumbra of this version: {there}",
            f"install Adumbra {__version__} there, in the Python that Ray runs in",
        )
    for name, version in here.items():
        if there.get(name) != version:
            raise InputError(
                f"the node {address} of the Ray cluster has {name} {there.get(name, 'not at all')}, this host {version}",
                "results would differ; install the same on every node",
            )
