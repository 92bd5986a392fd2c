"""Pages: some of many, and where the next begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query

from adumbra.schema.errors import InputError

T = TypeVar("T")
Limit = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]
After = Annotated[str | None, Query(max_length=200, description="The `next` of the page before.")]
AfterId = Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$", description="The `next` of the page before.")]
DEFAULT_LIMIT = 100


def id_after(after: str | None) -> int | None:
    """The number that `after` names. Raises InputError where it names none."""
    if after is None:
        return None
    if not (after.isascii() and after.isdecimal() and len(after) < 19):
        raise InputError("`after` is no `next` that this route gave", "send back `next` as it came")
    return int(after)


def page(found: Sequence[T], limit: int, key: Callable[[T], object]) -> tuple[Sequence[T], str | None]:
    """Of `limit` + 1 or fewer that were found, those of this page, and the next page's `after`."""
    return (found[:limit], str(key(found[limit - 1]))) if len(found) > limit else (found, None)
