"""YAML or JSON text to plain data that remembers each value's line. Refuses what a spec never needs: aliases, tags."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

Location = tuple[str | int, ...]

MAX_CHARACTERS = 1024 * 1024
MAX_DEPTH = 20
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_EXPONENT = r"[eE][-+]?[0-9]{1,3}"
_FLOAT = re.compile(rf"[-+]?(?:(?:[0-9]{{1,18}}\.[0-9]{{0,40}}|\.[0-9]{{1,40}})(?:{_EXPONENT})?|[0-9]{{1,18}}{_EXPONENT})")


class YamlError(ValueError):
    """Text that can't be read, and the line, from 1, where that shows."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None) and the line of each of its places."""

    value: Any
    lines: dict[Location, int]

    def line(self, where: Location) -> int:
        """The line, from 1, of a place, or of the nearest place around it that the text has."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)


def read_document(
    text: str, kind: str = "a network spec", begins: str = "`name:`, `cidrs:`, as `adumbra check --help` shows"
) -> Document:
    """Reads one YAML 1.2 or JSON document: of that kind, which begins so. Raises YamlError with line, what, how to mend it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError as RuamelError

    if len(text) > MAX_CHARACTERS:
        raise YamlError(1, f"the text is longer than {MAX_CHARACTERS} characters; a spec is a few pages at most")
    if "\t" in text:
        text = text.replace("\t", " ") if text.lstrip().startswith("{") else text
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False  # any anchor is refused below
    try:
        root = yaml.compose(text)
    except RecursionError:
        raise YamlError(1, "the text nests too deeply to be a spec; write it as in the documentation") from None
    except (RuamelError, ValueError, UnicodeError, IndexError, AttributeError, TypeError, KeyError) as error:
        raise _as_problem(error, text) from None
    if root is None:
        raise YamlError(1, f"the text is empty; write {kind}, which begins with {begins}")
    lines: dict[Location, int] = {(): root.start_mark.line + 1}
    value = _plain(root, (), _Text(text, lines))
    if not isinstance(value, dict):
        raise YamlError(1, f"this is not {kind}; it begins with {begins}")
    return Document(value, lines)


def _as_problem(error: Exception, text: str) -> YamlError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    position = getattr(error, "position", None)  # a character that YAML does not allow has no mark
    line = mark.line + 1 if mark is not None else getattr(error, "line", 0) + 1
    if mark is None and isinstance(position, int):
        line = text.count("\n", 0, position) + 1
    said = str(getattr(error, "problem", None) or "characters that YAML does not allow")
    said = " ".join("".join(c if c.isprintable() else "?" for c in said[:120]).split())
    return YamlError(line, f"this is not YAML: {said}; check the indentation and quotes of this line")


@dataclass(frozen=True, slots=True)
class _Text:
    text: str
    lines: dict[Location, int]

    def refuse_marks(self, node: Any) -> None:
        """An anchor or a tag stands where the node begins; no plain value may begin with their signs."""
        line, at = node.start_mark.line + 1, node.start_mark.index
        if node.anchor is not None or self.text[at : at + 1] == "&":
            raise YamlError(line, "anchors and aliases are not accepted; write the value out")
        if self.text[at : at + 1] == "!":
            raise YamlError(line, "tags such as !!str are not accepted; write the plain value, in quotes where it is a text")


def _plain(node: Any, where: Location, read: _Text) -> Any:
    line = node.start_mark.line + 1
    read.refuse_marks(node)
    if len(where) > MAX_DEPTH:
        raise YamlError(line, "the text nests too deeply to be a spec; write it as in the documentation")
    if node.id == "scalar":
        return _scalar(node.value, node.style, line)
    if node.id == "sequence":
        for i, child in enumerate(node.value):
            read.lines[(*where, i)] = child.start_mark.line + 1
        return [_plain(child, (*where, i), read) for i, child in enumerate(node.value)]
    plain: dict[str, Any] = {}
    for key, child in node.value:
        key_line = key.start_mark.line + 1
        if key.id != "scalar" or len(key.value) > 256:
            raise YamlError(key_line, "a key must be a short word; write `key: value`")
        read.refuse_marks(key)
        if key.value in plain:
            raise YamlError(key_line, f"the key {key.value!r} stands twice; remove one")
        read.lines[(*where, key.value)] = key_line
        plain[key.value] = _plain(child, (*where, key.value), read)
    return plain


def _scalar(text: str, style: str | None, line: int) -> Any:
    """A scalar by the YAML 1.2 core schema, without octal, hexadecimal, infinities and NaN."""
    if style is not None:
        return text
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise YamlError(line, f"{text[:40]} is too large; write a smaller number")
        return number
    return text
