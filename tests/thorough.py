"""How long is tried what could be tried for ever: THOROUGH=1 in the environment has it tried for longer than each time."""

from __future__ import annotations

import os

THOROUGH = os.environ.get("THOROUGH", "") not in {"", "0"}


def tries(usual: int, thorough: int) -> int:
    """How many examples of a property, or seconds of a search, where one of them takes long."""
    return thorough if THOROUGH else usual
