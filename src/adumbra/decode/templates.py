"""Templates of NetFlow v9 and IPFIX: how the records of a data set lie. Pure: keeps none, and knows no exporter."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

VARIABLE = 0xFFFF
"""A field's size where each record tells it (RFC 7011, section 7)."""
REVERSE = 29305
"""The enterprise number of a biflow's reverse fields (RFC 5103)."""
SCOPE_V9 = -1
"""In place of an enterprise number: the scope types of NetFlow v9 are numbers of their own (RFC 3954, section 6.1)."""
MAX_FIELDS = 1024
MAX_RECORD_BYTES = 0xFFFF - 4

Element = tuple[int, int]
"""Enterprise number, 0 for IANA's, and information element."""

_ENTERPRISE_BIT = 0x8000
_CACHED = 1024
_ADDRESSES: tuple[tuple[Element, Element], ...] = (((0, 8), (0, 12)), ((0, 27), (0, 28)))
_SECTIONS: Mapping[Element, int] = {(0, 315): 1, (0, 104): 1, (0, 313): 101}
"""Fields with the beginning of a packet: the link's frame, in IPFIX and as v9 has it, or the IP packet; LINKTYPE_ numbers."""


class TemplateError(ValueError):
    """A template set that can't be read further. Templates before the broken one are valid."""


@dataclass(frozen=True, slots=True)
class Section:
    """A field with the first bytes of a sampled packet. link: its LINKTYPE_ number; at, size: where it lies in the fixed
    part; variable: where its length varies, which of the fields of variable length it is, else -1."""

    link: int
    at: int
    size: int
    variable: int


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """How a record lies. Equal definitions give the same object.

    size: bytes of a record's fixed part, which is the record without its variable-length fields; columns: where in it
    an element lies, and its size, the first one where it occurs twice; runs: sizes of the fixed stretches, between two
    of which there is a field of variable length; least: the fewest bytes of a record; options: whether it describes the
    exporter, and no flows; section: where the record holds a sampled packet's header, and no addresses of a flow.
    """

    options: bool
    size: int
    least: int
    runs: tuple[int, ...]
    columns: Mapping[Element, tuple[int, int]]
    section: Section | None

    @property
    def has_addresses(self) -> bool:
        return any(src in self.columns and dst in self.columns for src, dst in _ADDRESSES)


@dataclass(frozen=True, slots=True)
class Definition:
    """One entry of a template set. template is None for a withdrawal (RFC 7011, section 8.1); refused: more than is read."""

    number: int
    template: Template | None
    refused: bool = False


def definitions(body: bytes, *, ipfix: bool, options: bool) -> Iterator[Definition]:
    """The definitions in a set's body, in order. Raises TemplateError where the set can't be read further."""
    at = 0
    while len(body) - at >= 4:
        number, count = struct.unpack_from(">HH", body, at)
        if number == 0 and not any(body[at:]):
            return  # padding
        if ipfix and count == 0 and (number >= 256 or number in (2, 3)):
            yield Definition(number, None)
            at += 4
            continue
        scopes, head = 0, 4
        if options:
            if len(body) - at < 6:
                raise TemplateError("an options template is cut off")
            (third,) = struct.unpack_from(">H", body, at + 4)
            # v9 tells the bytes of scope and option fields, IPFIX the number of all fields and how many are scopes.
            scopes, count, head = (third, count, 6) if ipfix else (count // 4, (count + third) // 4, 6)
        end = _fields_end(body, at + head, count, ipfix=ipfix)
        if number < 256 or scopes > count:
            raise TemplateError("a template has a number that is reserved, or more scopes than fields")
        template = _compiled(body[at + head : end], scopes, ipfix, options) if count <= MAX_FIELDS else None
        yield Definition(number, template, refused=template is None)
        at = end


def _fields_end(body: bytes, at: int, count: int, *, ipfix: bool) -> int:
    if not ipfix:
        at += 4 * count
    else:
        for _ in range(count):
            if at >= len(body):
                raise TemplateError("a template has fewer fields than it says")
            at += 8 if body[at] & 0x80 else 4
    if at > len(body):
        raise TemplateError("a template is cut off")
    return at


@lru_cache(maxsize=_CACHED)
def _compiled(fields: bytes, scopes: int, ipfix: bool, options: bool) -> Template | None:
    """The template of field specifiers; None where its records would be empty, or larger than a set."""
    at, offset, run = 0, 0, 0
    runs: list[int] = []
    columns: dict[Element, tuple[int, int]] = {}
    section: Section | None = None
    index = 0
    while at < len(fields):
        number, size = struct.unpack_from(">HH", fields, at)
        at += 4
        enterprise = SCOPE_V9 if index < scopes and not ipfix else 0
        if ipfix and number & _ENTERPRISE_BIT:
            (enterprise,) = struct.unpack_from(">I", fields, at)
            number &= ~_ENTERPRISE_BIT
            at += 4
        index += 1
        link = _SECTIONS.get((enterprise, number))
        if link is not None and section is None and size:
            section = Section(link, offset, size, len(runs) if size == VARIABLE else -1)
        if size == VARIABLE:
            runs.append(run)
            run = 0
            continue
        if size:
            columns.setdefault((enterprise, number), (offset, size))
        offset += size
        run += size
    runs.append(run)
    least = offset + len(runs) - 1
    if not 0 < least <= MAX_RECORD_BYTES:
        return None
    known = {element: place for element, place in columns.items() if element in WANTED}
    template = Template(options, offset, least, tuple(runs), known, section)
    return replace(template, section=None) if template.has_addresses or options else template


@dataclass(frozen=True, slots=True)
class Parts:
    """A data set's records: their fixed parts, one behind the other; how many; whether another one was cut off; what they
    hold of sampled packets."""

    fixed: bytes
    count: int
    cut: bool
    sections: tuple[bytes, ...] = ()


def parts_of(body: bytes, template: Template) -> Parts:
    """Takes a data set's records apart.

    What is left behind the last record is padding where no record would fit into it (RFC 7011, section 3.3.1).
    """
    if len(template.runs) == 1:
        count = len(body) // template.size
        return _with_sections(Parts(body[: count * template.size], count, cut=False), template, [])
    stretches: list[bytes] = []
    strings: list[bytes] = []
    at = 0
    cut = False
    wanted = template.section.variable if template.section else -1
    while len(body) - at >= template.least:
        at, record, string = _record_at(body, at, template.runs, wanted)
        if at > len(body):
            cut = True
            break
        stretches += record
        strings.append(string)
    return _with_sections(Parts(b"".join(stretches), len(strings), cut), template, strings)


def _record_at(body: bytes, at: int, runs: tuple[int, ...], wanted: int) -> tuple[int, list[bytes], bytes]:
    """Where the record at `at` ends, beyond the body's end where it is cut off; its fixed stretches, its wanted string."""
    stretches: list[bytes] = []
    string, end = b"", len(body)
    for nth, run in enumerate(runs[:-1]):
        stretches.append(body[at : at + run])
        at += run
        size = body[at] if at < end else 0
        at += 1
        if size == 255:
            size = body[at] << 8 | body[at + 1] if at + 1 < end else end
            at += 2
        if nth == wanted:
            string = body[at : at + size]
        at += size
    stretches.append(body[at : at + runs[-1]])
    return at + runs[-1], stretches, string


def _with_sections(parts: Parts, template: Template, strings: list[bytes]) -> Parts:
    section = template.section
    if section is None:
        return parts
    if section.variable < 0:
        begins = range(section.at, parts.count * template.size, template.size)
        strings = [parts.fixed[at : at + section.size] for at in begins]
    return replace(parts, sections=tuple(strings))


_IANA = (
    1, 2, 4, 6, 7, 8, 10, 11, 12, 21, 22, 23, 24, 27, 28, 34, 48, 50, 60, 85, 86, 150, 151, 152, 153, 154, 155, 156, 157, 158,
    159, 160, 161, 162, 180, 181, 182, 183, 231, 232, 233, 239, 298, 299, 302, 305, 306, 309, 310, 312, 322, 323, 324, 325,
    40005,
)  # fmt: skip
WANTED: frozenset[Element] = frozenset([(0, n) for n in _IANA] + [(REVERSE, n) for n in (1, 2, 6, 85, 86)])
"""The elements that are read; all others are passed over."""
