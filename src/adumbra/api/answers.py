"""Answers that are given as they are: large ones are written without a look at each value; unchanged ones not at all."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Response

from adumbra.api.etags import holds

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def written(content: Any, headers: dict[str, str] | None = None, status: int = 200) -> Any:
    """Plain data, and NumPy arrays, as JSON; what is no finite number is null. It is not held against the route's model."""
    return Response(orjson.dumps(content, option=_OPTIONS), status, headers, "application/json")


def unless_known(content: Any, tag: str, if_none_match: str | None) -> Any:
    """The same with its ETag; 304 to whoever knows it."""
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    return Response(status_code=304, headers=headers) if holds(if_none_match, tag) else written(content, headers)
