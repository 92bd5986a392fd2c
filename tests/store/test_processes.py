"""Processes by their names: what a stranger calls itself is never looked at as one of ours, nor stumbled over."""

from __future__ import annotations

import pytest

from adumbra.store.processes import has_died, is_here, this_process


@pytest.mark.parametrize("other_hosts", [True, False])
def test_this_one_lives_and_what_is_no_process_does_not(other_hosts: bool) -> None:
    here = this_process()
    place = here.rsplit(" ", 3)[0]
    assert is_here(here)
    assert not has_died(here, other_hosts=other_hosts)
    for name in ("", "a", place, f"{place} boot", f"{place} boot -1 9", f"{place} boot ²³ 9", f"{place} boot x 9"):
        assert has_died(name, other_hosts=other_hosts)
