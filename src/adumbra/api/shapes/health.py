"""How the server is, as it travels."""

from __future__ import annotations

from typing import Literal

from adumbra.api.shapes.common import Answer


class Alive(Answer):
    """It answers."""

    status: Literal["alive"] = "alive"


class Ready(Answer):
    """It can do its work."""

    status: Literal["ready"] = "ready"
