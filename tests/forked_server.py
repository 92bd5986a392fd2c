"""Run as a process of its own by tests/forked.py: imports all of Adumbra once, and forks a process each time it is asked.

What is forked is a process like any other: it has its own arguments, environment, folder, descriptors and network namespace,
and ends as Python does. It shares nothing with the next one: modules are imported here, and nothing of them is called.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from typing import Any

LATE = ("jax", "lightgbm", "pandas", "ray")
"""Start threads when imported, and a fork copies none: what needs these is imported where it is used."""
BEYOND = ("alembic.command", "duckdb", "rich.progress", "ruamel.yaml", "sqlalchemy.dialects.sqlite")
CLONE_NEWNS, CLONE_NEWNET, MS_REC, MS_SLAVE, MNT_DETACH, PR_SET_PDEATHSIG = 1 << 17, 1 << 30, 1 << 14, 1 << 19, 2, 1
LIBC = ctypes.CDLL(None, use_errno=True)


def import_all() -> None:
    import adumbra

    kept_out: dict[str, Any] = dict.fromkeys(LATE)
    sys.modules.update(kept_out)  # importing them is an ImportError now
    for name in (*(module.name for module in pkgutil.walk_packages(adumbra.__path__, "adumbra.")), *BEYOND):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in LATE:
        del sys.modules[name]
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"what was imported started threads, which a fork does not copy: there are {threads}"


def serve(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Forks until whoever asks has ended: then None. Returns in each child too, with what it was asked, and its streams."""
    lines: dict[int, socket.socket] = {}
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ, 0)
        selector.register(woken, selectors.EVENT_READ, 0)
        while True:
            for key, _ in selector.select():
                if key.fileobj is control:
                    asked, given, _, _ = socket.recv_fds(control, 1 << 20, 4)
                    if not asked:
                        for pid in lines:
                            os.kill(pid, signal.SIGKILL)
                        return None
                    pid = os.fork()
                    if not pid:
                        return json.loads(asked), given[:3]
                    for descriptor in given[:3]:
                        os.close(descriptor)
                    lines[pid] = socket.socket(fileno=given[3])
                    lines[pid].send(str(pid).encode())
                    selector.register(lines[pid], selectors.EVENT_READ, pid)
                elif key.fileobj == woken:
                    os.read(woken, 1 << 10)
                    for pid in list(lines):
                        ended, status = os.waitpid(pid, os.WNOHANG)
                        if ended:
                            with lines.pop(pid) as line, contextlib.suppress(KeyError, OSError):
                                line.send(str(os.waitstatus_to_exitcode(status)).encode())
                                selector.unregister(line)
                elif key.data in lines:  # else it has just been found to have ended
                    number = lines[key.data].recv(8)
                    os.kill(key.data, int(number) if number else signal.SIGKILL)  # nobody holds it any more
                    if not number:
                        selector.unregister(lines[key.data])


def become(asked: dict[str, Any], streams: list[int]) -> None:
    """Makes the process that was forked what it was asked to be."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background has it ignored
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(3, 1 << 16)
    if asked["namespace"]:
        enter(asked["namespace"])
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    gc.enable()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def enter(namespace: str) -> None:
    """What `ip netns exec` does: the network namespace, and mounts of its own with the /sys of that namespace."""
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    failed = LIBC.setns(there, CLONE_NEWNET) or LIBC.unshare(CLONE_NEWNS)
    failed = failed or LIBC.mount(b"", b"/", b"none", MS_SLAVE | MS_REC, None)
    if failed:
        raise OSError(ctypes.get_errno(), f"can't enter the network namespace {namespace}")
    os.close(there)
    LIBC.umount2(b"/sys", MNT_DETACH)
    if LIBC.mount(namespace.encode(), b"/sys", b"sysfs", 0, None):
        raise OSError(ctypes.get_errno(), f"can't mount /sys in the network namespace {namespace}")


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # one that comes early waits until its process can be told
    import_all()
    gc.disable()
    gc.freeze()  # what is here already isn't searched for garbage again by each process, which would copy it
    with socket.socket(fileno=int(sys.argv[1])) as control:
        forked = serve(control)
        if not forked:
            os._exit(0)
        control.detach()
    status = 1
    try:
        work(*forked)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 as Python tells of any
        traceback.print_exc()
    finally:  # as Python ends, but for the memory, which the system takes back
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status & 0xFF)


def work(asked: dict[str, Any], streams: list[int]) -> None:
    become(asked, streams)
    program, *arguments = asked["arguments"]
    if program == "adumbra":  # as `python -m adumbra`
        import adumbra.__main__

        sys.modules["__main__"] = adumbra.__main__
        sys.argv = [str(adumbra.__main__.__file__), *arguments]
        adumbra.__main__.run()
    else:
        sys.argv = [program, *arguments]
        sys.path.insert(0, os.path.dirname(program))
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
