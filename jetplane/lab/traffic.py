"""What subscribers do: download, ping, play, trace, listen to a long stream. With the programs they use."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from jetplane.errors import JetplaneError, RequirementError
from jetplane.lab import namespaces, servers
from jetplane.lab.waiting import patience, slowness, wait_until

PROGRAMS = {"wg": "wireguard-tools", "curl": "curl", "ping": "iputils-ping", "traceroute": "traceroute"}
"""Program → the Debian package that has it."""

_CURL = ("curl", "--silent", "--show-error", "--noproxy", "*", "--globoff")


def require_programs() -> None:
    """Raise RequirementError naming the packages that are missing."""
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        raise RequirementError(
            f"lab: the packages {', '.join(missing)} are missing", hint=f"apt-get install {' '.join(missing)}"
        )


@dataclass(frozen=True, slots=True)
class Visit:
    """Where a subscriber's traffic begins and where it goes."""

    lab: str
    namespace: str
    site: str

    def url(self, path: str) -> str:
        """The site's page of this path."""
        host = f"[{self.site}]" if ":" in self.site else self.site
        return f"http://{host}:{servers.HTTP_PORT}/{path}"


@dataclass(frozen=True, slots=True)
class Download:
    """A finished download."""

    size: int
    seconds: float
    whole: bool  # the hash is the one of what the site sent

    @property
    def mbit_per_second(self) -> float:
        """10^6 bits per second of payload."""
        return self.size * 8 / self.seconds / 1e6


def download(visit: Visit, size: int, directory: Path) -> Download:
    """Fetch `size` bytes with curl and compare their SHA-256."""
    file = directory / f"{visit.namespace}.download"
    seconds = patience(20 + size / 1e6)
    began = time.monotonic()
    done = namespaces.run(
        visit.namespace,
        [*_CURL, "--max-time", str(int(seconds)), "--output", file, visit.url(f"bytes/{size}")],
        lab=visit.lab,
        timeout=seconds + 5,
    )
    took = time.monotonic() - began
    if done.returncode != 0:
        raise JetplaneError(f"curl: {done.stderr.decode().strip()}")
    try:
        with file.open("rb") as received:
            found = hashlib.file_digest(received, "sha256").hexdigest()
        return Download(file.stat().st_size, took, found == servers.digest(size))
    finally:
        file.unlink(missing_ok=True)


def page(visit: Visit, path: str) -> bytes:
    """Fetch a small page with curl."""
    seconds = patience(10)
    command = [*_CURL, "--max-time", str(int(seconds)), visit.url(path)]
    done = namespaces.run(visit.namespace, command, lab=visit.lab, timeout=seconds + 5)
    if done.returncode != 0:
        raise JetplaneError(f"curl: {done.stderr.decode().strip()}")
    return done.stdout


def ping(visit: Visit, count: int = 5, *, size: int = 56, wait: float | None = None) -> int:
    """Send `count` echo requests of `size` bytes with ping(8), one at a time; return how many were answered.

    `wait` is how many seconds it waits for each answer: short where none is expected, else as long as may be needed.
    One ping each, for after the first answer it waits for the last one no longer than twice the longest so far.
    """
    command = ["ping", "-n", "-q", "-c", "1", "-W", str(wait or patience(5)), "-s", str(size), visit.site]

    def is_answered() -> bool:
        done = namespaces.run(visit.namespace, command, lab=visit.lab, timeout=patience(10))
        return b" 1 received" in done.stdout

    return sum(is_answered() for _ in range(count))


def trace(visit: Visit, *options: str) -> list[str]:
    """Return the hops that traceroute(8) shows, `*` for one that did not answer."""
    wait = str(max(1, int(patience(1))))
    command = ["traceroute", "-n", "-q", "1", "-N", "1", "-w", wait, "-m", "4", *options, visit.site]
    done = namespaces.run(visit.namespace, command, lab=visit.lab, timeout=patience(10) + 10)
    return [line.split()[1] for line in done.stdout.decode().splitlines()[1:] if len(line.split()) > 1]


def udp_echo(visit: Visit, count: int = 23, *, size: int = 64) -> int:
    """Send `count` different datagrams to the echo service, one at a time; return how many came back unchanged."""
    family = socket.AF_INET6 if ":" in visit.site else socket.AF_INET
    with namespaces.inside(visit.namespace, lambda: socket.socket(family, socket.SOCK_DGRAM)) as client:
        client.connect((visit.site, servers.ECHO_PORT))
        client.settimeout(patience(1))
        return sum(_echoed(client, os.urandom(size)) for _ in range(count))


def _echoed(client: socket.socket, sent: bytes) -> bool:
    client.send(sent)
    try:
        return client.recv(65536) == sent
    except (TimeoutError, ConnectionError):
        return False


class Stream:
    """A long download at a steady rate; what is watched is when its bytes come."""

    def __init__(self, visit: Visit) -> None:
        # An emulated machine that is busy with the stream would have no time for what the stream is to witness.
        bytes_per_second = int(max(20_000, 1_000_000 / slowness() ** 2))
        self._process = namespaces.spawn(
            visit.namespace,
            [*_CURL, "--no-buffer", visit.url(f"paced/{bytes_per_second}")],
            lab=visit.lab,
            stdout=subprocess.PIPE,
        )
        self._lock = threading.Lock()
        self._arrivals: list[tuple[float, int]] = [(time.monotonic(), 0)]
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while received := os.read(self._process.stdout.fileno(), 65536):
            with self._lock:
                self._arrivals.append((time.monotonic(), self._arrivals[-1][1] + len(received)))

    @property
    def total(self) -> int:
        """Bytes so far."""
        with self._lock:
            return self._arrivals[-1][1]

    @property
    def last_arrival(self) -> float:
        """time.monotonic() of the last byte so far."""
        with self._lock:
            return self._arrivals[-1][0]

    def longest_gap(self, since: float) -> float:
        """The longest time without a byte after `since` (time.monotonic()), the time up to now included."""
        now = time.monotonic()
        with self._lock:
            times = [since, *(at for at, _ in self._arrivals if at > since), now]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def wait_for_more(self, count: int, *, seconds: float = 10) -> None:
        """Wait until `count` more bytes have come."""
        goal = self.total + count
        wait_until(f"{count} more bytes", lambda: self.total >= goal, self._process, seconds=seconds)

    def wait_for_silence(self, silence: float, *, seconds: float = 10) -> None:
        """Wait until nothing has come for `silence` seconds."""
        wait_until("the stream to stop", lambda: time.monotonic() - self.last_arrival > silence, seconds=seconds)

    def close(self) -> None:
        """End the client."""
        namespaces.kill(self._process)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
