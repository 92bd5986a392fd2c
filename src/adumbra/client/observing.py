"""Observing on this host for a network of a server: traffic passes the shadow here, and its metrics are shipped there.

No packet, payload or address leaves this host. A file's metrics are shipped as they close, and running it again ships the same;
a source that goes on is tapped (service/tapping.py): what is measured waits on this host's disk while the server is away.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adumbra.schema.errors import AdumbraError
from adumbra.schema.records import MetricBatch
from adumbra.schema.sources import parse_source
from adumbra.service.following import ObserveOptions, Progress, Vigil, follow, shadow_of, watch_of
from adumbra.service.observations import Observation, mark_of
from adumbra.service.source_metering import FILES, metered
from adumbra.workers import Running

if TYPE_CHECKING:
    from adumbra.client.client import Client

__all__ = ["Kept", "observe"]


class _Stored:
    """What is stored of networks, as following.shadow_of wants it."""

    def __init__(self, client: Client) -> None:
        self.metrics = client


class _Shipper:
    """Keeps metrics at a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def write(self, batch: MetricBatch) -> int:
        return self._client.ship(batch)

    def look_after(self) -> None:
        """The server looks after them."""

    def release(self) -> None:
        """Nobody waits here."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a source that goes on is kept until it is sent: see TapJob."""

    home: Path
    spool_bytes: int
    drain_s: float
    say: Callable[[str], None]


def observe(
    client: Client, name: str, text: str, now: Callable[[], int], progress: Progress, *, options: ObserveOptions, kept: Kept
) -> Observation:  # fmt: skip
    """Follows a source to its end. `now` must be a function that other processes can import.

    Raises InputError, SourceError; ServerError where the server stays away from a file's metrics.
    """
    network, source = client.network(name), parse_source(text)
    if not isinstance(source, FILES):
        return _tapped(client, name, text, now, progress, options=options, kept=kept)
    shadow = shadow_of(network, source, _Stored(client))
    vigil = Vigil.over(source, options, now)
    running = Running(now, vigil.is_over, options.ready)
    with metered(watch_of(network, options.layer), source, running, options.workers) as metering:
        mark = mark_of(source, now())
        try:
            written = follow(shadow, metering, vigil, _Shipper(client), progress)
        except (AdumbraError, KeyboardInterrupt) as error:
            with suppress(AdumbraError):  # what went wrong first is told
                client.note_observation(name, text, mark, {"error": str(error) or "it was stopped"}, failed=True)
            raise
        observation = Observation(name, text, metering.accounts(), notes=metering.notes(), **written)
        client.note_observation(name, text, mark, observation.to_dict())
    return observation


def _tapped(
    client: Client, name: str, text: str, now: Callable[[], int], progress: Progress, *, options: ObserveOptions, kept: Kept
) -> Observation:  # fmt: skip
    from adumbra.service.tapping import TapJob, tap

    server = replace(client.access.http, give_up_s=2.0)
    job = TapJob(
        name, text, kept.home, (server,), options=options, host=os.uname().nodename, spool_bytes=kept.spool_bytes,
        drain_s=kept.drain_s, say=kept.say,
    )  # fmt: skip
    return tap(job, now, progress)
