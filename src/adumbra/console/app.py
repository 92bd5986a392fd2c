"""Puts the console's pages on a server's app, at /, behind its guard. One server of a process may have them at a time."""

from __future__ import annotations

from fastapi import FastAPI

from adumbra.console.context import Console
from adumbra.console.guard import Guard


def add_console(app: FastAPI, console: Console) -> None:
    """Adds the sign-in, and all pages at /. To be called last: what the app doesn't know by then is a page's."""
    from nicegui import ui
    from starlette.routing import Mount

    from adumbra.console import signin
    from adumbra.console.pages import register

    app.include_router(signin.router)
    app.state.console = console
    register()
    ui.run_with(
        app, title="Adumbra", language="en-US", dark=None, tailwind=False, favicon=signin.FAVICON, show_welcome_message=False,
        reconnect_timeout=10.0, binding_refresh_interval=None,  # no page has bindings that want to be looked at
    )  # fmt: skip
    pages = app.routes[-1]
    assert isinstance(pages, Mount)
    pages.app = Guard(pages.app, console)
