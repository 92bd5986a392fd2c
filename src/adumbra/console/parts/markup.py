"""Tables, chips and figures as HTML. Pure; whatever comes from outside is escaped here, so that pages need not think of it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from adumbra.schema.sizing import Confidence
from adumbra.schema.state import NetworkState
from adumbra.service.pictures.words import MEANS, Mark


@dataclass(frozen=True, slots=True)
class Raw:
    """Markup of ours, which is taken as it is."""

    markup: str


Cell = str | Raw


def e(raw: object) -> str:
    return html.escape(str(raw), quote=True)


def of(cell: Cell) -> str:
    return cell.markup if isinstance(cell, Raw) else e(cell)


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column. figure: it holds figures, which stand to the right."""

    title: str
    figure: bool = False


def table(
    caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, empty: str = "", below: Sequence[str] = ()
) -> str:
    """A table; its first column names the row. below: of each row, what stands under it over all columns, "" for none."""
    if not rows and empty:
        return f'<p class="dim">{e(empty)}</p>'
    heads = "".join(f'<th scope="col"{_right(column)}>{e(column.title)}</th>' for column in columns)
    body = "".join(f"<tr>{_row(columns, row)}</tr>{_under(columns, below, at)}" for at, row in enumerate(rows))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{e(caption)}"><table class="cards">'
        f'<caption class="unseen">{e(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _under(columns: Sequence[Column], below: Sequence[str], number: int) -> str:
    if not below or not below[number]:
        return ""
    return f'<tr class="under"><td class="full" colspan="{len(columns)}">{below[number]}</td></tr>'


def _row(columns: Sequence[Column], row: Sequence[Cell]) -> str:
    cells = [f'<th scope="row" data-label="{e(columns[0].title)}">{of(row[0])}</th>']
    cells += [
        f'<td data-label="{e(column.title)}"{_right(column)}><span>{of(cell)}</span></td>'
        for column, cell in zip(columns[1:], row[1:], strict=True)
    ]
    return "".join(cells)


def _right(column: Column) -> str:
    return ' class="figure"' if column.figure else ""


def link(text: str, to: str) -> Raw:
    return Raw(f'<a href="{e(to)}">{e(text)}</a>')


def chip(word: str, kind: str, title: str = "") -> Raw:
    told = f' title="{e(title)}"' if title else ""
    return Raw(f'<span class="chip {e(kind)}"{told}>{e(word)}</span>')


_STATE_KINDS = {
    NetworkState.SHADOWING: "calm", NetworkState.READY: "good", NetworkState.ACTIVATING: "busy", NetworkState.ACTIVE: "good",
    NetworkState.FAILED: "bad", NetworkState.DELETING: "busy",
}  # fmt: skip


def state_chip(state: NetworkState, title: str = "") -> Raw:
    return chip(state.value, _STATE_KINDS[state], title)


def confidence_chip(confidence: Confidence | None) -> Raw:
    """Confidence as a word and as so many of three bars."""
    if confidence is None:
        return Raw('<span class="dim">–</span>')
    full = {Confidence.LOW: 1, Confidence.MEDIUM: 2, Confidence.HIGH: 3}[confidence]
    bars = "".join(f'<i class="{"full" if row < full else ""}"></i>' for row in range(3))
    return Raw(
        f'<span class="confidence {confidence.value}"><span class="bars" aria-hidden="true">{bars}</span>'
        f"{confidence.value}</span>"
    )


def mark(which: Mark) -> Raw:
    """How something was come by."""
    return Raw(f'<span class="mark {which.value}" title="{e(MEANS[which])}">{which.value}</span>')


def fact(label: str, value: Cell, below: Cell = "") -> str:
    """A figure with its name above and a word on it below; goes into a <dl>."""
    told = f'<dd class="below">{of(below)}</dd>' if of(below) else ""
    return f'<div class="fact"><dt>{e(label)}</dt><dd>{of(value)}</dd>{told}</div>'


def facts(*each: str) -> str:
    return f'<dl class="facts">{"".join(each)}</dl>'


def details(summary: Cell, inside: str, kind: str = "") -> str:
    return f'<details class="{e(kind)}"><summary>{of(summary)}</summary>{inside}</details>'


def bullets(lines: Sequence[Cell]) -> str:
    return f"<ul>{''.join(f'<li>{of(line)}</li>' for line in lines)}</ul>"


def progress(share: float | None, label: str) -> Raw:
    """How far something is, 0 to 1; None: it moves, and nobody knows how far."""
    value = "" if share is None else f' value="{share:.3f}"'
    return Raw(f'<progress max="1"{value} aria-label="{e(label)}"></progress>')
