"""The captures and payloads of real exporters in ../shared/data/flows, each exporter's in the order a collector needs them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from adumbra.decode.packets import Decoder
from adumbra.tap.replay import PcapReplay

FLOWS = Path(__file__).parents[3] / "shared" / "data" / "flows"
needs_corpus = pytest.mark.skipif(not FLOWS.exists(), reason=f"the data in {FLOWS} isn't here")

_RAW_PART = re.compile(r"_(tpl|data|opttpl|dpi)[-_0-9x]*(_1flowset.*)?$")
_CAPTURE_PART = re.compile(r"-?(options-template|options-data|templates?|data)$")


@cache
def exporters() -> dict[str, list[tuple[str, bytes]]]:
    """Of each exporter, the files' names and the payloads in them: templates first, then options, then data."""
    found: dict[str, list[tuple[str, bytes]]] = {}
    for path in sorted((FLOWS / "logstash-dat").glob("*.dat"), key=_turn):
        name = re.sub(r"_tpl_?data$", "", _RAW_PART.sub("", path.stem.removesuffix("_option_tpl")))
        name = name.removesuffix("_tpls").removesuffix("_tplopt").removesuffix("_tpl").replace("_test", "")
        found.setdefault(name, []).append((path.name, path.read_bytes()))
    for path in sorted((FLOWS / "akvorado").glob("*.pcap"), key=_turn):
        name = "capture " + (_CAPTURE_PART.sub("", path.stem) or "v9")
        found.setdefault(name, []).extend((path.name, payload) for payload in _payloads(path))
    return found


def _turn(path: Path) -> tuple[int, str]:
    """Which file comes before which."""
    name = path.stem
    if re.search(r"data\+templates|_tpl_?data", name):
        return 1, name
    if "template" in name or "tpl" in name:
        return 0, name
    return (2 if "options-data" in name else 3), name


def _payloads(path: Path) -> Iterator[bytes]:
    """The payloads of a capture's UDP datagrams."""
    with PcapReplay(path) as capture:
        for frames in capture:
            packets = Decoder().decode(frames)
            for i in range(len(packets)):
                end = int(frames.offset[i]) + 14 + int(packets.ip_bytes[i])
                yield frames.data[end - int(packets.payload_bytes[i]) : end].tobytes()
