"""All sources of all networks, and what they lost."""

from __future__ import annotations

from fastapi import Request
from nicegui import ui

from adumbra.console.context import Visitor, visitor_of
from adumbra.console.parts import frame
from adumbra.console.parts.attach import SourceRows
from adumbra.console.parts.markup import fact, facts
from adumbra.schema.access import Principal
from adumbra.schema.units import format_share
from adumbra.service.pictures.networks import Observed, sources_of
from adumbra.service.workspace import Workspace

REFRESH_S = 3.0
MAX_NETWORKS, MAX_ROWS = 200, 500


def every_source(visitor: Visitor) -> tuple[Observed, ...]:
    """The sources of the networks that are theirs to see: those that go on first."""
    who = visitor.again()
    return visitor.console.looks.shared(("sources", who.networks), lambda _: _sources(visitor.console.workspace, who))


def _sources(workspace: Workspace, who: Principal) -> tuple[Observed, ...]:
    names = [each.name for each in workspace.state.networks() if who.sees(each.name)]
    going = [each.network for each in workspace.state.sources.open()]
    names.sort(key=lambda name: (name not in going, name))
    found = [each for name in names[:MAX_NETWORKS] for each in sources_of(workspace, name)]
    return tuple(sorted(found, key=lambda each: (not each.going, not each.trouble, -(each.seen_ns or 0)))[:MAX_ROWS])


def sums(found: tuple[Observed, ...]) -> str:
    offered = sum(dict(each.figures).get("offered", 0) for each in found)
    lost = sum(each.lost for each in found)
    return facts(
        fact(
            "Watched now",
            f"{sum(each.going for each in found):,}",
            f"of {len(found):,} source{'s' if len(found) != 1 else ''} shown",
        ),
        fact("Packets offered", f"{offered:,}"),
        fact("Lost", f"{lost:,}", f"{format_share(lost / offered, 2)} of what was offered" if offered else ""),
        fact("In trouble", f"{sum(bool(each.trouble) for each in found):,}"),
    )


async def page(request: Request) -> None:
    visitor = visitor_of(request)
    with frame.page(visitor, "Sources", "/sources"):
        ui.html(
            "<h1>Sources</h1><p class=lead>What is watched for every network, where its packets went, and what was lost.</p>",
            sanitize=False,
        )
        figures = frame.Shown()
        with frame.section("All sources", "all"):
            rows = SourceRows(visitor, networks=True)

        async def refresh() -> None:
            found = await frame.asked(lambda: every_source(visitor))
            if found is not None:
                figures.show(sums(found))
                rows.show(found)

        await refresh()
        ui.timer(REFRESH_S, refresh, immediate=False)
