"""Runs tofu or terraform in a folder: init, a saved plan, its apply, and the state. Knows no target and no item.

Credentials pass from this process's environment to the tool's and nowhere else; what the tool says is cut and freed of them.
The tool writes to nameless files, never to a pipe: were this process killed, a pipe's end would kill the tool amid its work.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adumbra.provision.terraform_state import Resource, parse_state
from adumbra.schema.errors import ProvisionError

PROGRAMS = ("tofu", "terraform")
PLAN_FILE = ".adumbra.tfplan"
MAX_STATE_BYTES = 256 << 20
MAX_SAID_BYTES = 16 << 20
GRACE_S = 120.0
"""How long the tool may take to save its state once it is told to stop."""
_TOLD, _TOLD_CHARACTERS = 3, 600
_SECRET = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL|AUTH", re.IGNORECASE)
_FRAME = re.compile("[│╷╵─]")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a program. limit_bytes: of its standard output, which is read as a whole or not at all."""

    argv: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    timeout_s: float
    limit_bytes: int = MAX_SAID_BYTES


@dataclass(frozen=True, slots=True)
class Said:
    """How a call ended. timed_out: it was told to stop, and did."""

    code: int
    out: bytes
    err: bytes
    timed_out: bool = False


Runner = Callable[[Call], Said]


@dataclass(frozen=True, slots=True)
class Tool:
    """tofu or terraform in one folder. lock_timeout_s: how long another run's lock is waited for."""

    program: str
    folder: Path
    timeout_s: float = 3600.0
    lock_timeout_s: float = 300.0
    run: Runner = field(default_factory=lambda: run_program)

    def init(self) -> None:
        """Fetches the providers that the documents name, or finds them there. Raises ProvisionError."""
        self._call("init", "-input=false", "-no-color", doing="making the folder ready")

    def plan(self, targets: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
        """Plans into PLAN_FILE; gives what it would do, address -> actions, without what stays. Raises ProvisionError.

        targets: of these addresses only, none for all.
        """
        with contextlib.suppress(FileNotFoundError):
            (self.folder / PLAN_FILE).unlink()
        only = [f"-target={address}" for address in targets]
        self._call("plan", "-input=false", "-no-color", "-json", self._lock, f"-out={PLAN_FILE}", *only, doing="planning")
        shown = self._call("show", "-json", PLAN_FILE, doing="reading its plan", limit_bytes=MAX_STATE_BYTES)
        try:
            changes = json.loads(shown.out).get("resource_changes") or []
            acts = {change["address"]: tuple(change["change"]["actions"]) for change in changes if change["mode"] == "managed"}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._error("reading its plan", "it isn't a plan of Terraform's", "use a tool of today") from error
        return {address: actions for address, actions in acts.items() if set(actions) - {"no-op", "read", "forget"}}

    def apply(self) -> None:
        """Applies the saved plan, and nothing else. Raises ProvisionError; what was made until then is in the state."""
        self._call("apply", "-input=false", "-no-color", "-json", self._lock, PLAN_FILE, doing="applying")
        self.forget_plan()

    def forget_plan(self) -> None:
        """Removes the saved plan, which holds what the provider was told."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / PLAN_FILE).unlink()

    def state(self) -> dict[str, Resource]:
        """The managed resources of the root module by address, from wherever the state is kept. Raises ProvisionError."""
        if not (self.folder / ".terraform" / "terraform.tfstate").exists():  # no backend: the state is a file, or not there
            return parse_state(self._state_file())
        return parse_state(self._call("state", "pull", doing="reading the state", limit_bytes=MAX_STATE_BYTES).out)

    @property
    def _lock(self) -> str:
        return f"-lock-timeout={self.lock_timeout_s:g}s"

    def _state_file(self) -> bytes:
        try:
            with (self.folder / "terraform.tfstate").open("rb") as file:
                data = file.read(MAX_STATE_BYTES + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise self._error("reading the state", error.strerror or str(error), "make it readable") from error
        if len(data) > MAX_STATE_BYTES:
            raise self._error("reading the state", f"it is larger than {MAX_STATE_BYTES >> 20} MiB", "split the network")
        return data

    def _call(self, *args: str, doing: str, limit_bytes: int = MAX_SAID_BYTES) -> Said:
        environment = os.environ | {"TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "CHECKPOINT_DISABLE": "1"}
        for name in ("TF_LOG", "TF_LOG_CORE", "TF_LOG_PROVIDER", "TF_LOG_PATH", "TF_CLI_ARGS", "TF_WORKSPACE"):
            environment.pop(name, None)  # a log of the tool's would hold what the provider is told
        call = Call((self.program, *args), self.folder, environment, self.timeout_s, limit_bytes)
        try:
            said = self.run(call)
        except OSError as error:
            raise self._error(doing, error.strerror or str(error), "see that it is on PATH and may be run") from error
        if said.timed_out:
            what = f"it took longer than {self.timeout_s:g} s, and was told to stop"
            raise self._error(doing, what, "run the same command again: it goes on from there")
        if said.code != 0:
            told = _scrubbed("; ".join(_complaints(said)), environment) or f"it ended with {said.code}"
            raise self._error(doing, told, _mend(told))
        if len(said.out) > limit_bytes:
            raise self._error(doing, f"it said more than {limit_bytes >> 20} MiB", "split the network")
        return said

    def _error(self, doing: str, what: str, mend: str) -> ProvisionError:
        return ProvisionError(f"{Path(self.program).name} in {self.folder}, {doing}: {what}", mend)


def find_program() -> str:
    """The path of tofu or terraform. Raises ProvisionError where neither is there."""
    for name in PROGRAMS:
        found = shutil.which(name)
        if found:
            return found
    raise ProvisionError(
        "neither tofu nor terraform is on PATH, and ADUMBRA_TERRAFORM_APPLY asks for one",
        "install OpenTofu, or unset it to have only the file written",
    )


def run_program(call: Call) -> Said:
    """Runs a program to its end, in a session of its own. After the timeout it is told to stop as by Ctrl-C, then killed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            call.argv,
            cwd=call.folder,
            env=dict(call.environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            umask=0o077,
        )
        timed_out = False
        try:
            process.wait(call.timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            _stop(process)
        except BaseException:
            _stop(process)
            raise
        out.seek(0)
        err.seek(0)
        return Said(process.returncode, out.read(call.limit_bytes + 1), err.read(MAX_SAID_BYTES), timed_out)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Asks the tool to end what it is at and save its state; kills it only where it doesn't."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _complaints(said: Said) -> list[str]:
    """What went wrong in the tool's own words: the errors of its JSON lines, else the end of what it said."""
    told = []
    for line in said.out.splitlines():
        diagnostic = _diagnostic(line)
        if diagnostic:
            told.append(diagnostic)
        if len(told) == _TOLD:
            break
    if not told:
        plain = _FRAME.sub(" ", (said.err or said.out).decode(errors="replace"))
        told = [" ".join(plain.split())[-_TOLD_CHARACTERS:]]
    return [each for each in told if each]


def _diagnostic(line: bytes) -> str:
    try:
        entry = json.loads(line)
        found = entry["diagnostic"]
        if entry["@level"] != "error":
            return ""
        said = (found.get("address"), found.get("summary"), found.get("detail"))
        parts = [" ".join(str(part).split()) for part in said if part]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return ": ".join(parts)[:_TOLD_CHARACTERS]


def _scrubbed(told: str, environment: Mapping[str, str]) -> str:
    for value in _secrets(environment):
        told = told.replace(value, "***")
    return told


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    """Values that must not be repeated, the longest first: one may be a part of another."""
    found = {value for name, value in environment.items() if len(value) >= 6 and _SECRET.search(name)}
    yield from sorted(found, key=len, reverse=True)


def _mend(told: str) -> str:
    if "state lock" in told:
        return "wait for the other run to end; if there is none, run `tofu force-unlock` with the lock's ID"
    if "quota" in told.lower() or "limit exceeded" in told.lower():
        return "raise the quota, then run the same command again"
    return "mend that, then run the same command again: it goes on from what stands"
