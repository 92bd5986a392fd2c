"""What was predicted of VMs against what the real ones use, as a table. Pure."""

from __future__ import annotations

from adumbra.console.parts.markup import Cell, Column, Raw, chip, e, table
from adumbra.service.live import Comparison
from adumbra.service.pictures.lives import MAX_ROWS, TITLES, LiveCell, live_picture
from adumbra.service.pictures.words import NONE

_COLUMNS = (Column("VM"), *(Column(title, figure=True) for title in TITLES), Column("So"))


def lives_table(found: Comparison) -> str:
    """Means of the last hour, and below each how far it could be trusted."""
    picture = live_picture(found)
    rows = [[row.vm, *map(_cell, row.cells), chip(row.word, row.kind)] for row in picture.rows]
    more = ""
    if picture.left_out:
        more = (
            f'<p class="dim">{MAX_ROWS:,} of {len(found.vms):,} VMs are shown; <code>adumbra live --output json</code> has '
            "all.</p>"
        )
    caption = f"Predicted and measured use of {found.network}"
    return f'<p class="dim">{e(picture.about)}</p>{table(caption, _COLUMNS, rows)}{more}'


def _cell(cell: LiveCell | None) -> Cell:
    if cell is None:
        return NONE
    held = f'<span class="believed">{e(cell.held)}</span>' if cell.held else ""
    return Raw(f'<span class="was">{e(cell.predicted)}</span> → <span class="now">{e(cell.measured)}</span>{held}')
