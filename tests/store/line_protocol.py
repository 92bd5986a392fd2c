"""Reads InfluxDB's line protocol, strictly by its reference, and by none of Adumbra's code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """tags: as written, sorted; fields: int, float or str."""

    measurement: str
    tags: tuple[tuple[str, str], ...]
    fields: dict[str, float | int | str]
    time_ns: int


def read_lines(body: bytes) -> list[Point]:
    """The points of a body, each of whose lines ends. Raises ValueError for anything that isn't in the reference."""
    text = body.decode()
    if text and not text.endswith("\n"):
        raise ValueError("the last line has no end")
    return [_point(line) for line in text.split("\n")[:-1]]


def _point(line: str) -> Point:
    head, rest = _split(line, " ", most=2)
    fields, time_ns = _split(rest, " ", strings=True)
    measurement, *pairs = _split(head, ",")
    tags = [(_plain(name), _plain(value)) for name, value in (_split(pair, "=") for pair in pairs)]
    if any(not name or not value or value.endswith("\\") for name, value in tags) or len(dict(tags)) != len(tags):
        raise ValueError(f"tags can't be so: {tags}")
    named = [(_plain(name), value) for name, value in (_split(pair, "=", most=2) for pair in _split(fields, ",", strings=True))]
    if len(dict(named)) != len(named):
        raise ValueError(f"a field is there twice: {named}")
    return Point(measurement, tuple(sorted(tags)), {name: _value(value) for name, value in named}, int(time_ns))


def _plain(text: str) -> str:
    for mark in ",= ":
        text = text.replace("\\" + mark, mark)
    return text


def _split(text: str, at: str, *, most: int = 1 << 30, strings: bool = False) -> list[str]:
    """Splits where a mark is neither escaped nor, with strings, within a value that is in quotes."""
    parts, quoted, place = [""], False, 0
    while place < len(text):
        char = text[place]
        if char == "\\" and place + 1 < len(text):
            parts[-1] += text[place : place + 2]
            place += 2
            continue
        if strings and char == '"' and (quoted or text[:place].endswith("=")):
            quoted = not quoted
        if char == at and not quoted and len(parts) < most:
            parts.append("")
        else:
            parts[-1] += char
        place += 1
    return parts


def _value(text: str) -> float | int | str:
    if text.startswith('"'):
        inner = text[1:-1]
        if not text.endswith('"') or '"' in inner.replace("\\\\", "").replace('\\"', ""):
            raise ValueError(f"no string: {text}")
        return inner.replace('\\"', '"').replace("\\\\", "\\")
    if text.endswith("i"):
        number = int(text[:-1])
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"too large: {text}")
        return number
    if not set(text) <= set("0123456789.eE+-"):
        raise ValueError(f"no number: {text}")
    return float(text)
