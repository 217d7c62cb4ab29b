"""Programs of others that say what a NAT does: coturn's, the classic STUN client, nping. Started here, read here."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from jetplane.lab import namespaces
from jetplane.lab.topology import Lab
from jetplane.lab.waiting import patience, wait_until
from tests.netns.nat_place import SITES, inner, program, subscriber

PROGRAMS = {
    "turnserver": "coturn",
    "turnutils_natdiscovery": "coturn",
    "stun": "stun-client",
    "stund": "stun-server",
    "nping": "nmap",
    "tracepath": "iputils-tracepath",
    "ethtool": "ethtool",
}
"""What the NAT's tests run beside the lab's programs → the Debian package that has it."""

STUN_PORTS = (3478, 3479)
"""Of coturn at both sites, in both families."""
_CLASSIC_PORTS = ("3488", "3489")

VERDICTS = {
    "endpoint-independent": ("Endpoint Independent Filtering", "Independent Filter"),
    "address": ("Address Dependent Filtering", "Address Dependent Filter"),
    "address-and-port": ("Address and Port Dependent Filtering", "Port Dependent Filter"),
}
"""How coturn and the STUN client call each of our ways of filtering."""


@contextmanager
def servers(lab: Lab) -> Iterator[None]:
    """Run coturn, stund and nping's echo server at the lab's sites."""
    listeners = [f"--listening-ip={site}" for sites in SITES.values() for site in sites]
    database = f"--db={lab.directory}/turn"
    coturn = ["turnserver", "-n", "-S", "-z", "--no-tls", "--no-dtls", "--no-cli", database, "--pidfile=/dev/null"]
    classic = ["stund", "-h", SITES[4][0], "-a", SITES[4][1], "-p", _CLASSIC_PORTS[0], "-o", _CLASSIC_PORTS[1]]
    nping = ["nping", "--echo-server", "public", "--no-crypto", "-e", "node0", "-v0"]
    running = []
    with (lab.directory / "witnesses.log").open("ab") as log:
        for command in ([*coturn, "--log-file=stdout", *listeners], classic, nping):
            running.append(namespaces.spawn(lab.plan.internet, command, lab=lab.name, stdout=log, stderr=log))
    try:
        wait_until("coturn, stund and nping to listen", lambda: _all_listen(lab), running[0], seconds=20)
        yield
    finally:
        for process in running:
            namespaces.kill(process)


def _all_listen(lab: Lab) -> bool:
    seen = program(lab, lab.plan.internet, "ss", "-Hlntu")
    udp = {
        (f"[{site}]" if ":" in site else site, port)
        for sites in SITES.values()
        for site in sites
        for port in STUN_PORTS
    }
    classic = {(SITES[4][0], port) for port in _CLASSIC_PORTS}
    wanted = {f"{address}:{port}" for address, port in udp | classic} | {"0.0.0.0:9929"}
    return wanted <= {line.split()[4] for line in seen.splitlines()}


class Witness:
    """One client that runs; `said` waits for its end."""

    def __init__(self, lab: Lab, number: int, *command: str) -> None:
        self.number = number
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        self.process = namespaces.spawn(
            subscriber(lab, number), ["stdbuf", "-oL", *command], lab=lab.name, stdout=pipe, stderr=both
        )
        self._before = b""

    def wait_for(self, pattern: bytes) -> re.Match[bytes]:
        """Read until this was said."""
        assert self.process.stdout is not None
        while not (found := re.search(pattern, self._before)):
            more = self.process.stdout.read1(4096)  # type: ignore[attr-defined]
            assert more, f"it ended, having said: {self._before.decode()}"
            self._before += more
        return found

    def said(self) -> str:
        """All it said, to its end."""
        rest, _ = self.process.communicate(timeout=patience(30))
        return (self._before + rest).decode(errors="replace")

    def close(self) -> None:
        """End it."""
        namespaces.kill(self.process)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def natdiscovery(lab: Lab, number: int, family: int, what: str, port: int, *more: str) -> Witness:
    """coturn's client, as a subscriber with this local port: `-m` mapping, `-f` filtering, `-t -T SECONDS` lifetime."""
    here = ["-L", inner(lab, number, family), "-l", str(port)]
    return Witness(lab, number, "turnutils_natdiscovery", what, *more, *here, SITES[family][0])


def classic_stun(lab: Lab, number: int, port: int) -> Witness:
    """The client of RFC 3489, IPv4 only, which says all at once."""
    return Witness(lab, number, "stun", f"{SITES[4][0]}:{_CLASSIC_PORTS[0]}", "-v", "-p", str(port))


def nping(lab: Lab, number: int, *probe: str) -> Witness:
    """One probe to the first site, shown as it was sent and as it was captured behind the NAT, in hexadecimal."""
    once = ("--echo-client", "public", "--no-crypto", "-c", "1", "-v4", "--ttl", "64")
    return Witness(lab, number, "nping", *once, *probe, SITES[4][0])


def dump(said: str, label: str) -> bytes:
    """The packet that nping shows under SENT, CAPT or RCVD."""
    [shown] = re.findall(rf"^{label} .*\n((?:[0-9a-f]{{4}}   .*\n)+)", said, re.MULTILINE)
    return b"".join(bytes.fromhex(line[7:55]) for line in shown.splitlines())


def addresses_in(said: str) -> set[str]:
    """The external addresses and ports that coturn's client was told."""
    return set(re.findall(r"reflexive addr: (\S+)", said))
