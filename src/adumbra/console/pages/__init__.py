"""The pages, one module each."""

from __future__ import annotations


def register() -> None:
    """Tells NiceGUI of every page."""
    from nicegui import app, ui

    from adumbra.console.pages import frontier, glance, network, sources, tokens

    for path, page in (
        ("/", glance.page), ("/networks/{name}", network.page), ("/sources", sources.page), ("/frontier", frontier.page),
        ("/tokens", tokens.page),
    ):  # fmt: skip
        ui.page(path, response_timeout=60.0)(page)
    app.remove_route("/backtests/{name}")
    app.add_api_route("/backtests/{name}", frontier.report_file, include_in_schema=False)
