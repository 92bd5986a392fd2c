"""Installs or removes a mirror again and again, killed (SIGKILL) at one moment after another, and tells what recovery left.

Run inside a network namespace: HOME METHOD ACT MOST. A moment is before or after each transaction of the state store, each
step, each request to the kernel, and each run of a tool. Prints one JSON object a moment.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.netns.mirror_host import standing

from adumbra.schema.mirrors import Method
from adumbra.service import mirrors, recovery
from adumbra.service.workspace import Workspace
from adumbra.store.mirrors import MirrorStore
from adumbra.tap import mirror
from adumbra.tap.mirrors import command, link
from adumbra.tap.mirrors.netlink import FilterSocket

importlib.import_module("adumbra.tap.mirrors.plan")  # here once, not in each process that is forked
importlib.import_module("ruamel.yaml")

MOMENTS: list[tuple[Any, str]] = [
    (MirrorStore, "begin"),
    (MirrorStore, "move"),
    (MirrorStore, "forget"),
    (MirrorStore, "revise"),
    (mirror.Host, "make"),
    (mirror.Host, "take_away"),
    (FilterSocket, "add"),
    (FilterSocket, "delete"),
    (command, "run"),
    (link, "_quieten"),
]


def watched(fatal: int) -> dict[str, int]:
    """From now on this process dies at the moment with that number; gives the count of moments so far.

    What is asked again at once, as while the kernel is busy, is one moment: so an act has the same moments each time.
    """
    count = {"moments": 0}
    last: list[Any] = [None]

    def passing() -> None:
        if count["moments"] == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        count["moments"] += 1

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def around(*arguments: Any, **named: Any) -> Any:
            asked = call, arguments[1:]
            if asked != last[0]:
                passing()
            last[0] = asked
            result = call(*arguments, **named)
            passing()
            return result

        return around

    for owner, name in MOMENTS:
        setattr(owner, name, wrapped(getattr(owner, name)))
    return count


def install(home: Path, method: str) -> None:
    with Workspace(home) as workspace:
        mirrors.install(workspace, mirrors.Wanted("lab", "v0", None, Method(method)), time.time_ns, random.Random(1))


def remove(home: Path) -> None:
    with Workspace(home) as workspace:
        mirrors.remove(workspace, "lab", time.time_ns)


def recover(home: Path) -> tuple[list[str], int]:
    with Workspace(home) as workspace:
        told = recovery.recover(workspace, time.time_ns())
        return list(told), len(workspace.state.mirrors.of())


def in_child(act: Callable[[], Any]) -> tuple[bool, Any]:
    """Does it in a process of its own. Gives whether that was killed, and else what it gave."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        with os.fdopen(writing, "w") as answer:
            json.dump(act(), answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status), json.loads(text) if text else None


def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=check)


def main() -> None:
    home, method, act, most = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])

    def doing(fatal: int) -> int:
        count = watched(fatal)
        install(home, method) if act == "install" else remove(home)
        return count["moments"]

    bare = standing(run)
    if act == "remove":
        in_child(lambda: install(home, method))
    _, total = in_child(lambda: doing(-1))
    if act == "install":
        whole = standing(run)
        in_child(lambda: remove(home))
        assert whole != bare
    step = max(1, total // most)
    for fatal in sorted({*range(0, total, step), *range(4), *range(total - 3, total)} & set(range(total))):
        if act == "remove":
            in_child(lambda: install(home, method))
        killed, _ = in_child(lambda at=fatal: doing(at))
        _, (told, recorded) = in_child(lambda: recover(home))
        found = {"moment": fatal, "killed": killed, "told": told, "recorded": recorded, "bare": standing(run) == bare}
        sys.stdout.write(json.dumps(found | {"whole": mirror_stands(home)}) + "\n")
        in_child(lambda: remove(home))


def mirror_stands(home: Path) -> bool:
    def looking() -> list[str]:
        with Workspace(home) as workspace:
            return [status.look.standing.value for status in mirrors.listing(workspace)]

    return in_child(looking)[1] == ["stands"]


if __name__ == "__main__":
    main()
