"""What the environment says is read whole or refused in a line; what is secret in it is not shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from adumbra.schema.errors import InputError
from adumbra.settings import load_settings


def test_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"HOME": "/h", "STORE": "duckdb: prometheus+http://u:pw@h", "STATE": "postgresql://u:pw@h/d", "SPOOL_GB": "2.5"}
    for name, value in told.items():
        monkeypatch.setenv(f"ADUMBRA_{name}", value)
    settings = load_settings()
    assert (settings.home, settings.spool_gb, settings.drain_s) == (Path("/h"), 2.5, 30.0)
    assert settings.store.get_secret_value() == told["STORE"]
    assert settings.state.get_secret_value() == told["STATE"]
    assert "pw" not in repr(settings)


@pytest.mark.parametrize("value", ["much", "0", "-1", "nan", "inf"])
def test_what_is_wrong_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ADUMBRA_SPOOL_GB", value)
    with pytest.raises(InputError, match=r"ADUMBRA_SPOOL_GB: input should be .*; correct it, or unset it") as refusal:
        load_settings()
    assert "\n" not in str(refusal.value)
