"""Batches and series as the bytes in which they travel from one Adumbra to another. Pure; trusts nothing that it reads.

A byte for the version, a byte for the kind, then one zstd frame: the length of a header, the header (JSON), and the arrays
that it names, little-endian, end to end. What is read is bounded before it is unpacked, and never run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from adumbra.schema.errors import InputError
from adumbra.schema.metrics import BY_NAME
from adumbra.schema.records import MetricBatch, Origin, Series
from adumbra.store.batches import check_batch
from adumbra.store.names import storable

VERSION = 1
MOST_BYTES = 2**28
"""The most that anything unpacks to: beyond a series of grid.MAX_CELLS values."""
BATCH_BYTES = 2**27
"""The most that a batch unpacks to."""
MEDIA_TYPE = "application/vnd.adumbra.columns"
MOST_COUNT, MOST_FRACTION = 2**53, 1e18
"""The most that a count and any other value can be."""
_BATCH, _SERIES = ord("B"), ord("S")
_LEVEL = 1
_HEADER_BYTES = 2**24
_WINDOW_BYTES = 2**23
_MOST_ROWS, _MOST_TEXT = 10**7, 4_300
_KINDS: dict[str, np.dtype[Any]] = {"i": np.dtype("<i8"), "f": np.dtype("<f8"), "b": np.dtype("u1")}
_BEFORE = "before"
_MEND = "is it of another version of Adumbra?"


def pack_batch(batch: MetricBatch) -> bytes:
    """A batch as bytes. Raises ValueError for one that doesn't hang together."""
    check_batch(batch)
    arrays: dict[str, NDArray[Any]] = {"start_ns": batch.start_ns, "one_sided": batch.one_sided}
    arrays |= {name: np.asarray(values) for name, values in batch.columns.items()}
    if batch.before:
        arrays[_BEFORE] = np.stack([np.asarray(totals, np.float64) for totals in batch.before.values()])
    header = {
        "network": batch.network, "interval_s": batch.interval_s, "vms": batch.vms, "source": storable(batch.source),
        "origin": batch.origin.value, "subnets": batch.subnets, "roles": batch.roles, "rows": len(batch),
        "before": list(batch.before),
    }  # fmt: skip
    return _packed(_BATCH, header, arrays)


def unpack_batch(raw: bytes) -> MetricBatch:
    """The batch that `pack_batch` made bytes of, its values bounded. Raises InputError for anything else."""
    header, body = _unpacked(raw, _BATCH, BATCH_BYTES)
    try:
        vms, rows = _names(header["vms"], 100_000), _whole(header["rows"], _MOST_ROWS)
        shape = (rows, len(vms))
        told = _names(header.get("before", []), len(BY_NAME))
        shapes = {"start_ns": (rows,), "one_sided": shape} | ({_BEFORE: (len(told), len(vms))} if told else {})
        arrays = _arrays(header, body, shapes, shape)
        kinds = {name: values.dtype.kind for name, values in arrays.items()}
        if list(kinds.items())[:2] != [("start_ns", "i"), ("one_sided", "u")] or "u" in list(kinds.values())[2:]:
            raise ValueError("its columns are not of their kinds")
        columns = {name: _sane(name, values) for name, values in arrays.items() if name not in shapes}
        before = {name: _sane(name, arrays[_BEFORE][place]) for place, name in enumerate(told)}
        interval_s = float(header["interval_s"])
        if not 1e-3 <= interval_s <= 1e6:
            raise ValueError("its interval is no length")
        batch = MetricBatch(
            _text(header["network"]), interval_s, vms, arrays["start_ns"], columns, arrays["one_sided"] != 0,
            _text(header["source"]), Origin(header["origin"]), _labels(header["subnets"], vms), _labels(header["roles"], vms),
            before,
        )  # fmt: skip
        check_batch(batch)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"these bytes are no batch of metrics: {_told(error)}", _MEND) from None
    return batch


def pack_series(series: Series) -> bytes:
    """A series as bytes."""
    header = {
        "network": series.network, "vms": series.vms, "start_ns": series.start_ns, "step_s": series.step_s,
        "rows": series.steps,
    }  # fmt: skip
    return _packed(_SERIES, header, {"one_sided": series.one_sided, **series.values})


def unpack_series(raw: bytes) -> Series:
    """The series that `pack_series` made bytes of. Raises InputError for anything else."""
    header, body = _unpacked(raw, _SERIES, MOST_BYTES)
    try:
        vms, steps = _names(header["vms"], 100_000), _whole(header["rows"], 10**9)
        arrays = _arrays(header, body, {}, (len(vms), steps))
        if any(values.dtype.kind != "f" for values in arrays.values()):
            raise ValueError("its columns are not of their kinds")
        one_sided = arrays.pop("one_sided")
        start_ns, step_s = header["start_ns"], float(header["step_s"])
        if not isinstance(start_ns, int) or not math.isfinite(step_s):
            raise ValueError("its times are none")
        return Series(_text(header["network"]), vms, start_ns, step_s, arrays, one_sided)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"these bytes are no series: {_told(error)}", _MEND) from None


def _packed(kind: int, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    kinds = {name: "b" if values.dtype.kind == "b" else values.dtype.kind for name, values in arrays.items()}
    told = json.dumps({**header, "arrays": list(kinds.items())}).encode()
    parts = [len(told).to_bytes(4, "little"), told]
    parts += [np.ascontiguousarray(values, _KINDS[kinds[name]]).tobytes() for name, values in arrays.items()]
    return bytes((VERSION, kind)) + zstandard.ZstdCompressor(level=_LEVEL).compress(b"".join(parts))


def _unpacked(raw: bytes, kind: int, most_bytes: int) -> tuple[dict[str, Any], memoryview]:
    """The header and what follows it. Raises InputError before more than so much memory is taken."""
    if len(raw) < 2 or raw[0] != VERSION or raw[1] != kind:
        raise InputError("these bytes are not what is asked for here: their version or kind is another", _MEND)
    frame = memoryview(raw)[2:]
    try:
        size = zstandard.get_frame_parameters(frame).content_size
        if not 4 <= size <= most_bytes:  # -1, or the largest of 64 bits, where the frame doesn't say
            raise InputError(f"what is sent unpacks to more than {most_bytes:,} bytes, or doesn't say to how many", _MEND)
        plain = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompress(frame, allow_extra_data=False)
        view = memoryview(plain)
        length = int.from_bytes(view[:4], "little")
        if length > min(_HEADER_BYTES, len(view) - 4):
            raise ValueError("its header is longer than all of it")
        header = json.loads(bytes(view[4 : 4 + length]))
        if not isinstance(header, dict):
            raise TypeError("its header is no object")
    except (zstandard.ZstdError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(f"these bytes can't be unpacked: {_told(error)}", _MEND) from None
    return header, view[4 + length :]


def _arrays(
    header: Mapping[str, Any], body: memoryview, own: Mapping[str, tuple[int, ...]], shape: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    """The arrays of a body, each of its own shape or of that of all others; their sizes must add up to the body's exactly."""
    found: dict[str, NDArray[Any]] = {}
    begin = 0
    listed = header["arrays"]
    if not isinstance(listed, list) or len(listed) > len(BY_NAME) + 3:
        raise ValueError("it has too many columns")
    for name, kind in listed:
        if name in found or (name not in own and name != "one_sided" and name not in BY_NAME):
            raise ValueError(f"it has a column {str(name)[:60]!r} that isn't known, or twice")
        dtype, of = _KINDS[kind], own.get(name, shape)
        end = begin + math.prod(of) * dtype.itemsize
        if end > len(body):
            raise ValueError("it is shorter than it says")
        found[name] = np.frombuffer(body[begin:end], dtype).reshape(of)
        begin = end
    if begin != len(body):
        raise ValueError("it is longer than it says")
    return found


def _sane(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """The values, where each is what such a metric can be."""
    most = MOST_COUNT if BY_NAME[name].whole else MOST_FRACTION
    if values.size and not bool(np.all(np.isnan(values) | ((values >= 0) & (values <= most)))):
        raise ValueError(f"column {name} has values that no such metric has")
    return values


def _names(told: object, most: int) -> tuple[str, ...]:
    if not isinstance(told, list) or len(told) > most:
        raise ValueError("its VMs are no list, or too many")
    return tuple(_text(each, 300) for each in told)


def _labels(told: object, vms: Sequence[str]) -> tuple[str, ...]:
    labels = _names(told, len(vms))
    if labels and len(labels) != len(vms):
        raise ValueError("its labels are not one a VM")
    return labels


def _text(told: object, most: int = _MOST_TEXT) -> str:
    if not isinstance(told, str) or len(told) > most or told != storable(told):
        raise ValueError("it has a text that is none, or too long")
    return told


def _whole(told: object, most: int) -> int:
    if not isinstance(told, int) or isinstance(told, bool) or not 0 <= told <= most:
        raise ValueError("it has a number that is out of bounds")
    return told


def _told(error: Exception) -> str:
    return str(error)[:200] if not isinstance(error, KeyError) else f"it lacks {str(error)[:60]}"
