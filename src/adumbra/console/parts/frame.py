"""What every page has: skip link, header, the way around, light and dark, signing out; and how errors are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from nicegui import ui

from adumbra.console import signin
from adumbra.console.context import Visitor
from adumbra.console.guard import SIGN_IN
from adumbra.console.parts.markup import e
from adumbra.console.rights import may
from adumbra.schema.access import Role
from adumbra.schema.errors import AccessError, AdumbraError, ForbiddenError, SpecError, UnknownNetworkError

T = TypeVar("T")
_WAYS = (("Networks", "/"), ("Sources", "/sources"), ("Frontier", "/frontier"), ("Access", "/tokens"))


@contextmanager
def page(visitor: Visitor, title: str, here: str) -> Iterator[None]:
    """The frame of a page; what is made inside stands in its main part."""
    ui.page_title(f"{title} · Adumbra")
    ui.add_head_html(
        f'<link rel="stylesheet" href="{signin.static_url("console.css")}">'
        f'<script src="{signin.static_url("console.js")}" defer></script>'
    )
    with ui.header(fixed=False, add_scroll_padding=False).classes("top"):
        ui.html(_header(visitor, here), sanitize=False).classes("bar")
    with ui.element("div").props('id="main" tabindex="-1"').classes("main"):  # Quasar's page around it is the <main>
        yield
    ui.html(
        '<p>Figures are marked by how they were come by: <span class="mark observed">observed</span> '
        '<span class="mark inferred">inferred</span> <span class="mark simulated">simulated</span> '
        '<span class="mark forecast">forecast</span>. Times are UTC.</p>',
        sanitize=False,
    ).classes("foot")  # fmt: skip


def _header(visitor: Visitor, here: str) -> str:
    ways = [(name, path) for name, path in _WAYS if path != "/tokens" or may(visitor.who, Role.ADMIN)]
    links = "".join(
        f'<a href="{path}"{" aria-current=" + chr(34) + "page" + chr(34) if path == here else ""}>{name}</a>'
        for name, path in ways
    )
    return (
        '<a class="skip" href="#main">Skip to the content</a>'
        f'<a class="brand" href="/" aria-label="Adumbra, to the networks">{signin.FAVICON}<span>Adumbra</span></a>'
        f'<nav aria-label="Pages">{links}</nav>'
        '<div class="who"><button type="button" id="theme" class="quiet" aria-label="Light or dark">◐</button>'
        f'<span class="name" title="{e(visitor.who.role.value)}">{e(visitor.who.name)}</span>'
        f'<form method="post" action="/sign-out"><input type="hidden" name="csrf" value="{e(visitor.csrf)}">'
        '<button type="submit" class="quiet">Sign out</button></form></div>'
    )


async def asked(do: Callable[[], T]) -> T | None:
    """What `do` gives, worked on beside the page; None, and the error told to whoever looks, where it fails."""
    try:
        return await asyncio.to_thread(do)
    except AdumbraError as error:
        tell(error)
        return None


def tell(error: AdumbraError) -> None:
    """Says what went wrong, and how to mend it. Where the sign-in is over, the way is to the sign-in."""
    if isinstance(error, AccessError) and not isinstance(error, ForbiddenError):
        ui.navigate.to(SIGN_IN)
        return
    if isinstance(error, UnknownNetworkError):
        error = error.discreet()
    what = error.problems[0] if isinstance(error, SpecError) else str(error)
    ui.notify(what, type="negative", position="top", timeout=0, close_button="Close", multi_line=True)


def said(words: str) -> None:
    """Says that something was done."""
    ui.notify(words, type="positive", position="top")


def problem(error: AdumbraError) -> str:
    """An error as part of a page."""
    if isinstance(error, UnknownNetworkError):
        error = error.discreet()
    return f'<p class="problem" role="alert">{e(error.what)}{"; " + e(error.mend) if error.mend else ""}.</p>'


def section(title: str, key: str) -> ui.element:
    """A part of a page, with its heading."""
    part = ui.element("section").props(f'id="{key}" aria-labelledby="{key}-title"')
    with part:
        ui.html(f'<h2 id="{key}-title">{e(title)}</h2>', sanitize=False)
    return part


class Shown:
    """A piece of HTML that is sent again only where it changed."""

    def __init__(self, content: str = "", *, live: bool = False) -> None:
        self._content = content
        self.element = ui.html(content, sanitize=False)
        if live:
            self.element.props('aria-live="polite"')

    def show(self, content: str) -> None:
        if content != self._content:
            self._content = content
            self.element.set_content(content)
