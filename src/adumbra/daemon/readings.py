"""What a server tells of itself when it is scraped: its loops, and what its stores count. Looks only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from adumbra.daemon.jobs import Jobs
from adumbra.daemon.loops import Loop
from adumbra.daemon.ownership import Ownership
from adumbra.daemon.taps import Taps
from adumbra.schema.own_metrics import Reading
from adumbra.service.workspace import Workspace
from adumbra.telemetry import of_queue, of_sends


def of_loops(loops: Iterable[Loop]) -> Iterator[Reading]:
    """How the loops fare."""
    for loop in loops:
        health = loop.health()
        yield Reading("adumbra_loop_runs_total", health.runs, (loop.name,))
        yield Reading("adumbra_loop_failures_total", health.failures, (loop.name,))
        yield Reading("adumbra_loop_up", float(health.well and loop.alive), (loop.name,))
        yield Reading("adumbra_loop_seconds", health.took_s, (loop.name,))


def of_children(taps: Taps, jobs: Jobs) -> Iterator[Reading]:
    """The processes that this server runs."""
    yield Reading("adumbra_taps_running", taps.running())
    yield Reading("adumbra_tap_restarts_total", taps.restarts)
    yield Reading("adumbra_workers_running", jobs.working())
    yield Reading("adumbra_jobs_begun_total", jobs.count)


def of_state(workspace: Workspace, ownership: Ownership) -> Iterator[Reading]:
    """What there is, of all networks."""
    told = workspace.state.tallies()
    for name, counts in (("networks", told.networks), ("sources", told.sources), ("jobs", told.jobs)):
        yield from (Reading(f"adumbra_{name}", number, labels) for labels, number in counts.items())
    yield Reading("adumbra_networks_owned", sum(map(ownership.owns, workspace.state.network_numbers())))


def of_stores(workspace: Workspace) -> Iterator[Reading]:
    """What was sent to the remote stores, and what waits."""
    for outbox in workspace.outboxes:
        counters = getattr(outbox.inner, "counters", None)  # of every remote store that there is
        if counters is not None:
            yield from of_sends(outbox.name, counters())
        yield from of_queue(outbox.name, outbox.status())
