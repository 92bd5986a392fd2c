"""Metrics in and out as columns: what taps ship, and what work on other hosts reads. Bounded in bytes, and at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from adumbra import __version__
from adumbra.api.access import Operator, Viewer
from adumbra.api.acts import Changing
from adumbra.api.context import At
from adumbra.api.shapes.common import Problem
from adumbra.api.shapes.shipments import BatchOut, DeletedOut, SeriesAsked, StoredOut, StoreOut
from adumbra.schema.errors import StoreBusyError
from adumbra.schema.records import MetricBatch, Origin, SeriesQuery
from adumbra.service import shipping
from adumbra.store.batch_bytes import MEDIA_TYPE, pack_series, unpack_batch

router = APIRouter(tags=["metrics"])
_AT_ONCE, _WAITS_S, _LOOKS_S = 4, 20.0, 0.02
_UNPACKED = threading.BoundedSemaphore(_AT_ONCE)
"""Batches and series that are in memory at once: each may be a hundred megabytes."""
_BYTES = {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
_BODY: dict[str, Any] = {"requestBody": {"required": True, "description": "A batch: see docs/taps.md.", "content": _BYTES}}
_REFUSED: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text, "content": {"application/problem+json": {}}}
    for code, text in {413: "It is too large", 415: "It is no batch of metrics"}.items()
}
_Instance = Annotated[
    str, Query(pattern=r"^[A-Za-z0-9_-]{0,64}$", description="The tap's word for itself; none for work that isn't a tap.")
]
_SourceNumber = Annotated[int | None, Query(ge=1, lt=2**63, description="The number of the tap's source.")]


@router.post(
    "/networks/{name}/batches", summary="Ship metrics of a network's VMs", openapi_extra=_BODY, responses=_REFUSED
)  # fmt: skip
async def ship(
    name: str, request: Request, at: At, who: Operator, instance: _Instance = "", source: _SourceNumber = None
) -> BatchOut:
    del who
    sender = shipping.Sender(instance, source)
    return await _taken(
        request, at, lambda batch: BatchOut.model_validate(shipping.accept(at.workspace, name, batch, sender, at.now()))
    )


@router.patch(
    "/networks/{name}/batches", summary="Put other values in the place of stored ones", openapi_extra=_BODY, responses=_REFUSED
)
async def amend(name: str, request: Request, at: At, who: Operator) -> BatchOut:
    del who
    return await _taken(request, at, lambda batch: BatchOut(replaced=shipping.amend(at.workspace, name, batch, at.now())))


@router.delete("/networks/{name}/batches", summary="Remove what was measured of a network; the network itself stays")
def remove(name: str, at: At, who: Operator, change: Changing) -> DeletedOut:
    del who
    at.workspace.state.network(name)
    deleted = change.make(
        lambda: shipping.forget(at.workspace, name), asked={"metrics": "all"}, after=lambda rows: {"deleted": rows}
    )  # fmt: skip
    return DeletedOut(deleted=deleted)


@router.get("/networks/{name}/series", summary="What is stored of a network: which VMs, from when to when")
def stored(name: str, at: At, who: Viewer, origin: Origin = Origin.SHADOW) -> StoredOut:
    del who
    at.workspace.state.network(name)
    span = at.workspace.metrics.span(name, origin) or (None, None)
    return StoredOut(vms=list(at.workspace.metrics.vms(name)), start_ns=span[0], end_ns=span[1])


@router.post(
    "/networks/{name}/series", summary="Read metrics as columns", response_class=Response,
    responses={200: {"description": "A series as bytes: see docs/taps.md.", "content": _BYTES}},
)  # fmt: skip
async def series(name: str, asked: SeriesAsked, at: At, who: Viewer) -> Response:
    del who
    query = SeriesQuery(
        name, tuple(asked.columns), tuple(asked.vms), asked.start_ns, asked.end_ns, asked.step_s, asked.origin
    )  # fmt: skip

    def work() -> bytes:
        at.workspace.state.network(name)
        return pack_series(at.workspace.metrics.read(query))

    async with _one_of_few():
        return Response(await run_in_threadpool(work), media_type=MEDIA_TYPE)


@router.get("/store", summary="What the server's metric store can do")
def store(at: At, who: Viewer) -> StoreOut:
    del who
    abilities = at.workspace.metrics.abilities
    return StoreOut(version=__version__, replaces=abilities.replaces, deletes=abilities.deletes)


async def _taken(request: Request, at: At, store: Callable[[MetricBatch], BatchOut]) -> BatchOut:
    """What comes of the batch in a request's body. Whoever asks is known by then, and may."""
    raw = await _body(request, at.care.batch_bytes)

    async with _one_of_few():
        return await run_in_threadpool(lambda: store(unpack_batch(raw)))


async def _body(request: Request, most_bytes: int) -> bytes:
    """The body, of no more than so many bytes: what is longer is not read to its end."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise HTTPException(415, f"the body is no batch of metrics: send {MEDIA_TYPE}")
    told = request.headers.get("content-length", "")
    pieces, size = list[bytes](), int(told) if told.isascii() and told.isdecimal() and len(told) < 19 else 0
    if size <= most_bytes:
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > most_bytes:
                break
            pieces.append(piece)
    if size > most_bytes:
        raise HTTPException(413, f"a batch of more than {most_bytes:,} bytes is not taken: send fewer intervals at once")
    return b"".join(pieces)


@asynccontextmanager
async def _one_of_few() -> AsyncIterator[None]:
    """One's turn, waited for without holding a thread that others need. Raises StoreBusyError where it doesn't come."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + _WAITS_S
    while not _UNPACKED.acquire(blocking=False):
        if loop.time() > until_s:
            raise StoreBusyError("the server has too many batches and series in hand", "ask again in a moment")
        await asyncio.sleep(_LOOKS_S)
    try:
        yield
    finally:
        _UNPACKED.release()
