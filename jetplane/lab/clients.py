"""Subscribers as they are in life: a WireGuard client, its configuration file, a default route into the tunnel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from jetplane.errors import JetplaneError, RequirementError
from jetplane.lab import links, namespaces
from jetplane.lab.addresses import LISTEN_PORT, TUNNEL_MTU, SubscriberPlan
from jetplane.lab.waiting import patience, wait_until


def generate_private_key() -> str:
    """Make a private key the way a user does, in the base64 form of wg(8)."""
    return _wg("genkey")


def public_key(private_key: str) -> str:
    """Return the public key of a private key, both in base64."""
    return _wg("pubkey", stdin=private_key)


def _wg(command: str, *, stdin: str = "") -> str:
    try:
        done = subprocess.run(["wg", command], input=stdin, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise RequirementError("lab: wg is missing", hint="install the package wireguard-tools") from None
    return done.stdout.strip()


def make_interface(namespace: str, name: str, *, lab: str, backend: str, log: Path) -> subprocess.Popen[bytes] | None:
    """Make a WireGuard interface, the kernel's where there is one; else return the wireguard-go that carries it."""
    if backend != "userspace" and links.make_wireguard(namespace, name):
        return None
    if backend == "kernel":
        raise RequirementError("lab: this kernel has no WireGuard", hint="use wireguard-go: backend userspace")
    if shutil.which("wireguard-go") is None:
        raise RequirementError(
            "lab: neither this kernel nor the machine has WireGuard", hint="install the package wireguard-go"
        )
    with log.open("ab") as output:
        process = namespaces.spawn(
            namespace, ["wireguard-go", "--foreground", name], lab=lab, stdout=output, stderr=output
        )
    socket = Path(f"/run/wireguard/{name}.sock")
    wait_until(f"wireguard-go to bring {name} up", lambda: socket.exists() and links.present(namespace, name), process)
    return process


def configure(
    subscriber: SubscriberPlan, *, lab: str, directory: Path, private_key: str, node_key: str, endpoint: str
) -> None:
    """Configure an existing interface with `wg setconf`; it stays down. `endpoint` is an address as a URL has it."""
    file = directory / f"{subscriber.interface}.conf"
    file.touch(mode=0o600)
    file.write_text(
        f"[Interface]\nPrivateKey = {private_key}\n\n"
        f"[Peer]\nPublicKey = {node_key}\nEndpoint = {endpoint}:{LISTEN_PORT + subscriber.tunnel}\n"
        "AllowedIPs = 0.0.0.0/0, ::/0\n"
    )
    done = namespaces.run(
        subscriber.namespace, ["wg", "setconf", subscriber.interface, file], lab=lab, timeout=patience(10)
    )
    if done.returncode:
        raise JetplaneError(f"lab: wg setconf {subscriber.interface}: {done.stderr.decode().strip()}")


def connect(subscriber: SubscriberPlan) -> None:
    """Bring the interface up and send everything but the tunnel itself into it.

    The kernel's first packet of its own, a multicast report, begins the handshake: there should be a node by now,
    since the next attempt is five seconds later.
    """
    addresses = (f"{subscriber.inner_ipv4}/32", f"{subscriber.inner_ipv6}/128")
    links.set_up(links.End(subscriber.namespace, subscriber.interface, addresses), mtu=TUNNEL_MTU)
    routes = [("0.0.0.0/0", "", subscriber.interface), ("::/0", "", subscriber.interface)]
    links.add_routes(subscriber.namespace, routes)
