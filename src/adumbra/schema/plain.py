"""Records from plain JSON data, by the types that their classes declare. Pure; knows no noun.

What a record doesn't have is left out, so that newer data can be read; what it lacks, or what is of another type, is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, Union

T = TypeVar("T")
_SEQUENCES = (list, Sequence)
_MAPPINGS = (dict, Mapping)


class PlainError(ValueError):
    """Plain data that is not of the form of a record."""


def of_plain(kind: type[T], plain: Any, place: str = "") -> T:
    """A value of a type: a dataclass, an enumeration, a number, text, a tuple, a mapping, an array of floats, of any depth.

    null stands for a float that is not known (NaN), as JSON has none. Raises PlainError naming the place.
    """
    found: T = _of(kind, plain, place or kind.__name__)
    return found


def _of(kind: Any, plain: Any, place: str) -> Any:
    if kind is Any or kind is object:
        return plain
    origin = typing.get_origin(kind)
    if origin in {Union, types.UnionType}:
        return _of_union(typing.get_args(kind), plain, place)
    if origin is typing.Annotated:
        return _of(typing.get_args(kind)[0], plain, place)
    if origin is tuple:
        return _of_tuple(typing.get_args(kind), plain, place)
    if origin in _SEQUENCES:
        return [_of(typing.get_args(kind)[0], each, f"{place}[{i}]") for i, each in enumerate(_listed(plain, place))]
    if origin in _MAPPINGS:
        value = typing.get_args(kind)[1]
        return {str(key): _of(value, each, f"{place}.{key}") for key, each in _mapped(plain, place).items()}
    if getattr(origin, "__name__", "") == "ndarray":
        return _array(plain, place)
    return _of_class(kind, plain, place)


def _of_class(kind: Any, plain: Any, place: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _of_dataclass(kind, plain, place)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(plain)
        except ValueError:
            raise PlainError(f"{place}: {str(plain)[:40]!r} is no {kind.__name__}") from None
    if kind is float:
        if plain is None:
            return float("nan")
        if isinstance(plain, int | float) and not isinstance(plain, bool):
            return plain  # a whole number stays one, so that it is written again as it was
    elif kind is int:
        if isinstance(plain, int) and not isinstance(plain, bool):
            return plain
    elif kind is Path:
        if isinstance(plain, str):
            return Path(plain)
    elif isinstance(kind, type) and isinstance(plain, kind):
        return plain
    raise PlainError(f"{place}: {str(plain)[:40]!r} is no {getattr(kind, '__name__', kind)}")


def _of_dataclass(kind: Any, plain: Any, place: str) -> Any:
    told, hints = _mapped(plain, place), _hints(kind)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in told:
            given[field.name] = _of(hints[field.name], told[field.name], f"{place}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise PlainError(f"{place}: {field.name} is missing")
    return kind(**given)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _of_union(kinds: Sequence[Any], plain: Any, place: str) -> Any:
    if plain is None and type(None) in kinds:
        return None
    last: PlainError | None = None
    for kind in kinds:
        if kind is not type(None):
            try:
                return _of(kind, plain, place)
            except PlainError as error:
                last = error
    assert last is not None
    raise last


def _of_tuple(kinds: Sequence[Any], plain: Any, place: str) -> tuple[Any, ...]:
    told = _listed(plain, place)
    if len(kinds) == 2 and kinds[1] is ...:
        return tuple(_of(kinds[0], each, f"{place}[{i}]") for i, each in enumerate(told))
    if len(told) != len(kinds):
        raise PlainError(f"{place}: it has {len(told)} values and should have {len(kinds)}")
    return tuple(_of(kind, each, f"{place}[{i}]") for i, (kind, each) in enumerate(zip(kinds, told, strict=True)))


def _array(plain: Any, place: str) -> Any:
    import numpy as np  # what only names records needs none

    try:
        return np.array(_listed(plain, place), np.float64)
    except (TypeError, ValueError):
        raise PlainError(f"{place}: it is no array of numbers") from None


def _listed(plain: Any, place: str) -> Sequence[Any]:
    if not isinstance(plain, list | tuple):
        raise PlainError(f"{place}: {str(plain)[:40]!r} is no list")
    return plain


def _mapped(plain: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(plain, Mapping):
        raise PlainError(f"{place}: {str(plain)[:40]!r} is no mapping")
    return plain
