"""Hands mirrors over to ports, or back, again and again, killed (SIGKILL) at one moment after another; tells what was left.

Run inside a network namespace: HOME ACT MOST PORTS, PORTS as VM=DEVICE,... Moments are those of mirror_kills. After each kill
what the next start left is compared with what an undisturbed act leaves. Prints one JSON object a moment.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from tests.netns.live_host import settled
from tests.netns.mirror_host import standing
from tests.netns.mirror_kills import in_child, recover, run, watched

from adumbra.schema.live import LivePort
from adumbra.service import handover, mirrors
from adumbra.service.workspace import Workspace


def over(home: Path, ports: list[LivePort]) -> bool:
    with Workspace(home) as workspace:
        return handover.hand_over(workspace, "shop", ports, time.time_ns, random.Random(1)).changed


def back(home: Path) -> bool:
    with Workspace(home) as workspace:
        return handover.hand_back(workspace, "shop", time.time_ns, random.Random(2)).changed


def looks(home: Path) -> list[tuple[str, str, str]]:
    with Workspace(home) as workspace:
        found = mirrors.listing(workspace)
        return sorted((s.plan.spec.scope, s.plan.spec.from_device, s.look.standing) for s in found)


def stands(home: Path) -> tuple[dict[str, Any], Any]:
    return settled(standing(run)), in_child(lambda: looks(home))[1]


def main() -> None:
    home, act, most = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    ports = [LivePort(*each.split("=")) for each in sys.argv[4].split(",")]
    acts = {"over": lambda: over(home, ports), "back": lambda: back(home)}
    other = {"over": "back", "back": "over"}[act]

    def doing(fatal: int) -> int:
        count = watched(fatal)
        acts[act]()
        return count["moments"]

    if act == "back":
        in_child(acts[other])
    begun = stands(home)
    _, total = in_child(lambda: doing(-1))
    ended = stands(home)
    in_child(acts[other])
    assert stands(home) == begun != ended
    step = max(1, total // most)
    for fatal in sorted({*range(0, total, step), 1, total - 2, total - 1} & set(range(total))):
        killed, _ = in_child(lambda at=fatal: doing(at))
        _, (told, _) = in_child(lambda: recover(home))
        left = stands(home)
        again = in_child(acts[act])[1]
        found = {"moment": fatal, "of": total, "killed": killed, "told": told, "begun": left == begun, "ended": left == ended}
        found |= {"changed again": again, "ended again": stands(home) == ended}
        sys.stdout.write(json.dumps(found) + "\n")
        in_child(acts[other])


if __name__ == "__main__":
    main()
