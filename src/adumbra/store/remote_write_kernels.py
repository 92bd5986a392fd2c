"""Samples to the bytes of a remote-write request (protobuf's WriteRequest, field 1, TimeSeries). Compiled; keeps nothing."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from adumbra.store.compiled import compiled, inlined

_STALE = np.uint64(0x7FF0000000000002)
_MAGNITUDE, _INFINITE = np.uint64(0x7FFFFFFFFFFFFFFF), np.uint64(0x7FF0000000000000)
_SEVEN, _LOW, _MORE, _BYTE = np.uint64(7), np.uint64(0x7F), np.uint64(0x80), np.uint64(8)
SAMPLE_BYTES = 23
"""The most that a sample takes: its tag and length, a double, a time of ten bytes."""
SERIES_BYTES = 11
"""The most that a series takes beside its labels and samples."""


@inlined
def is_told(bits):
    """Whether there is a sample: a number, or the mark of a series' end."""
    return (bits & _MAGNITUDE) <= _INFINITE or bits == _STALE


@inlined
def varint_bytes(value):
    size = 1
    while value > _LOW:
        value >>= _SEVEN
        size += 1
    return size


@inlined
def put_varint(out, at, value):
    while value > _LOW:
        out[at] = np.uint8(value & _LOW | _MORE)
        value >>= _SEVEN
        at += 1
    out[at] = np.uint8(value)
    return at + 1


@inlined
def put_text(out, at, data, begin, end):
    for place in range(begin, end):
        out[at + place - begin] = data[place]
    return at + end - begin


@inlined
def put_sample(out, at, bits, time_ms):
    """Field 2 of TimeSeries: a value (1, double) and a time (2, varint)."""
    time = np.uint64(time_ms)
    out[at] = 0x12
    out[at + 1] = 10 + varint_bytes(time)
    out[at + 2] = 0x09
    for place in range(8):
        out[at + 3 + place] = np.uint8(bits >> (_BYTE * np.uint64(place)))
    out[at + 11] = 0x10
    return put_varint(out, at + 12, time)


@compiled
def encode_series(bits, bases, base_ms, end_ms, slot_data, slot_at, vm_data, vm_at, out):
    """Encodes all series that have a sample. Returns the bytes written into `out`, and the samples.

    bits, bases: uint64[S, R, V], doubles of the samples at end_ms[R] and of those before them at base_ms[R], NaN for none;
    bases may have no rows: there are none. slot_*, vm_*: encoded labels, S and V of them, which follow each other.
    out: large enough, by SAMPLE_BYTES and SERIES_BYTES.
    """
    slots, rows, vms = bits.shape
    based = bases.shape[1] > 0
    at, told = 0, 0
    for vm in range(vms):
        for slot in range(slots):
            size, samples = 0, 0
            for row in range(rows):
                if is_told(bits[slot, row, vm]):
                    samples += 1
                    size += 12 + varint_bytes(np.uint64(end_ms[row]))
                if based and is_told(bases[slot, row, vm]):
                    samples += 1
                    size += 12 + varint_bytes(np.uint64(base_ms[row]))
            if samples == 0:
                continue
            size += slot_at[slot + 1] - slot_at[slot] + vm_at[vm + 1] - vm_at[vm]
            out[at] = 0x0A
            at = put_varint(out, at + 1, np.uint64(size))
            at = put_text(out, at, slot_data, slot_at[slot], slot_at[slot + 1])
            at = put_text(out, at, vm_data, vm_at[vm], vm_at[vm + 1])
            for row in range(rows):
                if based and is_told(bases[slot, row, vm]):
                    at = put_sample(out, at, bases[slot, row, vm], base_ms[row])
                if is_told(bits[slot, row, vm]):
                    at = put_sample(out, at, bits[slot, row, vm], end_ms[row])
            told += samples
    return at, told
