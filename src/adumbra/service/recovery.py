"""What the last process left half done, when it was killed: ended or undone at the next start. Harmless to repeat."""

from __future__ import annotations

from collections.abc import Callable

from adumbra.schema.records import NANOSECONDS
from adumbra.schema.state import NetworkState
from adumbra.service import activations, handover, mirrors, networks
from adumbra.service.workspace import Workspace


def recover(
    workspace: Workspace, now_ns: int, owned: Callable[[str], bool] = lambda _: True, patience_s: float = 0.0
) -> tuple[str, ...]:
    """Marks observations whose process died, undoes half-made mirrors, ends deletions, finishes plans. A sentence for each.

    An interrupted observation keeps the intervals it had written; observing the source again writes the same ones. owned: the
    networks that are moved, where several servers share the state; patience_s: how old a deletion must be to count as
    interrupted: somebody may be at it.
    """
    before_ns = now_ns - round(patience_s * NANOSECONDS)
    told = [
        f"the observation of {each.source} for {each.network} was interrupted; its intervals so far are kept, "
        f"run `adumbra observe {each.network} {each.source}` again for the rest"
        for each in workspace.state.mark_interrupted(now_ns)
    ]
    told += mirrors.recover(workspace, now_ns)
    told += handover.recover(workspace, now_ns)
    told += [
        f"the deletion of {name} was interrupted, and is finished now"
        for name in networks.finish_deletions(workspace, now_ns, owned, before_ns)
    ]
    told += [
        f"the deletion of {record.name} waits for its mirrors: run `adumbra network delete {record.name}` with sudo"
        for record in workspace.state.networks()
        if record.state is NetworkState.DELETING and owned(record.name) and record.updated_ns <= before_ns
    ]
    told += [
        f"the plan for {name} was interrupted, and is finished now"
        for name in activations.finish_plans(workspace, now_ns, owned)
    ]
    return tuple(told)
