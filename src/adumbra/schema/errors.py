"""The error tree. Every error says what was being done and what to do next; the exit status follows from its class."""

from __future__ import annotations


class AdumbraError(Exception):
    """Something failed that the user should know of. Exit status 1.

    `what` names what was being done and what went wrong, `mend` what to do next; both stand in one line.
    """

    exit_status = 1

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(f"{what}; {mend}" if mend else what)
        self.what = what
        self.mend = mend

    def __reduce__(self) -> tuple[object, ...]:
        """Errors travel between processes whole."""
        return type(self), (self.what, self.mend)


class InputError(AdumbraError):
    """What the user gave is wrong: a spec, a file, an argument. Exit status 2."""

    exit_status = 2


class SpecError(InputError):
    """A network spec that can't be accepted. `problems` are one line each: file, line, what, how to mend it."""

    def __init__(self, problems: list[str]) -> None:
        more = f" (and {len(problems) - 1} more: `adumbra check` lists them)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[object, ...]:
        return SpecError, (list(self.problems),)


class SourceError(InputError):
    """A traffic source that can't be opened, or that isn't what it was said to be."""


class NotFoundError(InputError):
    """A network, VM, or profile that isn't there."""


class UnknownNetworkError(NotFoundError):
    """There is no network of that name. `mend` names others, which not everybody may see."""

    def discreet(self) -> NotFoundError:
        """The same for whoever may not see all networks."""
        return NotFoundError(self.what, "it may have been deleted; create it again, or ask whoever did")


class ConflictError(InputError):
    """The act doesn't fit the present state, such as creating a network whose name is taken."""


class AccessError(AdumbraError):
    """Whoever asks isn't known: no token or sign-in, or one that isn't accepted."""


class ForbiddenError(AccessError):
    """Whoever asks is known, and may not do that."""


class BusyError(AdumbraError):
    """There is too much to do at this moment. Nothing was done; asking again soon may help."""


class PreconditionError(ConflictError):
    """What was to be changed isn't as whoever asks had seen it."""


class TooLittleDataError(AdumbraError):
    """Not enough has been observed to answer."""


class StoreError(AdumbraError):
    """The metric store or the state store failed, or is held by another process."""


class StoreBusyError(StoreError):
    """Another process has the store open. It may let it go at any moment."""


class StoreUnavailableError(StoreError):
    """A store can't be reached, or has too much to do. What was to be written is kept; trying again later may help."""


class ServerError(AdumbraError):
    """The server that commands are to work through can't be reached, has too much to do, or doesn't answer as one of this
    program's. What it was asked for may have been done: asking again is harmless.
    """


class ClusterError(AdumbraError):
    """The cluster that was to do the work can't be reached, or failed at it. Nothing was changed; other places may do it."""


class ProvisionError(AdumbraError):
    """A step of a plan failed. What had been done before it is recorded; running the same act again goes on from there."""


class MirrorError(AdumbraError):
    """A mirror could not be made, looked at or taken away. What was begun is recorded, and undone by the next start."""


class MirrorUnsupportedError(MirrorError):
    """The kernel, or a tool, lacks what a way of mirroring needs."""
