"""How a store's server is asked by HTTP: which errors of stores tell of what it does. Knows no database."""

from __future__ import annotations

from collections.abc import Callable

from adumbra.http_asking import Answer, HttpAccess, HttpAsker, LaterError, Trouble
from adumbra.schema.errors import AdumbraError, StoreError, StoreUnavailableError


class NotLetInError(StoreUnavailableError):
    """The server refuses us as such: our user, password or token; or we don't trust its certificate.

    What was to be written is kept until that is mended.
    """


class StoreAsker(HttpAsker):
    """Asks a store's server. `on_retry` is called before every further try.

    Asking raises StoreUnavailableError where it can't be reached, is too busy (429, 5xx), or refuses us as such (401, 403) or
    for now; StoreError for an answer that is longer than was allowed for.
    """

    def __init__(self, access: HttpAccess, on_retry: Callable[[], None] = lambda: None) -> None:
        super().__init__(access, lambda _: on_retry())

    def error(self, trouble: Trouble, what: str, mend: str) -> AdumbraError:
        if trouble is Trouble.UNTRUSTED:  # another try meets the same
            return NotLetInError(what, mend)
        kind = StoreError if trouble in {Trouble.PACKED, Trouble.LONG} else StoreUnavailableError
        return kind(what, mend)

    def judge(self, answer: Answer, place: str) -> None:
        said = self.told(answer)
        if answer.status in {401, 403}:
            raise NotLetInError(f"{place} does not let us in ({answer.status} {said})", "check user, password or token")
        if 300 <= answer.status < 400:
            to = self.place(answer.headers.get("location", ""))
            raise StoreUnavailableError(f"{place} sends us to {to or 'another place'}", "give the address that it is at")
        if answer.status in {408, 429} or answer.status >= 500:
            error = StoreUnavailableError(f"{place} can't now ({answer.status} {said})")
            raise LaterError(error, answer.retry_after_s)
