"""Network namespaces by name, and doing things inside them without ever moving the calling thread."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyroute2.netns

from jetplane.errors import JetplaneError

T = TypeVar("T")

DIRECTORY = Path("/run/netns")
"""Where ip-netns(8) keeps them, so that `ip netns exec` works in the lab."""

MARK = "JETPLANE_LAB"
"""Environment variable of every process of a lab; its value is the lab's name. Children inherit it."""


def create(name: str) -> None:
    """Make the namespace and bring its loopback up."""
    pyroute2.netns.create(name)
    inside(name, _loopback_up)


def _loopback_up() -> None:
    with pyroute2.IPRoute() as route:
        route.link("set", ifname="lo", state="up")


def names(prefix: str) -> list[str]:
    """Return the names of the namespaces that begin with `prefix`."""
    return sorted(name for name in pyroute2.netns.listnetns() if name.startswith(prefix))


def remove(name: str) -> None:
    """Remove the name; the namespace goes with its last process. Already being gone is fine."""
    with contextlib.suppress(FileNotFoundError):
        pyroute2.netns.remove(name)


def inode(name: str) -> int:
    """Return the number by which /proc/PID/ns/net names this namespace, 0 if there is none."""
    try:
        return (DIRECTORY / name).stat().st_ino
    except FileNotFoundError:
        return 0


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Run `work` in a short-lived thread that lives in the namespace, and return what it returns.

    setns(2) moves one thread. Sockets opened and processes started there stay in the namespace; the
    caller never leaves its own, not even when it is interrupted.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            pyroute2.netns.setns(namespace, flags=0)
            outcome.append(work())
        except BaseException as error:  # carried to the caller, whatever it is
            failure.append(error)

    thread = threading.Thread(target=enter, name=namespace, daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def spawn(namespace: str, arguments: Sequence[str | Path], *, lab: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process in the namespace (and in this mount namespace: mounts stay visible to everybody).

    It has a session of its own, so that a Ctrl-C at the terminal reaches the lab's owner only, and carries MARK.
    """
    environment = {**os.environ, MARK: lab, **options.pop("env", {})}
    options = {"stdin": subprocess.DEVNULL, "start_new_session": True, **options}
    return inside(namespace, lambda: subprocess.Popen([str(a) for a in arguments], env=environment, **options))


def run(
    namespace: str, arguments: Sequence[str | Path], *, lab: str, timeout: float, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in the namespace to its end; after `timeout` seconds it is killed: JetplaneError."""
    pipe = subprocess.PIPE
    process = spawn(
        namespace, arguments, lab=lab, stdin=pipe if stdin is not None else subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        raise JetplaneError(f"lab: {arguments[0]}: no end after {timeout:.0f} s") from None
    except BaseException:
        kill(process)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process of `spawn` and those it started, at once; already being gone is fine."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def write_sysctls(namespace: str, values: Mapping[str, int | str]) -> None:
    """Set sysctls by their path below /proc/sys/net, like `ipv4/ip_forward`."""

    def write() -> None:
        for path, value in values.items():
            (Path("/proc/sys/net") / path).write_text(f"{value}\n")

    inside(namespace, write)
