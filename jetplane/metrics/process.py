"""Starts and ends the exporter for the controller.

The exporter lives as long as the controller: its standard input is a pipe that only the controller holds open, so
it ends however the controller ended, and a scrape that fails says that nobody watches the node.
(PR_SET_PDEATHSIG would follow the thread that forked, and a change of user clears it.)
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from jetplane.errors import JetplaneError
from jetplane.metrics import tls
from jetplane.readable import readable

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {"PYTHONPATH": str(_PACKAGE_PARENT), "PYTHONSAFEPATH": "1", "LC_ALL": "C.UTF-8"}
_START_S = 30.0  # Python starts in 0.2 s, but not on every machine
_STOP_S = 5.0


class Exporter:
    """A running exporter."""

    def __init__(self, process: subprocess.Popen[bytes], files: tls.Files | None = None, mark: tls.Mark = ()) -> None:
        self._process = process
        self._files = files
        self._mark = mark  # of the files as it read them

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def running(self) -> bool:
        """Whether it still serves; when not, start another."""
        return self._process.poll() is None

    def is_outdated(self) -> bool:
        """Whether its certificate was renewed; then stop it and start another.

        Raises JetplaneError when the new files cannot be used: better to go on with this one. The key stays in a child.
        """
        if self._files is None or self._files.mark() == self._mark:
            return False
        command = [sys.executable, "-m", tls.__name__, *_paths(self._files)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=_ENVIRONMENT, cwd="/"
        )
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise JetplaneError(f"{lines[-1]}; the old certificate stays in use")
        return True

    def stop(self) -> None:
        """End it and wait for its end; harmless when it has ended."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start(directory: Path, listen: str, port: int, user: str, files: tls.Files | None = None) -> Exporter:
    """Start the exporter in the current network namespace and wait until it serves; with `files`, by TLS.

    Raises JetplaneError when the port is taken, the address is not this node's, the user is unknown or is root, or a
    file cannot be used.
    """
    directory.mkdir(mode=0o755, exist_ok=True)
    command = [sys.executable, "-m", __name__.replace("process", "exporter"), "--lifeline"]
    command += ["--directory", str(directory), "--listen", listen, "--port", str(port), "--user", user]
    command += ["--tls", *_paths(files)] if files else []
    mark = files.mark() if files else ()
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        cwd="/",
    )
    exporter = Exporter(process, files, mark)
    try:
        _wait_until_ready(process)
    except BaseException:
        process.kill()
        exporter.stop()
        raise
    return exporter


def _paths(files: tls.Files) -> list[str]:
    return [str(files.cert), str(files.key), str(files.client_ca)]


def _wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout and process.stderr
    deadline = time.monotonic() + _START_S
    with process.stdout, process.stderr:
        readable(process.stdout, deadline - time.monotonic())
        os.set_blocking(process.stdout.fileno(), False)
        if process.stdout.read(6) == b"ready\n":
            return
        process.kill()
        lines = process.stderr.read().decode(errors="replace").strip().splitlines()
    raise JetplaneError(lines[-1] if lines else f"metrics: the exporter did not start within {_START_S:.0f} s")
