"""A network's topology as a picture: subnets, VMs, links and the internet, with their load. From records to SVG; pure.

Colours are variables of the style sheet of whatever page the picture stands in. Whatever comes from outside is escaped.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from adumbra.schema.spec import INTERNET, Link, NetworkSpec, Vm
from adumbra.schema.units import format_duration, format_number, format_rate
from adumbra.service.pictures.loads import Load

MAX_CARDS, MAX_SUBNETS = 12, 60
"""VMs drawn of a subnet, and subnets drawn; of the rest, how many there are is told."""
_CARD_W, _CARD_H, _PAD, _HEAD = 244.0, 62.0, 12.0, 46.0
_BOX_W = _CARD_W + 2 * _PAD
_GAP_X, _GAP_Y = 148.0, 34.0
_CLOUD_W, _CLOUD_H = 116.0, 64.0
_FEW, _MANY = 0.6, 0.85


@dataclass(frozen=True, slots=True)
class Card:
    """A VM: where it stands, what it is, and what it does now."""

    name: str
    kind: str
    x: float
    y: float
    load: Load | None


@dataclass(frozen=True, slots=True)
class Box:
    """A subnet, or the internet where cidr is ""."""

    name: str
    cidr: str
    x: float
    y: float
    width: float
    height: float
    cards: tuple[Card, ...]
    more: int


@dataclass(frozen=True, slots=True)
class Line:
    """A link between two boxes. told: round trip and capacity, in words."""

    ends: tuple[str, str]
    told: str
    path: str
    label_x: float
    label_y: float


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole picture, in its own units."""

    network: str
    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    left_out: int


def topology(spec: NetworkSpec, vms: Sequence[Vm], loads: Mapping[str, Load], *, down: bool = False) -> Topology:
    """Lays a network out from the internet inwards: across a wide page, or `down` a narrow one."""
    layers = _layers(spec)
    of: dict[str, list[Vm]] = {}
    for vm in vms:
        of.setdefault(vm.subnet, []).append(vm)
    boxes: dict[str, Box] = {}
    along = 8.0
    shown = 0
    sizes = [[_height(of.get(name, []), name) for name in layer] for layer in layers]
    across = [sum(heights) + _GAP_Y * (len(heights) - 1) for heights in sizes]
    widest = max(across, default=0.0)
    for layer, heights, total in zip(layers, sizes, across, strict=True):
        beside = 8.0 if down else 8.0 + (widest - total) / 2
        for name, height in zip(layer, heights, strict=True):
            width = _CLOUD_W if name == INTERNET else _BOX_W
            x, y = (8.0 + (_BOX_W - width) / 2, along) if down else (along, beside)
            boxes[name] = _box(spec, name, of.get(name, []), loads, (x, y, width, height))
            shown += len(of.get(name, []))
            if down:
                along += height + _GAP_Y + 14
            beside += height + _GAP_Y
        if not down:
            along += (_CLOUD_W if layer == [INTERNET] else _BOX_W) + _GAP_X
    lines = tuple(_lines(spec.links, boxes, down=down))
    width = _BOX_W + 16 + (64 if down and _skips(spec.links, layers) else 0) if down else along - _GAP_X + 8
    height = along - _GAP_Y - 6 if down else widest + 16 + (44 if _within(spec.links, layers) else 0)
    return Topology(spec.name, width, height, tuple(boxes.values()), lines, len(spec.subnets) + 1 - len(boxes))


def _layers(spec: NetworkSpec) -> list[list[str]]:
    """The internet and the subnets by how many links they are from it; those it can't be reached from, last."""
    joined: dict[str, list[str]] = {}
    for link in spec.links:
        for here, there in (link.between, link.between[::-1]):
            joined.setdefault(here, []).append(there)
    names = [subnet.name for subnet in spec.subnets[:MAX_SUBNETS]]
    known = set(names)
    layers: list[list[str]] = []
    placed: set[str] = set()
    front = [INTERNET] if INTERNET in joined else []
    while front:
        layers.append(front)
        placed |= set(front)
        reached = {there for here in front for there in joined.get(here, [])}
        front = [name for name in names if name in reached - placed and name in known]
    rest = [name for name in names if name not in placed]
    return [*layers, rest] if rest else layers


def _height(vms: Sequence[Vm], name: str) -> float:
    if name == INTERNET:
        return _CLOUD_H
    cards = min(len(vms), MAX_CARDS)
    return _HEAD + cards * (_CARD_H + 8) + (22 if len(vms) > MAX_CARDS else 0) + (_PAD if cards else 4) - (8 if cards else 0)


def _box(
    spec: NetworkSpec, name: str, vms: Sequence[Vm], loads: Mapping[str, Load], at: tuple[float, float, float, float]
) -> Box:
    x, y, width, height = at
    cards = tuple(
        Card(vm.name, " · ".join(part for part in (vm.role, vm.type or "") if part), x + _PAD,
             y + _HEAD + row * (_CARD_H + 8), loads.get(vm.name))
        for row, vm in enumerate(vms[:MAX_CARDS])
    )  # fmt: skip
    cidr = "" if name == INTERNET else str(spec.subnet(name).cidr)
    return Box(name, cidr, x, y, width, height, cards, max(0, len(vms) - MAX_CARDS))


def _within(links: Sequence[Link], layers: Sequence[Sequence[str]]) -> bool:
    rank = {name: row for row, layer in enumerate(layers) for name in layer}
    return any(abs(rank.get(link.between[0], 0) - rank.get(link.between[1], 0)) != 1 for link in links)


def _skips(links: Sequence[Link], layers: Sequence[Sequence[str]]) -> bool:
    order = {name: row for row, name in enumerate(name for layer in layers for name in layer)}
    return any(abs(order.get(link.between[0], 0) - order.get(link.between[1], 0)) > 1 for link in links)


def _lines(links: Sequence[Link], boxes: Mapping[str, Box], *, down: bool) -> Iterator[Line]:
    order = {name: row for row, name in enumerate(boxes)}
    for link in links:
        here, there = link.between
        if here not in boxes or there not in boxes:
            continue
        if order[here] > order[there]:
            here, there = there, here
        a, b = boxes[here], boxes[there]
        told = f"{format_duration(link.rtt)} · {format_rate(link.bandwidth)}"
        if down:
            yield _down(a, b, told, order[there] - order[here] == 1)
        else:
            yield _across(a, b, told)


def _across(a: Box, b: Box, told: str) -> Line:
    ends = (a.name, b.name)
    ay, by = a.y + a.height / 2, b.y + b.height / 2
    start, end = a.x + a.width, b.x
    if end - start >= _GAP_X - 1:
        mid = end - _GAP_X / 2
        path = f"M{start:.0f} {ay:.0f}C{mid:.0f} {ay:.0f} {mid:.0f} {by:.0f} {end:.0f} {by:.0f}"
        return Line(ends, told, path, mid, (ay + by) / 2)
    x, low = a.x + a.width / 2, max(a.y + a.height, b.y + b.height)
    path = f"M{x:.0f} {a.y + a.height:.0f}C{x:.0f} {low + 40:.0f} {b.x + b.width / 2:.0f} {low + 40:.0f} "
    path += f"{b.x + b.width / 2:.0f} {b.y + b.height:.0f}"
    return Line(ends, told, path, (x + b.x + b.width / 2) / 2, low + 28)


def _down(a: Box, b: Box, told: str, beside: bool) -> Line:
    ends = (a.name, b.name)
    x, top, end = a.x + a.width / 2, a.y + a.height, b.y
    if beside:
        return Line(ends, told, f"M{x:.0f} {top:.0f}V{end:.0f}", x, (top + end) / 2)
    right, ay, by = 8 + _BOX_W, a.y + a.height / 2, b.y + b.height / 2
    path = f"M{a.x + a.width:.0f} {ay:.0f}C{right + 56:.0f} {ay:.0f} {right + 56:.0f} {by:.0f} {b.x + b.width:.0f} {by:.0f}"
    return Line(ends, told, path, right, (ay + by) / 2)


# Drawing


def svg(picture: Topology, label: str) -> str:
    """The picture as SVG, with its words for those who don't see it: label, then a sentence a link and VM as a description."""
    told = html.escape(" ".join(sentences(picture)))
    parts = [
        (
            f'<svg class="topology" viewBox="0 0 {picture.width:.0f} {picture.height:.0f}" role="img" '
            f'aria-label="{html.escape(label, quote=True)}" xmlns="http://www.w3.org/2000/svg" '
            f'style="max-width:{picture.width:.0f}px"><desc>{told}</desc>'
        )
    ]
    parts += [f'<path class="t-link" d="{line.path}"/>' for line in picture.lines]
    parts += [_drawn(box) for box in picture.boxes]
    parts += [_labelled(line) for line in picture.lines]
    return "".join([*parts, "</svg>"])


def _labelled(line: Line) -> str:
    wide = 7 + 6.1 * len(line.told)
    return (
        f'<g><rect class="t-pill" x="{line.label_x - wide / 2:.0f}" y="{line.label_y - 10:.0f}" width="{wide:.0f}" height="20" '
        f'rx="10"/><text class="t-small" x="{line.label_x:.0f}" y="{line.label_y + 4:.0f}" text-anchor="middle">'
        f"{html.escape(line.told)}</text></g>"
    )


def _drawn(box: Box) -> str:
    x, y, w, h = box.x, box.y, box.width, box.height
    if not box.cidr:
        return (
            f'<g><rect class="t-outside" x="{x:.0f}" y="{y:.0f}" width="{w:.0f}" height="{h:.0f}" rx="{h / 2:.0f}"/>'
            f'<text class="t-name" x="{x + w / 2:.0f}" y="{y + h / 2 + 5:.0f}" text-anchor="middle">internet</text></g>'
        )
    more = f'<text class="t-small" x="{x + _PAD:.0f}" y="{y + h - 12:.0f}">and {box.more:,} more</text>' if box.more else ""
    return (
        f'<g><rect class="t-subnet" x="{x:.0f}" y="{y:.0f}" width="{w:.0f}" height="{h:.0f}" rx="10"/>'
        f'<text class="t-name" x="{x + _PAD:.0f}" y="{y + 21:.0f}">{_cut(box.name, 24)}</text>'
        f'<text class="t-small" x="{x + _PAD:.0f}" y="{y + 37:.0f}">{_cut(box.cidr, 34)}</text>'
        + "".join(_card(card) for card in box.cards) + more + "</g>"
    )  # fmt: skip


def _card(card: Card) -> str:
    x, y = card.x, card.y
    load = card.load
    cpu = load.cpu if load is not None and math.isfinite(load.cpu) else None
    bar = ""
    if cpu is not None:
        wide = max(2.0, min(1.0, cpu) * (_CARD_W - 20))
        how = "t-much" if cpu > _MANY else "t-some" if cpu > _FEW else "t-little"
        bar = f'<rect class="{how}" x="{x + 10:.0f}" y="{y + _CARD_H - 9:.0f}" width="{wide:.1f}" height="4" rx="2"/>'
    return (
        f'<g><rect class="t-card" x="{x:.0f}" y="{y:.0f}" width="{_CARD_W:.0f}" height="{_CARD_H:.0f}" rx="7"/>'
        f'<text class="t-vm" x="{x + 10:.0f}" y="{y + 18:.0f}">{_cut(card.name, 15)}</text>'
        f'<text class="t-small" x="{x + _CARD_W - 10:.0f}" y="{y + 18:.0f}" text-anchor="end">{_cut(card.kind, 23)}</text>'
        f'<text class="t-load" x="{x + 10:.0f}" y="{y + 38:.0f}">{html.escape(_now(load))}</text>'
        f'<rect class="t-track" x="{x + 10:.0f}" y="{y + _CARD_H - 9:.0f}" width="{_CARD_W - 20:.0f}" height="4" '
        f'rx="2"/>{bar}</g>'
    )


def _now(load: Load | None) -> str:
    if load is None:
        return "nothing seen yet"
    busier = max((each for each in (load.rx_mbps, load.tx_mbps) if math.isfinite(each)), default=math.nan)
    cpu = f"CPU {format_number(load.cpu * 100, 2)} %" if math.isfinite(load.cpu) else "CPU –"
    rate = f"{format_number(busier, 2)} Mbps" if math.isfinite(busier) else "–"
    asked = f"{format_number(load.requests_per_s, 2)} req/s" if math.isfinite(load.requests_per_s) else ""
    return " · ".join(part for part in (cpu, rate, asked) if part)


def sentences(picture: Topology) -> list[str]:
    """The picture in words."""
    told = [
        f"{box.name} ({box.cidr}) holds " + (", ".join(card.name for card in box.cards) or "no VM")
        + (f" and {box.more:,} more" if box.more else "") + "."
        for box in picture.boxes if box.cidr
    ]  # fmt: skip
    told += [f"{line.ends[0]} is linked to {line.ends[1]}: {line.told}." for line in picture.lines]
    if picture.left_out > 0:
        told.append(f"{picture.left_out:,} subnets are not drawn.")
    return told


def _cut(raw: str, most: int) -> str:
    return html.escape(raw if len(raw) <= most else raw[: most - 1] + "…")
