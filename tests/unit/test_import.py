"""Coming from wg-quick: what is imported, what is left out and said so, and that nothing else comes along."""

from __future__ import annotations

import base64
import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from jetplane.cli.main import main

CONFIG = """
[uplink]
interface = "eth0"
[exit]
ipv4 = ["203.0.113.10"]
[[tunnel]]
name = "jet0"
listen_port = 51820
private_key_file = "jet0.key"
addresses = ["10.64.0.1/16", "fd64::1/64"]
[plan.standard]
[plan.gold]
up_mbit = 100
[peers]
path = "peers.toml"
max = 12
"""

KEYS = [base64.b64encode(bytes([n]) * 32).decode() for n in range(40)]


def peer(number: int, *lines: str) -> str:
    addresses = () if any(line.startswith("AllowedIPs") for line in lines) else (f"AllowedIPs = 10.64.1.{number}/32",)
    return "\n".join(("[Peer]", f"PublicKey = {KEYS[number]}", *addresses, *lines)) + "\n"


INTERFACE = "[Interface]\nPrivateKey = x\nAddress = 10.64.0.1/16\nListenPort = 51820\nPostUp = nft -f x\n"


class Operator:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "jetplane.toml").write_text(CONFIG)
        (directory / "peers.toml").write_text("# mine\n")
        self.source = directory / "wg0.conf"

    def run(self, text: str, *options: str) -> int:
        self.source.write_text(text)
        try:
            main(("peers", "import", "--config", str(self.directory / "jetplane.toml"), str(self.source), *options))
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    def peers(self) -> list[dict[str, object]]:
        return tomllib.loads((self.directory / "peers.toml").read_text()).get("peer", [])


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


def test_a_servers_peers_are_imported_with_all_that_a_record_holds(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        INTERFACE
        + "# Alice's laptop\n"
        + peer(1, f"PresharedKey = {KEYS[30]}", "PersistentKeepalive = 25", "Endpoint = 198.51.100.7:51820")
        + peer(2, "AllowedIPs = 10.64.1.2, fd64::2/128", "persistentkeepalive = off  # quiet")
        + peer(3, "AllowedIPs = 10.64.1.3/32", "AllowedIPs = fd64::3")
    )
    assert operator.run(text, "--plan", "gold", "--json") == 0
    assert operator.peers() == [
        {
            "public_key": KEYS[1],
            "allowed_ips": ["10.64.1.1/32"],
            "preshared_key": KEYS[30],
            "persistent_keepalive": 25,
            "plan": "gold",
        },
        {"public_key": KEYS[2], "allowed_ips": ["10.64.1.2", "fd64::2/128"], "plan": "gold"},
        {"public_key": KEYS[3], "allowed_ips": ["10.64.1.3/32", "fd64::3"], "plan": "gold"},
    ]
    written = (operator.directory / "peers.toml").read_text()
    assert "Alice" not in written
    assert "198.51.100.7" not in written
    assert written.startswith("# mine\n")
    assert json.loads(capsys.readouterr().out) == {
        "dry_run": False, "file": str(operator.directory / "peers.toml"), "imported": 3, "refused": [],
    }  # fmt: skip


LEFT_OUT = (
    (peer(1, "AllowedIPs = 10.64.1.0/24"), "line 6: allowed_ips: wider than one address"),
    (peer(1, "AllowedIPs = 192.0.2.1/32"), "line 6: allowed_ips: in no tunnel's prefix"),
    (peer(1, "AllowedIPs ="), "line 6: allowed_ips: is empty"),
    ("[Peer]\nAllowedIPs = 10.64.1.1\n", "line 6: public_key"),
    ("[Peer]\nPublicKey = abc\nAllowedIPs = 10.64.1.1\n", "line 6: public_key: not base64"),
    (peer(1, f"PublicKey = {KEYS[2]}"), "line 6: publickey stands there twice"),
    (peer(1, "Colour = blue"), "line 6: [Peer] holds an unknown key"),
    (peer(1, "PersistentKeepalive = often"), "line 6: persistentkeepalive: expected seconds or off"),
    (peer(1, "PresharedKey = short"), "line 6: preshared_key"),
    (peer(1) + peer(1, "AllowedIPs = 10.64.1.9"), "line 9: public_key: also owned by"),
    (peer(1) + peer(2, "AllowedIPs = 10.64.1.1"), "line 9: allowed_ips: also owned by"),
    ("".join(peer(n) for n in range(1, 13)), "line 42: there is no more room"),
)


@pytest.mark.parametrize(("wrong", "said"), LEFT_OUT, ids=[said for _, said in LEFT_OUT])
def test_one_that_cannot_be_used_is_named_and_the_others_come(
    operator: Operator, capsys: pytest.CaptureFixture[str], wrong: str, said: str
) -> None:
    assert operator.run(INTERFACE + wrong + peer(20)) == 1
    told = capsys.readouterr().err
    assert said in told
    assert not any(key in told for key in KEYS)
    assert "10.64.1." not in told
    kept = {str(entry["public_key"]) for entry in operator.peers()}
    assert (KEYS[20] in kept) != ("no more room" in said)


WHOLE = (
    ("[Interface]\nAddress = 10.0.0.1/8\n", "holds no [Peer] section"),
    ("PublicKey = x\n", "line 1: expected `key = value` in a section"),
    ("[Peer]\nwhat is this\n", "line 2: expected `key = value` in a section"),
    ("[Peers]\n", "line 1: expected [Interface] or [Peer]"),
)


@pytest.mark.parametrize(("text", "said"), WHOLE)
def test_a_file_that_is_something_else_changes_nothing(
    operator: Operator, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    assert operator.run(peer(1) + text if text.startswith("[Peers]") else text) == 1
    assert said.replace("line 1:", "line 4:" if text.startswith("[Peers]") else "line 1:") in capsys.readouterr().err
    assert operator.peers() == []


def test_a_missing_file_is_one_line(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    assert operator.run("", "/nowhere/wg0.conf") == 1
    assert "holds no [Peer]" in capsys.readouterr().err


def test_a_dry_run_changes_nothing(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    assert operator.run(INTERFACE + peer(1) + peer(2), "--dry-run") == 0
    assert "2 peers would be imported" in capsys.readouterr().out
    assert operator.peers() == []


def test_what_is_there_already_stays_as_it_is(operator: Operator) -> None:
    assert operator.run(INTERFACE + peer(1)) == 0
    assert operator.run(INTERFACE + peer(1) + peer(2)) == 1
    assert [entry["public_key"] for entry in operator.peers()] == [KEYS[1], KEYS[2]]


def test_what_wg_itself_shows_is_imported(operator: Operator) -> None:
    """`wg showconf` writes the same sections, with keys of real peers."""
    real = [
        subprocess.run(["wg", "pubkey"], input=key, capture_output=True, text=True, check=True).stdout.strip()
        for key in (subprocess.run(["wg", "genkey"], capture_output=True, text=True, check=True).stdout for _ in "ab")
    ]
    text = "[Interface]\nListenPort = 51820\nFwMark = 0x1\n\n" + "\n".join(
        f"[Peer]\nPublicKey = {key}\nAllowedIPs = 10.64.2.{n}/32, fd64::2:{n}/128\n" for n, key in enumerate(real)
    )
    assert operator.run(text) == 0
    assert [entry["public_key"] for entry in operator.peers()] == real
