"""Errors as they travel from a server to its clients: each class's kind and HTTP status (RFC 9457). Pure; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adumbra.schema.errors import (
    AccessError,
    AdumbraError,
    BusyError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InputError,
    MirrorError,
    MirrorUnsupportedError,
    NotFoundError,
    PreconditionError,
    ProvisionError,
    ServerError,
    SourceError,
    SpecError,
    StoreBusyError,
    StoreError,
    StoreUnavailableError,
    TooLittleDataError,
)

PREFIX = "urn:adumbra:problem:"
PROBLEMS: tuple[tuple[type[AdumbraError], int, str], ...] = (  # the first that fits
    (ForbiddenError, 403, "forbidden"),
    (AccessError, 401, "not-known"),
    (PreconditionError, 412, "changed-meanwhile"),
    (ConflictError, 409, "conflict"),
    (NotFoundError, 404, "not-found"),
    (SpecError, 422, "spec"),
    (SourceError, 422, "source"),
    (InputError, 422, "input"),
    (TooLittleDataError, 409, "too-little-data"),
    (StoreBusyError, 503, "busy"),
    (BusyError, 503, "server-busy"),
    (StoreUnavailableError, 503, "unavailable"),
    (StoreError, 500, "store"),
    (ClusterError, 503, "cluster"),
    (ProvisionError, 500, "provision"),
    (MirrorUnsupportedError, 500, "mirror-unsupported"),
    (MirrorError, 500, "mirror"),
    (ServerError, 503, "server"),
    (AdumbraError, 500, "failed"),
)
_OF_KIND = {kind: error for error, _, kind in PROBLEMS}
_OF_STATUS: Mapping[int, type[AdumbraError]] = {  # of a kind that isn't known here
    401: AccessError, 403: ForbiddenError, 404: NotFoundError, 409: ConflictError, 412: PreconditionError, 413: InputError,
    415: InputError, 422: InputError, 400: InputError,
}  # fmt: skip


def problem_of(error: AdumbraError) -> tuple[int, str]:
    """The HTTP status and the kind of an error."""
    return next((status, kind) for known, status, kind in PROBLEMS if isinstance(error, known))


def error_of(type: str, status: int, title: str, detail: str, problems: Sequence[str] = ()) -> AdumbraError:
    """The very error that a problem tells of: its class by the problem's kind, or else by the status; `what` and `mend`."""
    kind = _OF_KIND.get(type.removeprefix(PREFIX)) or _OF_STATUS.get(
        status, ServerError if status in {429, 503} else AdumbraError
    )
    if kind is SpecError:
        return SpecError(list(problems) or [title])
    return kind(f"{title}: {'; '.join(problems[:3])}" if problems else title, detail)


def plain_of(error: AdumbraError) -> dict[str, Any]:
    """The problem of an error, as plain data."""
    status, kind = problem_of(error)
    told: dict[str, Any] = {"type": f"{PREFIX}{kind}", "title": error.what, "status": status, "detail": error.mend}
    return told | ({"problems": list(error.problems)} if isinstance(error, SpecError) else {})


def error_of_plain(plain: Mapping[str, Any]) -> AdumbraError:
    """The same, of plain data as of an answer's body. Raises KeyError, TypeError, or ValueError for what is no problem."""
    problems = [str(each)[:2000] for each in plain.get("problems") or ()]
    return error_of(
        str(plain["type"]), int(plain["status"]), str(plain["title"])[:4000], str(plain.get("detail") or "")[:4000], problems
    )
