"""Runs a tool of the host's (nft, ovs-vsctl) and tells its refusals in one line. Knows nothing of what it asks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from adumbra.schema.errors import MirrorError, MirrorUnsupportedError

_SEARCHED = ("/usr/sbin", "/sbin", "/usr/local/sbin")
_TIMEOUT_S = 30


def find(tool: str) -> str | None:
    """The tool's path, also where the user's PATH leaves out the folders of the superuser's tools."""
    return shutil.which(tool) or shutil.which(tool, path=os.pathsep.join(_SEARCHED))


def run(doing: str, arguments: Sequence[str], text: str = "", *, fine: Sequence[str] = ()) -> str:
    """What the tool wrote. "" where it failed and said one of `fine`. Raises MirrorError, saying what was being done."""
    path = find(arguments[0])
    if path is None:
        raise MirrorUnsupportedError(
            f"could not {doing}: {arguments[0]} is not installed", "install it, or use another --method"
        )
    try:
        done = subprocess.run(
            [path, *arguments[1:]], input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
            env=os.environ | {"LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MirrorError(
            f"could not {doing}: {arguments[0]} {_why(error)}", "see that it works, and run the same again"
        ) from error
    if not done.returncode:
        return done.stdout
    said = " ".join(done.stderr.split())[:300]
    if any(each in said for each in fine):
        return ""
    if "Operation not permitted" in said or "Permission denied" in said:
        raise MirrorError(f"could not {doing}: it takes CAP_NET_ADMIN", "run the same command with sudo")
    if "not supported" in said:
        raise MirrorUnsupportedError(f"could not {doing}: {arguments[0]} says {said!r}", "use another --method")
    raise MirrorError(f"could not {doing}: {arguments[0]} says {said!r}", "mend that, and run the same again")


def _why(error: Exception) -> str:
    return f"gave no answer in {_TIMEOUT_S} s" if isinstance(error, subprocess.TimeoutExpired) else f"can't be run ({error})"
