"""Asks a running controller, for the command line."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jetplane.admin.place import FILE, reachable
from jetplane.errors import JetplaneError

QUICK_S: Final = 5.0
PATIENT_S: Final = 180.0  # a large change of files, a reload that compiles


class NotRunning(JetplaneError):
    """No controller listens here."""


class NotAllowed(JetplaneError):
    """A controller listens, but to root only."""


class NotAnswering(JetplaneError):
    """A controller is there but gives no answer in time."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, directory: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._directory = directory

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        with reachable(self._directory) as address:
            self.sock.connect(address)


def ask(
    directory: Path, method: str, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = PATIENT_S
) -> dict[str, Any]:
    """Send one request to the controller whose run_directory this is, and return its answer.

    Raises NotRunning, NotAnswering, or JetplaneError with what the controller said.
    """
    connection = _Connection(directory, seconds)
    try:
        # One who is refused before all is sent finds the reason in the answer.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, json.dumps(body or {}) if method == "POST" else None)
        answer = connection.getresponse()
        said = json.loads(answer.read())
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotRunning(f"{directory / FILE}: no controller listens", hint="start it: jetplane run") from None
    except PermissionError:
        raise NotAllowed(f"{directory / FILE}: may not be used", hint="run as root") from None
    except TimeoutError:
        raise NotAnswering(f"{directory / FILE}: the controller gives no answer within {seconds:.0f} s") from None
    except (OSError, http.client.HTTPException, ValueError):
        raise NotAnswering(f"{directory / FILE}: the controller hung up", hint="look at its log") from None
    finally:
        connection.close()
    if answer.status != http.client.OK:
        error = said["error"]
        raise JetplaneError(error["message"], hint=error["hint"])
    return dict(said)
