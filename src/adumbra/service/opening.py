"""From settings to a workspace: which stores there are, and how they are kept. Opens nothing."""

from __future__ import annotations

from adumbra.service.upkeep import retention_of
from adumbra.service.workspace import Storage
from adumbra.settings import Settings
from adumbra.store.urls import parse_stores


def storage_of(settings: Settings) -> Storage:
    """What a workspace keeps where. Raises InputError for settings that aren't right."""
    return Storage(
        parse_stores(settings.store.get_secret_value()), settings.state.get_secret_value(), round(settings.spool_gb * 1e9),
        settings.drain_s, retention=retention_of(settings),
    )  # fmt: skip
