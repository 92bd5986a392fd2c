"""Names as people know them: what was meant by a wrong one, the order in which they count, what can be stored. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_DIGITS = re.compile(r"(\d+)")


def suggest(word: str, known: Sequence[str], most: int = 8) -> str:
    """What may have been meant by an unknown word, and what there is."""
    if not known:
        return "there are none yet"
    close = difflib.get_close_matches(word, known[:10_000], n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return f"{meant}there are: {', '.join(known[:most])}{more}"


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sorted as people count: web-2 before web-10."""
    return tuple(sorted(names, key=lambda name: [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part)
                                                 for part in _DIGITS.split(name)]))  # fmt: skip


def storable(text: str) -> str:
    """The same text with what no database takes written out: bytes of a file name that are no UTF-8, and NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
