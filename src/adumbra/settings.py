"""What the environment says: where state lives. Reads environment variables only, opens nothing."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _data_home() -> Path:
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "adumbra"


class Settings(BaseSettings):
    """Settings from ADUMBRA_* variables.

    home: the folder of all state; by default the user's data folder (XDG Base Directory Specification).
    """

    model_config = SettingsConfigDict(env_prefix="ADUMBRA_", extra="ignore")
    home: Path = Field(default_factory=_data_home)
