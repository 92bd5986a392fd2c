"""Passwords hashed at little cost, for tests that are not of how dear a guess is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from adumbra.service import access


@contextmanager
def cheap_hashes() -> Iterator[None]:
    """Argon2id at its least, meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for name, least in (("PASSES", 1), ("MEMORY_KIB", 8), ("LANES", 1)):
            patch.setattr(access, name, least)
        _forget()
        try:
            yield
        finally:
            _forget()


def _forget() -> None:
    access._hasher.cache_clear()
    access._nobody.cache_clear()
