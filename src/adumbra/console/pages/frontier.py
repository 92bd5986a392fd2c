"""The frontier: reports of back-tests, which the workspace keeps or somebody makes here from a usage file that is small enough."""

from __future__ import annotations

from fastapi import Request
from nicegui import ui

from adumbra.console.context import visitor_of
from adumbra.console.parts import frame


async def page(request: Request) -> None:
    visitor = visitor_of(request)
    with frame.page(visitor, "Frontier", "/frontier"):
        ui.html("<h1>Frontier</h1>", sanitize=False)
