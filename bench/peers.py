"""`python -m bench.peers`: many peers onto one interface, beside wg(8) on the same WireGuard. Needs root.

Writes bench/results/peers-KIND.{json,md}. With `--kernel 6.12` it runs in a virtual machine with Debian's kernel of
that series, and so with kernel WireGuard, whatever this machine has.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import guest, results
from bench.command import run, say
from bench.results import Row
from jetplane.collecting import uncollected
from jetplane.errors import JetplaneError
from jetplane.lab import namespaces, topology
from jetplane.lab.addresses import LabOptions
from jetplane.model import InnerAddress, ObservedPeer, Peer, PublicKey
from jetplane.plan import RemovePeer, plan_peers
from jetplane.wireguard import choose
from jetplane.wireguard.interface import Device, WireGuard

MOST = {"kernel": 100_000, "userspace": 60_000}
"""wireguard-go holds at most 65,536."""

STALL = 10_000
"""Peers removed while a stream of pings passes."""

_WG = "wg(8)"
_EVERY_S = 0.002
_PING = re.compile(r"^\[(?P<at>[\d.]+)\].* time=", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Bench:
    """One namespace of a node, in which an interface is made and removed again for every measurement."""

    namespace: str
    backend: WireGuard
    directory: Path
    wanted: Mapping[PublicKey, Peer]
    private_key: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "private_key", self.directory / "key")
        self.private_key.touch(mode=0o600)
        self.private_key.write_bytes(subprocess.check_output(["wg", "genkey"]))

    @property
    def name(self) -> str:
        """The interface's."""
        return f"jet{os.getpid()}w"

    @contextmanager
    def interface(self) -> Iterator[None]:
        """An empty one, removed afterwards."""
        namespaces.inside(self.namespace, lambda: self.backend.create(self.name))
        try:
            device = Device(self.name, 51820, self.private_key)
            namespaces.inside(self.namespace, lambda: self.backend.configure(device))
            yield
        finally:
            namespaces.inside(self.namespace, lambda: self.backend.delete(self.name))

    def apply(self, wanted: Mapping[PublicKey, Peer], held: Mapping[PublicKey, Peer]) -> None:
        """jetplane's way, planning included; `held` is what it set before, of these peers."""
        observed = {key: _observed(peer) for key, peer in held.items()}
        with uncollected():  # as Node.reconcile does
            self.backend.apply(self.name, plan_peers(wanted, observed, held))

    def wg(self, *arguments: str | Path) -> None:
        """The rival's way."""
        done = subprocess.run(["wg", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise JetplaneError(f"bench: wg {arguments[0]}: {done.stderr.strip()}")

    def timed(self, work: Callable[[], object]) -> tuple[float, float]:
        """(seconds, seconds of this process's CPU)."""

        def measure() -> tuple[float, float]:
            wall, cpu = time.monotonic(), time.thread_time()
            work()
            return time.monotonic() - wall, time.thread_time() - cpu

        return namespaces.inside(self.namespace, measure)

    def file(self, name: str, peers: Mapping[PublicKey, Peer]) -> Path:
        """The same peers for wg(8)."""
        lines = ["[Interface]", f"PrivateKey={self.private_key.read_text().strip()}", "ListenPort=51820"]
        for key, peer in peers.items():
            addresses = ",".join(address.text() for address in peer.allowed_ips)
            lines += ["[Peer]", f"PublicKey={key.text()}", f"AllowedIPs={addresses}"]
            lines += [f"PersistentKeepalive={peer.persistent_keepalive}"] if peer.persistent_keepalive else []
        path = self.directory / name
        path.write_text("\n".join(lines) + "\n", encoding="ascii")
        return path


def _observed(peer: Peer) -> ObservedPeer:
    return ObservedPeer(peer.public_key, peer.allowed_ips, peer.persistent_keepalive)


def peers(count: int) -> dict[PublicKey, Peer]:
    """So many, each with an address of both families."""
    made = {}
    for n in range(count):
        four = InnerAddress(bytes(10) + b"\xff\xff" + (0x0A400002 + n).to_bytes(4))
        six = InnerAddress(b"\xfd\x64" + bytes(10) + (n + 2).to_bytes(4))
        key = PublicKey(sha256(b"%d" % n).digest())
        made[key] = Peer(key, (four, six))
    return made


def measure(bench: Bench, rounds: int, say: Callable[[str], None]) -> Iterator[Row]:
    """Everything, in rounds; who begins changes from round to round."""
    own: dict[str, list[float]] = {what: [] for what in ("empty", "some", "one", "one cpu")}
    rival: dict[str, list[float]] = {what: [] for what in ("empty", "some", "one")}
    some = {
        key: replace(peer, persistent_keepalive=25)
        for n, (key, peer) in enumerate(bench.wanted.items())
        if n % 100 == 0
    }
    changed = {**bench.wanted, **some}
    whole, partly = bench.file("whole.conf", bench.wanted), bench.file("partly.conf", changed)
    key, last = tuple(bench.wanted.items())[-1]
    one = {key: replace(last, persistent_keepalive=1)}

    def jetplane() -> None:
        with bench.interface():
            own["empty"].append(bench.timed(lambda: bench.apply(bench.wanted, {}))[0])
            own["some"].append(bench.timed(lambda: bench.apply(some, {k: bench.wanted[k] for k in some}))[0])
            wall, cpu = bench.timed(lambda: bench.apply(one, {key: last}))
            own["one"].append(wall * 1e3)
            own["one cpu"].append(cpu * 1e3)

    def wg() -> None:
        with bench.interface():
            rival["empty"].append(bench.timed(lambda: bench.wg("setconf", bench.name, whole))[0])
            rival["some"].append(bench.timed(lambda: bench.wg("syncconf", bench.name, partly))[0])
            arguments = ("set", bench.name, "peer", key.text(), "persistent-keepalive", "1")
            rival["one"].append(bench.timed(lambda: bench.wg(*arguments))[0] * 1e3)

    for number in range(rounds):
        for contender in (jetplane, wg) if number % 2 == 0 else (wg, jetplane):
            contender()
            say(f"round {number + 1} of {rounds}: {contender.__name__}")
    size = f"{len(bench.wanted):,} peers"
    yield results.compared(size, "onto an empty interface", "s", own["empty"], f"{_WG} setconf", rival["empty"])
    yield results.compared(size, "1 % of them changed", "s", own["some"], f"{_WG} syncconf", rival["some"])
    yield results.compared(size, "one of them changed", "ms", own["one"], f"{_WG} set", rival["one"])
    yield results.alone(size, "one of them changed, CPU", "ms", own["one cpu"])


def stalls(bench: Bench, rounds: int, say: Callable[[str], None]) -> Iterator[Row]:
    """The longest gap between answered pings through the tunnel while peers are removed, beside one while a process of
    the same priority computes for as long: that is what a shared processor costs, whatever is removed."""
    few = dict(list(bench.wanted.items())[:STALL])
    removed: list[float] = []
    busy: list[float] = []
    with bench.interface(), _client(bench) as pings:
        for number in range(rounds):
            namespaces.inside(bench.namespace, lambda: bench.apply(few, {}))
            began = time.monotonic()
            removed.append(pings(lambda: bench.backend.apply(bench.name, [RemovePeer(key) for key in few])))
            seconds = time.monotonic() - began
            busy.append(pings(lambda seconds=seconds: _compute(seconds)))  # type: ignore[misc]
            say(f"round {number + 1} of {rounds}: {len(few):,} peers removed in {seconds:.1f} s")
    size, metric = f"{len(few):,} peers removed", "longest gap of a stream of pings"
    yield results.compared(size, metric, "ms", removed, "while a process computes", busy)


def memory(count: int) -> Row:
    """What the controller of a whole node with so many peers keeps in memory, libraries included."""
    with topology.lab(LabOptions(transport="veth", tunnels=2, peers=count)) as lab:
        lab.start()
        status = Path(f"/proc/{lab.node.pid}/status").read_text(encoding="ascii")
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return results.alone(f"{count:,} peers", "memory of the controller", "MiB", [kib / 1024])


def _compute(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


def _public(private: Path) -> str:
    return subprocess.check_output(["wg", "pubkey"], input=private.read_bytes()).decode().strip()


@contextmanager
def _client(bench: Bench) -> Iterator[Callable[[Callable[[], object]], float]]:
    """A client with a session; yields what measures the longest gap, in ms, while a piece of work is done."""
    far, link, name = f"jet{os.getpid()}c", f"jet{os.getpid()}v", f"jet{os.getpid()}x"
    private = bench.directory / "client"
    private.touch(mode=0o600)
    private.write_bytes(subprocess.check_output(["wg", "genkey"]))
    node, client = _public(bench.private_key), _public(private)

    def here(*arguments: str) -> None:
        namespaces.inside(bench.namespace, lambda: subprocess.run(arguments, check=True, capture_output=True))

    def there(*arguments: str) -> None:
        namespaces.inside(far, lambda: subprocess.run(arguments, check=True, capture_output=True))

    def pings(work: Callable[[], object]) -> float:
        command = ["ping", "-n", "-D", "-i", str(_EVERY_S), "10.63.0.1"]
        said = bench.directory / "pings"
        with said.open("wb") as file:
            stream = namespaces.inside(far, lambda: subprocess.Popen(command, stdout=file))
            try:
                time.sleep(0.5)
                namespaces.inside(bench.namespace, work)
            finally:
                stream.terminate()
                stream.wait()
        times = [float(match["at"]) for match in _PING.finditer(said.read_text(encoding="ascii"))]
        return max(later - earlier for earlier, later in pairwise(times)) * 1e3

    namespaces.create(far)
    try:
        here("ip", "link", "add", link, "type", "veth", "peer", "name", link, "netns", far)
        for run, outer in ((here, "192.0.2.1/24"), (there, "192.0.2.2/24")):
            run("ip", "address", "add", outer, "dev", link)
            run("ip", "link", "set", link, "up")
        namespaces.inside(far, lambda: bench.backend.create(name))
        namespaces.inside(far, lambda: bench.backend.configure(Device(name, 51821, private)))
        there("wg", "set", name, "peer", node, "endpoint", "192.0.2.1:51820", "allowed-ips", "10.63.0.1/32")
        here("wg", "set", bench.name, "peer", client, "allowed-ips", "10.63.0.2/32")
        for run, interface, inner in ((here, bench.name, "10.63.0.1/24"), (there, name, "10.63.0.2/24")):
            run("ip", "address", "add", inner, "dev", interface)
            run("ip", "link", "set", interface, "up")
        there("ping", "-c", "1", "-w", "20", "10.63.0.1")
        yield pings
    finally:
        namespaces.inside(far, lambda: bench.backend.delete(name))
        namespaces.remove(far)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write, print the table."""
    parser = argparse.ArgumentParser(prog="bench.peers", description="many peers, beside wg(8) on the same WireGuard")
    parser.add_argument("--peers", type=int, help="how many; default: 100,000 in the kernel, 60,000 in user space")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kernel", help="run in a virtual machine with Debian's kernel of this series, like 6.12")
    parser.add_argument("--output", type=Path, default=results.DIRECTORY, help="where the results go")
    options = parser.parse_args(arguments)
    return run(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    if options.kernel:
        return guest.run(options.kernel, options.output, peers=options.peers, rounds=options.rounds)
    backend = choose("auto")
    head = results.header(quick=False)
    rows = list(_run(backend, options.peers, options.rounds))
    notes = [
        f"WireGuard: {backend.kind}. Each peer has an IPv4 and an IPv6 address.",
        f"{_WG} reads its peers from a file, as it must; jetplane holds them and plans.",
    ]
    head["notes"] = notes + (["An emulated machine: only ratios mean anything."] if _is_emulated() else [])
    results.write(options.output, head, rows, name=f"peers-{backend.kind}")
    print(results.markdown(head, rows))
    return 0


def _run(backend: WireGuard, count: int | None, rounds: int) -> Iterator[Row]:
    namespace = f"jet{os.getpid()}n"
    namespaces.create(namespace)
    try:
        with TemporaryDirectory(prefix="jetplane-bench") as directory:
            bench = Bench(namespace, backend, Path(directory), peers(count or MOST[backend.kind]))
            yield from measure(bench, rounds, say)
            yield from stalls(bench, rounds, say)
        if not _is_emulated():
            yield memory(count or MOST["kernel"])
    finally:
        namespaces.remove(namespace)


def _is_emulated() -> bool:
    """Whether QEMU computes what this processor does; with KVM it would have the name of the real one."""
    return "QEMU" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
