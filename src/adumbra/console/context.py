"""What the console is given, and who looks at it. Opens nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request

from adumbra.console.looks import Looks
from adumbra.console.planner import Planner
from adumbra.schema.access import Principal
from adumbra.service import access
from adumbra.service.previews import Previews
from adumbra.service.workspace import Workspace

SCOPE_KEY = "adumbra.visitor"


@dataclass(frozen=True, slots=True)
class Console:
    """What the pages work with. now: the time in ns since the epoch; wake: told that there is work for the loops.

    secure: whether browsers come by TLS; sign_on: where another service's sign-in begins, "" for none; capture_bytes: how large
    an uploaded capture may be, and kept_bytes all of a network; captures: the folder of files that sources may name, None: none
    may.
    """

    workspace: Workspace
    now: Callable[[], int]
    wake: Callable[[], None] = lambda: None
    secure: bool = False
    sign_on: str = ""
    capture_bytes: int = 500_000_000
    kept_bytes: int = 2_000_000_000
    captures: Path | None = None
    previews: Previews = field(init=False)
    looks: Looks = field(init=False)
    planner: Planner = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "previews", Previews(self.workspace))
        object.__setattr__(self, "looks", Looks(self.workspace, self.now))
        object.__setattr__(self, "planner", Planner(self.workspace, self.now))


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever looks at a page, as they were when it was made. secret: of their sign-in; csrf: what their forms must repeat;
    origin: the address they come from."""

    console: Console
    who: Principal
    secret: str = field(repr=False)
    csrf: str = field(repr=False)
    origin: str

    def again(self) -> Principal:
        """Who they are now. Raises AccessError once their sign-in is over."""
        return access.by_session(self.console.workspace, self.secret, self.console.now())[0]


def visitor_of(request: Request) -> Visitor:
    """Who asks for a page. The guard put it there: without it, no page is made."""
    found: Visitor = request.scope[SCOPE_KEY]
    return found
