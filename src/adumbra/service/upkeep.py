"""Upkeep of what is stored: roll-ups, retention, a file kept small. Safe to kill, and to run again; cheap if nothing is due."""

from __future__ import annotations

from adumbra.service.workspace import Workspace
from adumbra.settings import Settings
from adumbra.store.levels import Retention
from adumbra.store.protocol import Upkeep


def retention_of(settings: Settings) -> Retention:
    """How long each level of metrics is kept. Raises InputError where it can't be kept so."""
    return Retention(settings.keep_raw, settings.keep_1m, settings.keep_5m, settings.keep_1h)


def maintain(workspace: Workspace, now_ns: int) -> Upkeep:
    """Looks after the embedded metric stores, if there are any. Raises StoreError; what was done until then stays done."""
    done = [embedded.maintain(now_ns) for embedded in workspace.embedded]
    freed = [each.freed_bytes for each in done if each.freed_bytes is not None]
    return Upkeep(sum(each.rolled_up for each in done), sum(each.forgotten for each in done), sum(freed) if freed else None)
