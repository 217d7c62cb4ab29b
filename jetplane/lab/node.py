"""The exit node of the lab: the real `jetplane run`, with the files an operator would write."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jetplane import config, report
from jetplane.errors import JetplaneError
from jetplane.lab import clients, namespaces
from jetplane.lab.addresses import TUNNEL_MTU, UPLINK, AddressPlan, LabOptions
from jetplane.lab.waiting import patience, wait_until
from jetplane.report import Report

_PEER = """
[[peer]]
public_key = "{public_key}"
allowed_ips = ["{ipv4}/32", "{ipv6}/128"]
"""

_TUNNEL = """
[[tunnel]]
name = "{name}"
listen_port = {listen_port}
private_key_file = "node.key"
addresses = ["{ipv4}", "{ipv6}"]
mtu = {mtu}
"""

_CONFIGURATION = """\
# The exit node of a lab{label}.
run_directory = "{run_directory}"
transport = "{options.transport}"

[uplink]
interface = "{uplink}"
xdp = "{options.xdp}"

[exit]
ipv4 = {exit_ipv4}
ipv6 = {exit_ipv6}
routed = true
{tunnels}
[wireguard]
backend = "{options.backend}"

[peers]
path = "peers.toml"
max = {most_peers}

[plan.standard]
up_mbit = {options.up_mbit}
down_mbit = {options.down_mbit}

[nat]
filtering = "{options.nat_filtering}"

[guard]
bogons = false

[metrics]
port = {options.metrics_port}
"""


def metrics_url(options: LabOptions) -> str:
    """Where the exporter listens, as seen inside the node's namespace."""
    return f"http://127.0.0.1:{options.metrics_port}/metrics"


def write_files(directory: Path, plan: AddressPlan, options: LabOptions, subscriber_keys: Sequence[str]) -> str:
    """Write configuration, private key and peers below `directory`; return the node's public key.

    `subscriber_keys` are the subscribers' public keys in base64.
    """
    private_key = clients.generate_private_key()
    key_file = directory / "node.key"
    key_file.touch(mode=0o600)
    key_file.write_text(f"{private_key}\n")
    addresses = [(subscriber.inner_ipv4, subscriber.inner_ipv6) for subscriber in plan.subscribers]
    addresses += plan.idle_peers(options.peers)
    keys = [*subscriber_keys, *(_idle_key() for _ in range(options.peers))]
    (directory / "peers.toml").write_text(
        "".join(
            _PEER.format(public_key=key, ipv4=ipv4, ipv6=ipv6)
            for key, (ipv4, ipv6) in zip(keys, addresses, strict=True)
        )
    )
    (directory / "jetplane.toml").write_text(_configuration(directory, plan, options))
    return clients.public_key(private_key)


def _idle_key() -> str:
    """The public key of a peer that never comes: any 32 bytes are one (RFC 7748, section 5)."""
    return base64.b64encode(os.urandom(32)).decode()


def _configuration(directory: Path, plan: AddressPlan, options: LabOptions) -> str:
    return _CONFIGURATION.format(
        label="" if options.transport == "wireguard" else ", with plain Ethernet for tunnels: NOT A VPN",
        options=options,
        run_directory=directory / "run",
        uplink=UPLINK,
        exit_ipv4=json.dumps(plan.exit_ipv4),
        exit_ipv6=json.dumps(plan.exit_ipv6),
        tunnels="".join(
            _TUNNEL.format(name=t.name, listen_port=t.listen_port, ipv4=t.ipv4, ipv6=t.ipv6, mtu=TUNNEL_MTU)
            for t in plan.tunnels
        ),
        most_peers=max(4096, options.peers + 64),
    )


class Node:
    """The node in its namespace: the daemon's process and the commands of its operator."""

    def __init__(self, lab: str, namespace: str, directory: Path) -> None:
        self.config = directory / "jetplane.toml"
        self.peers = directory / "peers.toml"
        self.log = directory / "node.log"
        self.run_directory = directory / "run"
        self._lab = lab
        self.namespace = namespace
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon and wait until it says that it is ready."""
        status = self.run_directory / "status.json"
        before = _pid_in(status)
        with self.log.open("ab") as output:
            self._process = namespaces.spawn(
                self.namespace, self._command("run"), lab=self._lab, stdout=output, stderr=output
            )
        try:
            wait_until("the node", lambda: _ready(status, before), self._process, seconds=60)
        except JetplaneError as error:
            raise JetplaneError(f"{error}: {self._last_words()}") from None

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        if self._process is None:
            raise JetplaneError("lab: the node was not started here")
        return self._process.pid

    def processes(self) -> dict[int, str]:
        """All processes in the node's namespace, by name: the daemon, what it has started, and wireguard-go."""
        ours, found = namespaces.inode(self.namespace), {}
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if (place / "ns/net").stat().st_ino == ours:
                    found[int(place.name)] = (place / "comm").read_text().strip()
        return found

    def kill(self) -> None:
        """End the daemon as a crash would (SIGKILL); only the daemon, not what it has started."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask the daemon to stop (SIGTERM); return its exit status."""
        return self._end(signal.SIGTERM)

    def reload(self) -> None:
        """Ask the daemon to read its files again (SIGHUP)."""
        os.kill(self.pid, signal.SIGHUP)

    def _end(self, sign: signal.Signals) -> int:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(sign)
        return self._process.wait(patience(20))

    def reap(self) -> None:
        """Wait for the daemon that has been ended."""
        if self._process is not None:
            self._process.wait()

    def jetplane(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command of the operator on this node, like `jetplane("peers", "list")`."""
        return namespaces.run(self.namespace, self._command(*arguments), lab=self._lab, timeout=patience(60))

    def report(self) -> Report:
        """The same as `status`, without starting a process: for those who ask often."""
        settings = config.load(self.config)
        return namespaces.inside(self.namespace, lambda: report.report(settings))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The daemon stopped where it stands (SIGSTOP): it mends nothing meanwhile."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def status(self) -> dict[str, Any]:
        """Return what `jetplane status --json` prints."""
        done = self.jetplane("status", "--json")
        try:
            report: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise JetplaneError(f"lab: jetplane status: {done.stderr.decode().strip()}") from None
        return report

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "jetplane", *arguments, "--config", str(self.config)]

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _pid_in(status: Path) -> int:
    """The process that wrote a status file, 0 if none has."""
    try:
        return int(json.loads(status.read_bytes()).get("pid", 0))
    except (OSError, ValueError):
        return 0


def _ready(status: Path, before: int) -> bool:
    """Whether another process than the one before has written that it is ready."""
    try:
        said = json.loads(status.read_bytes())
    except (OSError, ValueError):
        return False
    return bool(said.get("ready")) and said.get("pid") != before
