"""The wireguard-go processes: starting one for an interface, recognising it, ending it.

It runs in the foreground mode, so that whoever asks its socket learns its process id (SO_PEERCRED names the process
that called listen), but in a session of its own: it outlives the controller, and traffic goes on.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jetplane.errors import BackendError, RequirementError
from jetplane.readable import readable
from jetplane.wireguard.uapi import socket_path

PROGRAM: Final = "wireguard-go"
START_DEADLINE_S: Final = 30.0
STOP_DEADLINE_S: Final = 5.0
ANSWER_DEADLINE_S: Final = 60.0
_POLL_S: Final = 0.005
_CREDENTIALS: Final = struct.Struct("=iii")  # struct ucred: pid, uid, gid


def require() -> None:
    """Raise RequirementError unless wireguard-go can run here."""
    if shutil.which(PROGRAM) is None:
        raise RequirementError(f"{PROGRAM} is not on PATH", hint=f"install it: apt install {PROGRAM}")
    if not Path("/dev/net/tun").exists():
        raise RequirementError("/dev/net/tun is missing", hint="load its module: modprobe tun")


@dataclass(frozen=True, slots=True)
class Owner:
    """Who answers on an interface's socket."""

    pid: int
    ours: bool  # a wireguard-go in this thread's network namespace


def connect(name: str) -> tuple[socket.socket, Owner] | None:
    """Connect to the socket of `name`, None when nobody listens there (never started, or died)."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(ANSWER_DEADLINE_S)
        connection.connect(str(socket_path(name)))
        pid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
    except (FileNotFoundError, ConnectionError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        code = error.errno or errno.EIO
        raise BackendError(f"{name}: {socket_path(name)}: {os.strerror(code)}", errno=code) from None
    return connection, Owner(pid, _is_ours(pid))


def owner(name: str) -> Owner | None:
    """Who answers for `name`, None when nobody does."""
    found = connect(name)
    if found is None:
        return None
    found[0].close()
    return found[1]


def _is_ours(pid: int) -> bool:
    """Network namespaces have interfaces of the same name, but share the directory of sockets."""
    try:
        program = Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip()
        return program == PROGRAM and Path(f"/proc/{pid}/ns/net").samefile("/proc/thread-self/ns/net")
    except OSError:
        return False


def start(name: str) -> int:
    """Start wireguard-go for `name` in this network namespace and return its process id once it answers.

    Raises BackendError when it ends or does not answer in time.
    """
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LOG_LEVEL": "silent",  # its log names peers
        "WG_PROCESS_FOREGROUND": "1",
    }
    null = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in (0, 1, 2)]
    # `env -C /`: it must not keep the directory busy that the controller was started in.
    command = ["env", "-C", "/", PROGRAM, "-f", name]
    pid = os.posix_spawnp("env", command, environment, file_actions=null, setsid=True)
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        if (status := reap(pid)) is not None:
            raise BackendError(f"{name}: {PROGRAM} ended with status {status}", hint=f"try: {PROGRAM} -f {name}")
        if owner(name) == Owner(pid, ours=True):
            break
        if time.monotonic() > deadline:
            stop(pid)
            raise BackendError(f"{name}: {PROGRAM} did not open its socket within {START_DEADLINE_S:.0f} s")
        time.sleep(_POLL_S)
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))  # a core file would hold every key and endpoint
    return pid


def reap(pid: int) -> int | None:
    """Return the exit status of a child that has ended, None while it runs. Another's child never has one."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if ended else None


def stop(pid: int) -> None:
    """End the process: asked first, then killed. Being gone already is fine."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            if readable(handle, STOP_DEADLINE_S):
                break
    finally:
        os.close(handle)
        reap(pid)
