"""A WireGuard interface in a namespace of its own, with wg(8) as the second opinion."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeVar

import pytest

from jetplane.errors import RequirementError
from jetplane.lab import namespaces
from jetplane.model import InnerAddress, Observed, Peer, PublicKey
from jetplane.plan import PeerStep
from jetplane.wireguard import choose, uapi
from jetplane.wireguard.interface import Device, WireGuard

PORT = 51820
T = TypeVar("T")


def kinds() -> tuple[Literal["kernel", "userspace"], ...]:
    """What there is to test here. `wireguard_kind` fails where the kernel's must be and is not."""
    try:
        choose("kernel")
    except RequirementError:
        return ("userspace",)
    return ("kernel", "userspace")


@dataclass(frozen=True)
class Tunnel:
    """One interface in a namespace of its own, and wg(8) as the second opinion."""

    backend: WireGuard
    namespace: str
    name: str
    device: Device

    def inside(self, work: Callable[[], T]) -> T:
        return namespaces.inside(self.namespace, work)

    def create(self) -> None:
        self.inside(lambda: self.backend.create(self.name))

    def configure(self, **changes: object) -> None:
        self.inside(lambda: self.backend.configure(replace(self.device, **changes)))  # type: ignore[arg-type]

    def apply(self, steps: Sequence[PeerStep]) -> None:
        self.inside(lambda: self.backend.apply(self.name, steps))

    def observe(self) -> Observed:
        return self.inside(lambda: self.backend.observe(self.name))

    def delete(self) -> None:
        self.inside(lambda: self.backend.delete(self.name))

    def run(self, *command: str | Path) -> str:
        """Run a program in the namespace and return what it prints; it must succeed."""
        done = self.inside(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def wg(self, *arguments: str | Path) -> str:
        return self.run("wg", "set", self.name, *arguments)

    def dump(self) -> tuple[list[str], dict[str, list[str]]]:
        """The device's fields, and each peer's by its public key, as `wg show NAME dump` prints them."""
        first, *rest = self.run("wg", "show", self.name, "dump").splitlines()
        return first.split("\t"), {(fields := line.split("\t"))[0]: fields for line in rest}

    def peers(self) -> dict[str, tuple[set[str], int]]:
        """Public key → allowed IPs, keepalive: what wg(8) sees of what we set."""
        return {
            key: (set(fields[3].split(",")) - {"(none)"}, 0 if fields[7] == "off" else int(fields[7]))
            for key, fields in self.dump()[1].items()
        }


@contextmanager
def made(kind: Literal["kernel", "userspace"], unique: Callable[[str], str], directory: Path) -> Iterator[Tunnel]:
    """A new interface, without key or peers."""
    name = unique("w")
    key = directory / f"{name}.key"
    key.touch(mode=0o600)
    key.write_bytes(subprocess.check_output(["wg", "genkey"]))
    tunnel = Tunnel(choose(kind), unique("n"), name, Device(name, PORT, key, 0x51))
    namespaces.create(tunnel.namespace)
    try:
        tunnel.create()
        yield tunnel
    finally:
        tunnel.delete()
        namespaces.remove(tunnel.namespace)
        assert not uapi.socket_path(name).exists()


@pytest.fixture(
    params=[pytest.param(kind, marks=pytest.mark.native) if kind == "userspace" else kind for kind in kinds()]
)
def tunnel(
    request: pytest.FixtureRequest, wireguard_kind: str, unique: Callable[[str], str], tmp_path: Path
) -> Iterator[Tunnel]:
    """One of each implementation that there is."""
    with made(request.param, unique, tmp_path) as one:
        yield one


def peer(number: int, *more: str) -> Peer:
    """A peer with an address of each family, and `more`."""
    first = InnerAddress.parse(str(ipaddress.ip_address("10.64.0.0") + number))
    second = InnerAddress.parse(str(ipaddress.ip_address("fd64::") + number))
    return Peer(PublicKey(sha256(b"%d" % number).digest()), (first, second, *map(InnerAddress.parse, more)))


def as_wg_says(peers: Sequence[Peer]) -> dict[str, tuple[set[str], int]]:
    """The peers in the form of Tunnel.peers."""
    return {
        p.public_key.text(): (
            {f"{ipaddress.ip_address(a.packed)}/{a.prefix_length}" for a in p.allowed_ips},
            p.persistent_keepalive,
        )
        for p in peers
    }


def as_observed(observed: Observed) -> dict[str, tuple[set[str], int]]:
    """What is observed in the form of Tunnel.peers."""
    assert all(key == seen.public_key for key, seen in observed.items())
    return as_wg_says([Peer(p.public_key, p.allowed_ips, None, p.persistent_keepalive) for p in observed.values()])
