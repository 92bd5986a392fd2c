"""Observing on this host for a network of a server: traffic passes the shadow here, and its metrics are shipped there.

No packet, payload or address leaves this host. What was shipped stays, should this be killed; running it again ships the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from adumbra.schema.errors import AdumbraError
from adumbra.schema.records import MetricBatch
from adumbra.schema.sources import parse_source
from adumbra.service.following import ObserveOptions, Progress, Vigil, follow, shadow_of, watch_of
from adumbra.service.observations import Observation, mark_of
from adumbra.service.sources import metered
from adumbra.workers import Running

if TYPE_CHECKING:
    from adumbra.client.client import Client

__all__ = ["observe"]


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


def observe(
    client: Client, name: str, text: str, now: Callable[[], int], progress: Progress, *, options: ObserveOptions
) -> Observation:  # fmt: skip
    """Follows a source to its end. `now` must be a function that other processes can import.

    Raises InputError, SourceError; ServerError where the server stays away.
    """
    network, source = client.network(name), parse_source(text)
    shadow = shadow_of(network, source, _Stored(client))
    vigil = Vigil.over(source, options, now)
    running = Running(now, vigil.is_over, options.ready)
    with metered(watch_of(network, options.layer), source, running, options.workers) as metering:
        mark = mark_of(source, now())
        try:
            written = follow(shadow, metering, vigil, _Shipper(client), progress)
        except (AdumbraError, KeyboardInterrupt) as error:
            client.note_observation(name, text, mark, {"error": str(error) or "it was stopped"}, failed=True)
            raise
        observation = Observation(name, text, metering.accounts(), notes=metering.notes(), **written)
        client.note_observation(name, text, mark, observation.to_dict())
    return observation
