"""ETags (RFC 9110): what was read has a version, and a change may ask that it still be that one."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

from adumbra.schema.errors import InputError

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        pattern=r'^(\*|"?[0-9]{1,9}(-[0-9a-f]{1,16})?"?)$',
        examples=['"1-18c5e6a7b0c4"'],
        description="The ETag that was read: the change is made to that only.",
    ),
]
IfNoneMatch = Annotated[
    str | None, Header(alias="If-None-Match", max_length=1_000, description="The ETag that is known: 304 where it still holds.")
]


def etag(version: int | str) -> str:
    """A version as an ETag; what follows a hyphen in it is no part of the version that a change may ask for."""
    return f'"{version}"'


def wanted_version(if_match: str | None) -> int | None:
    """The version that a change asks for; None for any. Raises InputError for what is no ETag of this server's."""
    if if_match is None or if_match.strip() == "*":
        return None
    text = if_match.strip().strip('"').partition("-")[0]
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InputError("If-Match is no ETag that this server gave", "send back the ETag as it came")
    return int(text)


def holds(if_none_match: str | None, current: str) -> bool:
    """Whether what is known is what there is."""
    if if_none_match is None:
        return False
    known = {each.strip().removeprefix("W/") for each in if_none_match.split(",")}
    return current in known or "*" in known
