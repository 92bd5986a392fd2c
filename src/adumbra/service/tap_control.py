"""What a tap and its server say to each other beside metrics: what to follow, that the source is observed, how it goes.

A thread of its own says it every few seconds, so that a tap that is busy, or whose server is away, goes on.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from adumbra.schema.calibration import Calibration
from adumbra.schema.errors import AdumbraError, ConflictError, InputError, NotFoundError, StoreError, StoreUnavailableError
from adumbra.schema.jobs import SourceState
from adumbra.schema.spec import expand_vms, parse_spec
from adumbra.schema.state import NetworkRecord, NetworkState
from adumbra.service.networks import Network
from adumbra.service.tap_home import TapHome
from adumbra.store.processes import this_process
from adumbra.store.served_access import Servers, Wanted

_FOLLOWED_BYTES = 2**27
_LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class Following:
    """What a tap's shadow follows, and of which versions that is."""

    network: Network = field(repr=False)
    versions: tuple[int, int]

    @classmethod
    def of(cls, name: str, told: Mapping[str, Any]) -> Following:
        """What a server told. Raises StoreError where that can't be read."""
        try:
            text = json.dumps(told["spec"])
            spec = parse_spec(text, name)
            known = None if told["calibration"] is None else Calibration.from_dict(told["calibration"])
            versions = int(told["spec_version"]), int(told["calibration_version"])
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"what the server says of {name} can't be read: {error}", "is it of another version?") from None
        return cls(Network(declared(name, text), spec, expand_vms(spec), known), versions)


def declared(name: str, text: str) -> NetworkRecord:
    """A record of a network that is kept elsewhere, or nowhere."""
    return NetworkRecord(0, name, text, 1, NetworkState.SHADOWING, 0, 0)


def from_file(name: str, text: str, path: Path) -> Following:
    """What a spec file says. Raises SpecError, and InputError where it is of another network."""
    spec = parse_spec(text, str(path))
    if spec.name != name:
        raise InputError(f"{path} is the spec of {spec.name}, not of {name}", f"run `adumbra tap {spec.name} ...`")
    return Following(Network(declared(name, text), spec, expand_vms(spec)), (1, 0))


def from_text(text: str) -> Network:
    """A network that is kept nowhere, by its spec. Raises SpecError."""
    spec = parse_spec(text, "spec")
    return Network(declared(spec.name, text), spec, expand_vms(spec))


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a tap says of itself when it registers. number: of a source that is there already, None for one of its own."""

    network: str
    source: str
    layer: str
    workers: int
    host: str
    number: int | None = None


class Control:
    """A tap's word with its servers. Threads may share it."""

    def __init__(self, servers: Servers, tap: Introduction, home: TapHome) -> None:
        self._servers, self._tap, self._home = servers, tap, home
        self.number = tap.number

    def followed(self) -> Following:
        """What the shadow is to follow now, which is kept for a start without a server. Raises NotFoundError, StoreError."""
        told = self._servers.told(self._wanted("GET", ("shadow", "followed"), most_bytes=_FOLLOWED_BYTES))
        found = Following.of(self._tap.network, told)
        self._home.remember(told)
        return found

    def remembered(self) -> Following | None:
        """What it followed last; None where that isn't known."""
        told = self._home.remembered()
        try:
            return None if told is None else Following.of(self._tap.network, told)
        except StoreError:
            return None

    def register(self) -> int:
        """The source's number, the same where it was registered before. Raises ConflictError, StoreError."""
        if self.number is None:
            tap = self._tap
            asked = {
                "source": tap.source, "place": "remote", "layer": tap.layer, "workers": tap.workers,
                "instance": self._home.instance, "host": tap.host,
            }  # fmt: skip
            self.number = int(self._servers.told(self._wanted("POST", ("sources",), asked, most_bytes=2**20))["id"])
        return self.number

    def beat(self, accounts: Mapping[str, Any] | None, trouble: str, ended: SourceState | None = None) -> Mapping[str, Any]:
        """Says how it goes; gives what the server says in turn."""
        told = {
            "instance": self._home.instance, "process": this_process(), "accounts": accounts, "trouble": trouble,
            "ended": ended,
        }  # fmt: skip
        told_back = self._servers.told(self._wanted("POST", ("sources", str(self.register()), "heartbeat"), told))
        return dict(told_back)

    def _wanted(self, method: str, parts: tuple[str, ...], told: Any = None, most_bytes: int = 0) -> Wanted:
        content = None if told is None else json.dumps(told).encode()
        return Wanted(
            method, ("networks", self._tap.network, *parts), content=content, most_bytes=most_bytes, give_up_s=0.0
        )  # fmt: skip


class Beats:
    """Says how a tap does, every so often, in a thread. Opened by `with`.

    over: why the tap is to end, "" while it isn't; failed: the error that ends it; renewal: what is to be followed from now on.
    """

    def __init__(
        self, control: Control, every_s: float, status: Callable[[], tuple[Mapping[str, Any] | None, str]],
        say: Callable[[str], None], registered: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._control, self._every_s, self._status, self._say = control, every_s, status, say
        self._registered = registered
        self.versions = (0, 0)
        self.over = ""
        self.stopped = False
        self.failed: AdumbraError | None = None
        self._renewal: Following | None = None
        self._turn = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tap's heartbeat", daemon=True)
        self._said = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self._thread.join(10.0)

    def renewal(self) -> Following | None:
        """What is to be followed from now on, once; None where nothing changed."""
        with self._turn:
            found, self._renewal = self._renewal, None
            return found

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._beat()
            except StoreUnavailableError:
                pass  # the outbox says it, and what is measured waits
            except (NotFoundError, ConflictError) as error:
                self.over = str(error)
                self.failed = error
                return
            except AdumbraError as error:
                self._tell(str(error))
            self._ending.wait(self._every_s)

    def _beat(self) -> None:
        self._registered(self._control.register())
        heard = self._control.beat(*self._status())
        if heard.get("state") not in {SourceState.RUNNING, SourceState.WAITING}:
            self.stopped = True
            self.over = "the server says that this source isn't to be observed any more"
            self._ending.set()
            return
        if heard.get("trouble"):
            self._tell(str(heard["trouble"]))
        versions = int(heard["spec_version"]), int(heard["calibration_version"])
        if versions != self.versions:
            found = self._control.followed()
            with self._turn:
                self._renewal = found
            self.versions = found.versions

    def _tell(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._say(text)
