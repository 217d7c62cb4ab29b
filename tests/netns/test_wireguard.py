"""Both implementations of WireGuard against wg(8), which reads what we wrote and writes what we read.

Natively the kernel may have no WireGuard; the guests of tests/vm have, and there both run.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from jetplane.errors import BackendError, ConfigurationError, RequirementError
from jetplane.lab import namespaces
from jetplane.lab.waiting import slowness
from jetplane.model import InnerAddress, PresharedKey
from jetplane.plan import NO_PRESHARED_KEY, RemovePeer, SetPeer
from jetplane.wireguard import choose
from jetplane.wireguard.snapshot import WIDER
from tests.netns.wireguard_tunnel import PORT, Tunnel, as_observed, as_wg_says, kinds, peer

COUNTS = (1, 1_000, 10_000) if slowness() < 3 else (1, 500)
"""500 peers fill several messages, out and in; an emulated machine would be at 10,000 for minutes."""


def test_a_new_interface_is_there_and_making_it_again_changes_nothing(tunnel: Tunnel) -> None:
    tunnel.configure()
    before = tunnel.run("ip", "-oneline", "link", "show", tunnel.name), tunnel.dump()
    tunnel.create()
    assert (tunnel.run("ip", "-oneline", "link", "show", tunnel.name), tunnel.dump()) == before


def test_the_settings_are_what_wg_says(tunnel: Tunnel) -> None:
    tunnel.configure()
    device, peers = tunnel.dump()
    private = tunnel.device.private_key_file.read_text().strip()
    public = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True).stdout.strip()
    assert device == [private, public, str(PORT), "0x51"]
    assert not peers


def test_settings_can_change_and_peers_stay(tunnel: Tunnel) -> None:
    tunnel.configure()
    tunnel.apply([SetPeer(peer(1))])
    tunnel.configure(listen_port=PORT + 1, fwmark=0)
    assert tunnel.dump()[0][2:] == [str(PORT + 1), "off"]
    assert tunnel.peers() == as_wg_says([peer(1)])


@pytest.mark.parametrize("count", COUNTS)
def test_peers_are_what_wg_says_and_what_is_observed(tunnel: Tunnel, count: int) -> None:
    peers = [replace(peer(n), persistent_keepalive=n % 3) for n in range(1, count + 1)]
    tunnel.configure()
    tunnel.apply([SetPeer(p) for p in peers])
    assert tunnel.peers() == as_wg_says(peers)
    assert as_observed(tunnel.observe()) == as_wg_says(peers)


def test_a_peer_with_more_allowed_ips_than_a_message_holds_is_set_and_observed_whole(tunnel: Tunnel) -> None:
    addresses = [str(ipaddress.ip_address("fd65::") + n) for n in range(1_500)]
    peers = [peer(1), peer(2, *addresses), peer(3)]
    tunnel.configure()
    tunnel.apply([SetPeer(p) for p in peers])
    assert tunnel.peers() == as_wg_says(peers)
    assert as_observed(tunnel.observe()) == as_wg_says(peers)
    tunnel.apply([SetPeer(peer(2))])
    assert tunnel.peers() == as_wg_says([peer(1), peer(2), peer(3)])


def test_the_same_steps_twice_are_the_same_as_once(tunnel: Tunnel) -> None:
    steps = [SetPeer(peer(n)) for n in range(1, 50)]
    tunnel.configure()
    tunnel.apply(steps)
    before = tunnel.dump()
    tunnel.configure()
    tunnel.apply(steps)
    assert tunnel.dump() == before


def test_removed_peers_are_gone_and_the_others_stay(tunnel: Tunnel) -> None:
    peers = [peer(n) for n in range(1, 201)]
    tunnel.configure()
    tunnel.apply([SetPeer(p) for p in peers])
    tunnel.apply([RemovePeer(p.public_key) for p in peers[::2]])
    assert tunnel.peers() == as_wg_says(peers[1::2])
    assert as_observed(tunnel.observe()) == as_wg_says(peers[1::2])


def test_removing_a_peer_that_is_not_there_is_fine(tunnel: Tunnel) -> None:
    tunnel.apply([RemovePeer(peer(1).public_key)])
    assert tunnel.peers() == {}


def test_steps_are_carried_out_in_their_order(tunnel: Tunnel) -> None:
    tunnel.apply([SetPeer(peer(1)), RemovePeer(peer(1).public_key), SetPeer(peer(2)), SetPeer(peer(2, "10.9.9.9"))])
    assert tunnel.peers() == as_wg_says([peer(2, "10.9.9.9")])


def test_an_allowed_ip_moves_to_its_newest_owner(tunnel: Tunnel) -> None:
    tunnel.apply([SetPeer(peer(1, "10.9.9.9")), SetPeer(peer(2))])
    tunnel.apply([SetPeer(peer(2, "10.9.9.9"))])
    assert tunnel.peers() == as_wg_says([peer(1), peer(2, "10.9.9.9")])
    assert as_observed(tunnel.observe()) == tunnel.peers()


def test_a_preshared_key_is_set_left_alone_and_removed(tunnel: Tunnel) -> None:
    secret = PresharedKey(bytes(range(32)))
    key = peer(1).public_key

    def seen() -> str:
        return tunnel.dump()[1][key.text()][1]

    tunnel.apply([SetPeer(peer(1))])
    assert seen() == "(none)"
    tunnel.apply([SetPeer(replace(peer(1), preshared_key=secret))])
    assert seen() == secret.text()
    tunnel.apply([SetPeer(peer(1, "10.9.9.9"))])
    assert seen() == secret.text()
    assert tunnel.observe()[key].has_preshared_key
    tunnel.apply([SetPeer(replace(peer(1), preshared_key=NO_PRESHARED_KEY))])
    assert seen() == "(none)"
    assert not tunnel.observe()[key].has_preshared_key


def test_a_wider_allowed_ip_that_somebody_else_set_shows_as_a_difference(tunnel: Tunnel) -> None:
    tunnel.apply([SetPeer(peer(1))])
    tunnel.wg("peer", peer(1).public_key.text(), "allowed-ips", "10.64.0.1/32,10.65.0.0/16")
    assert tunnel.observe()[peer(1).public_key].allowed_ips == (InnerAddress(WIDER), peer(1).allowed_ips[0])
    tunnel.apply([SetPeer(peer(1))])
    assert tunnel.peers() == as_wg_says([peer(1)])


@pytest.mark.parametrize(("state", "family"), [("up", socket.AF_INET), ("down", socket.AF_INET6)])
def test_a_port_in_use_is_named_and_the_old_one_stays(tunnel: Tunnel, state: str, family: socket.AddressFamily) -> None:
    tunnel.configure()
    tunnel.run("ip", "link", "set", tunnel.name, state)
    with closing(tunnel.inside(lambda: socket.socket(family, socket.SOCK_DGRAM))) as other:
        other.bind(("", PORT + 7))
        with pytest.raises(
            BackendError, match=f"{tunnel.name}: listen_port {PORT + 7}: Address already in use"
        ) as error:
            tunnel.configure(listen_port=PORT + 7)
    assert error.value.errno == 98
    assert f"sport = {PORT + 7}" in error.value.hint
    assert tunnel.dump()[0][2] == str(PORT)
    tunnel.configure(listen_port=PORT + 7)
    assert tunnel.dump()[0][2] == str(PORT + 7)


def test_configuring_again_does_not_close_the_sockets(tunnel: Tunnel) -> None:
    """A socket closed and opened loses what is queued in it."""
    tunnel.configure()
    tunnel.run("ip", "link", "set", tunnel.name, "up")

    def sockets() -> list[str]:
        # /proc/net/udp: field 9 is the inode of a socket of a process, field 11 the address of the kernel's structure
        tables = tunnel.run("cat", "/proc/thread-self/net/udp", "/proc/thread-self/net/udp6").splitlines()
        fields = [line.split() for line in tables if f":{PORT:04X} " in line]
        return [" ".join((f[1], f[9], f[0] if tunnel.backend.kind == "kernel" else "")) for f in fields]

    before = sockets()
    assert len(before) == 2
    tunnel.configure()
    assert sockets() == before


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [(None, 0, "cannot be read"), (b"no key\n", 0o600, "not a private key"), (b"x" * 44, 0o644, "open to every user")],
)
def test_a_wrong_key_file_is_named_and_changes_nothing(
    tunnel: Tunnel, tmp_path: Path, content: bytes | None, mode: int, why: str
) -> None:
    tunnel.configure()
    before = tunnel.dump()
    wrong = tmp_path / "wrong.key"
    if content is not None:
        wrong.write_bytes(content)
        wrong.chmod(mode)
    with pytest.raises(ConfigurationError, match=why) as error:
        tunnel.configure(private_key_file=wrong, fwmark=0x99)
    assert str(wrong) in str(error.value)
    assert tunnel.dump() == before


def test_a_link_of_that_name_that_is_not_wireguard_is_left_alone(tunnel: Tunnel, unique: Callable[[str], str]) -> None:
    taken = unique("v")
    tunnel.run("ip", "link", "add", taken, "type", "veth", "peer", "name", unique("v"))
    for refused in (tunnel.backend.create, tunnel.backend.delete):
        with pytest.raises(BackendError, match=taken) as error:
            tunnel.inside(lambda refused=refused: refused(taken))  # type: ignore[misc]
        assert "veth" in str(error.value) or "stays" in str(error.value)
    assert taken in tunnel.run("ip", "link", "show", taken)


def test_without_its_interface_every_call_says_so(tunnel: Tunnel) -> None:
    tunnel.delete()
    for work in (tunnel.configure, tunnel.observe, lambda: tunnel.apply([SetPeer(peer(1))])):
        with pytest.raises(BackendError, match=tunnel.name) as error:
            work()
        assert error.value.errno in (19, 2)


def test_deleting_twice_is_fine_and_making_it_again_starts_empty(tunnel: Tunnel) -> None:
    tunnel.configure()
    tunnel.apply([SetPeer(peer(n)) for n in range(1, 300)])
    tunnel.delete()
    tunnel.delete()
    assert tunnel.name not in tunnel.run("ip", "link", "show")
    tunnel.create()
    assert tunnel.peers() == {}
    assert tunnel.dump()[0][0] == "(none)"


def test_what_is_read_while_peers_change_is_whole(tunnel: Tunnel, unique: Callable[[str], str]) -> None:
    """The kernel marks a dump that a change made inconsistent; it is then read again."""
    constant = [peer(n) for n in range(1, 501)]
    tunnel.apply([SetPeer(p) for p in constant])
    other, allowed = peer(9_999).public_key.text(), "10.99.0.1/32"
    wg_set = f"wg set {tunnel.name} peer {other}"
    # A slow machine needs the pause: a dump that is never left alone for its length never ends.
    loop = f"while :; do {wg_set} allowed-ips {allowed}; {wg_set} remove; sleep 0.5; done"
    changing = tunnel.inside(lambda: subprocess.Popen(["sh", "-c", loop], start_new_session=True))
    try:
        for _ in range(3):
            seen = as_observed(tunnel.observe())
            seen.pop(other, None)
            assert seen == as_wg_says(constant)
    finally:
        os.killpg(changing.pid, signal.SIGKILL)
        changing.wait()


def test_auto_takes_the_kernels_where_there_is_one(wireguard_kind: str) -> None:
    assert wireguard_kind == kinds()[0]


def test_insisting_on_what_is_missing_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequirementError, match="wireguard-go is not on PATH") as error:
        choose("userspace")
    assert "apt install wireguard-go" in error.value.hint
    if kinds() == ("userspace",):
        with pytest.raises(RequirementError, match="kernel offers no WireGuard") as error:
            choose("kernel")
        assert "modprobe wireguard" in error.value.hint
        with pytest.raises(
            RequirementError, match="no WireGuard: this kernel has none, and wireguard-go is not on PATH"
        ):
            choose("auto")


def test_asking_for_an_implementation_leaves_nothing_behind(unique: Callable[[str], str]) -> None:
    namespace = unique("n")
    namespaces.create(namespace)
    try:
        before = namespaces.inside(namespace, lambda: subprocess.check_output(["ip", "link"]))
        namespaces.inside(namespace, lambda: choose("auto"))
        assert namespaces.inside(namespace, lambda: subprocess.check_output(["ip", "link"])) == before
    finally:
        namespaces.remove(namespace)
