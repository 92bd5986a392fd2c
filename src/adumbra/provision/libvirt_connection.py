"""A connection to a libvirt hypervisor: opened and closed, its errors in our words, and where its host's commands run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from adumbra.provision.libvirt_shaping import Host
from adumbra.schema.errors import InputError, ProvisionError

_Found = TypeVar("_Found")


def library() -> Any:
    """libvirt's own Python library. Raises InputError where it isn't installed."""
    try:
        import libvirt
    except ImportError:
        raise InputError(
            "the provider libvirt takes its Python library, which isn't installed",
            "install `adumbra[libvirt]`; it is compiled against libvirt, on Debian: libvirt-dev, gcc, python3-dev",
        ) from None
    return libvirt


def shown(uri: str) -> str:
    """A URI without what may be secret in it."""
    try:
        parts = urlsplit(uri)
        place = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "a URI that can't be read"
    return f"{parts.scheme}://{place}{parts.path}"


def host_of(uri: str) -> Host:
    """Where the hypervisor's commands run: here, or by ssh as libvirt itself gets there. Raises InputError."""
    try:
        parts = urlsplit(uri)
        number = parts.port
    except ValueError:
        raise InputError("the hypervisor's URI can't be read", "correct ADUMBRA_LIBVIRT_URI") from None
    if not parts.hostname:
        return Host()
    if not parts.scheme.endswith("+ssh"):
        raise InputError(f"nothing can be run at {shown(uri)}", "use qemu+ssh://, or ADUMBRA_LIBVIRT_SHAPING=libvirt or none")
    place = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname
    if place.startswith("-"):
        raise InputError(f"{place!r} is no host", "correct ADUMBRA_LIBVIRT_URI")
    options = parse_qs(parts.query)
    port = ("-p", str(number)) if number else ()
    key = ("-i", options["keyfile"][0]) if "keyfile" in options else ()
    return Host(("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", *port, *key, "--", place))


def is_here(uri: str) -> bool:
    """Whether the hypervisor is this host."""
    parts = urlsplit(uri)
    return not parts.hostname and not parts.scheme.startswith("test")


class Connection:
    """An open connection. Opened by `with`; every method raises ProvisionError where the hypervisor refuses or is away."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._open: Any = None
        self._library: Any = None

    def __enter__(self) -> Connection:
        self._library = library()
        self._library.registerErrorHandler(lambda *_: None, None)  # what fails is told by what is raised
        try:
            self._open = self._library.open(self.uri)
        except self._library.libvirtError as error:
            raise ProvisionError(
                f"connecting to {shown(self.uri)}: {self._said(error)}",
                "start libvirtd there, or name another hypervisor by ADUMBRA_LIBVIRT_URI",
            ) from None
        return self

    def __exit__(self, *exc: object) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            with contextlib.suppress(self._library.libvirtError):
                opened.close()

    @property
    def library(self) -> Any:
        return self._library

    @property
    def virt(self) -> Any:
        """libvirt's own connection. Raises RuntimeError where this isn't open."""
        if self._open is None:
            raise RuntimeError("the connection isn't open")
        return self._open

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Says of libvirt's errors what was being done."""
        try:
            yield
        except self._library.libvirtError as error:
            raise ProvisionError(f"{what}: {self._said(error)}", "mend that, then run the same command again") from None

    def find(self, look: Callable[[], _Found]) -> _Found | None:
        """What a look-up finds, None where libvirt knows no such thing (any more)."""
        try:
            return look()
        except self._library.libvirtError as error:
            if error.get_error_code() in self._none_such:
                return None
            raise ProvisionError(f"looking at {shown(self.uri)}: {self._said(error)}", "look at the hypervisor") from None

    def kept(self, look: Callable[[int], str], inactive: int) -> str:
        """A thing's XML as it is kept, which may be ahead of what runs; the one there is, of drivers that know no other."""
        try:
            return look(inactive)
        except self._library.libvirtError as error:
            if error.get_error_code() != self._library.VIR_ERR_INVALID_ARG:
                raise
            return look(0)

    @property
    def _none_such(self) -> frozenset[int]:
        named = ("NO_DOMAIN", "NO_NETWORK", "NO_STORAGE_POOL", "NO_STORAGE_VOL", "NO_NWFILTER")
        return frozenset(getattr(self._library, f"VIR_ERR_{name}") for name in named)

    def lacks(self, error: Exception) -> bool:
        """Whether an error says that this hypervisor can't do such a thing at all."""
        code = getattr(error, "get_error_code", lambda: None)()
        return code in {self._library.VIR_ERR_NO_SUPPORT, self._library.VIR_ERR_OPERATION_UNSUPPORTED}

    def _said(self, error: Any) -> str:
        """libvirt's words in one line; it repeats a URI that it can't read, with all that is secret in it."""
        said = str(error.get_error_message() or error).replace(self.uri, shown(self.uri))
        return " ".join(said.split())[:500]
