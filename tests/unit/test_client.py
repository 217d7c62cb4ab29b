"""What subscribers get: a file that wg-quick reads, a QR code that a camera reads."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
import zxingcpp
from PIL import Image

from jetplane.cli.main import main
from jetplane.client import NO_PRIVATE_KEY
from jetplane.endpoint import Endpoint
from jetplane.errors import ConfigurationError

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
[peers]
path = "peers.toml"
[client]
endpoint = "exit.example"
dns = ["10.64.0.1", "fd64::1"]
entries = { paris = "paris.example:443" }
"""


def _wg(*arguments: str, text: str = "") -> str:
    return subprocess.run(["wg", *arguments], input=text, capture_output=True, text=True, check=True).stdout.strip()


class Operator:
    """A directory with a node's files, and one peer whose private key the operator also has."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "jetplane.toml").write_text(CONFIG)
        self.node = self.key("jet0.key")
        self.key("alice.key")
        self.peer = _wg("pubkey", text=(directory / "alice.key").read_text())
        self.preshared = _wg("genpsk")
        (directory / "peers.toml").write_text(
            f'[[peer]]\npublic_key = "{self.peer}"\nallowed_ips = ["10.64.0.2", "fd64::2"]\n'
            f'preshared_key = "{self.preshared}"\n'
        )

    def key(self, name: str) -> str:
        file = self.directory / name
        file.touch(mode=0o600)
        file.write_text(_wg("genkey") + "\n")
        return _wg("pubkey", text=file.read_text())

    def run(self, *arguments: str) -> int:
        try:
            main(("peers", "client-config", "--config", str(self.directory / "jetplane.toml"), *arguments))
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


def test_the_file_is_what_wg_quick_reads(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    private = operator.directory / "alice.key"
    assert operator.run(operator.peer, "--private-key-file", str(private)) == 0
    text = capsys.readouterr().out
    assert text.splitlines() == [
        "[Interface]",
        f"PrivateKey = {private.read_text().strip()}",
        "Address = 10.64.0.2/32, fd64::2/128",
        "DNS = 10.64.0.1, fd64::1",
        "MTU = 1420",
        "",
        "[Peer]",
        f"PublicKey = {operator.node}",
        f"PresharedKey = {operator.preshared}",
        "AllowedIPs = 0.0.0.0/0, ::/0",
        "Endpoint = exit.example:51820",
    ]
    file = operator.directory / "jettest.conf"
    file.touch(mode=0o600)
    file.write_text(text)
    stripped = subprocess.run(["wg-quick", "strip", file], capture_output=True, text=True, check=True).stdout
    assert f"PublicKey = {operator.node}" in stripped
    assert "Address" not in stripped


def test_without_a_resolver_named_the_nodes_own_is_used(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    settings = operator.directory / "jetplane.toml"
    for service, line in (("true", "DNS = 10.64.0.1, fd64::1"), ("false", "MTU = 1420")):
        text = CONFIG.replace('dns = ["10.64.0.1", "fd64::1"]', "") + f"[dns]\nservice = {service}\n"
        settings.write_text(text)
        assert operator.run(operator.peer) == 0
        assert capsys.readouterr().out.splitlines()[3] == line


def test_without_the_private_key_a_line_says_where_it_goes(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert operator.run(operator.peer) == 0
    assert NO_PRIVATE_KEY in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--entry", "paris"), "Endpoint = paris.example:443"),
        (("--entry", "[2001:db8::9]:51821"), "Endpoint = [2001:db8::9]:51821"),
        (("--endpoint", "192.0.2.1"), "Endpoint = 192.0.2.1:51820"),
        (("--endpoint", "2001:db8::1"), "Endpoint = [2001:db8::1]:51820"),
        (("--endpoint", "exit.example:1000"), "Endpoint = exit.example:1000"),
        (("--dns", "192.0.2.53"), "DNS = 192.0.2.53"),
        (("--mtu", "1280"), "MTU = 1280"),
        (("--persistent-keepalive", "25"), "PersistentKeepalive = 25"),
    ],
)
def test_an_option_replaces_what_the_configuration_says(
    operator: Operator, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], line: str
) -> None:
    assert operator.run(operator.peer, *options, "--json") == 0
    assert line in json.loads(capsys.readouterr().out)["config"].splitlines()


@pytest.mark.parametrize("name", ["alice.png", "alice.svg"])
def test_the_picture_is_for_the_operator_only(operator: Operator, name: str) -> None:
    picture = operator.directory / name
    private = operator.directory / "alice.key"
    assert operator.run(operator.peer, "--private-key-file", str(private), "--qr-file", str(picture)) == 0
    assert picture.stat().st_mode & 0o777 == 0o600


def test_a_camera_reads_the_same_file(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    picture = operator.directory / "alice.png"
    private = operator.directory / "alice.key"
    assert operator.run(operator.peer, "--private-key-file", str(private), "--qr-file", str(picture)) == 0
    text = capsys.readouterr().out
    with Image.open(picture) as image:
        assert _read(image.convert("L")) == text


def test_the_terminal_shows_the_same_code(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    private = str(operator.directory / "alice.key")
    assert operator.run(operator.peer, "--private-key-file", private) == 0
    text = capsys.readouterr().out
    assert operator.run(operator.peer, "--private-key-file", private, "--qr") == 0
    assert _read(_image(capsys.readouterr().out)) == text


def _read(image: Image.Image) -> str:
    """The one QR code in a picture. Of other kinds none is asked for: chance draws bars that look like one."""
    (code,) = zxingcpp.read_barcodes(image, formats=zxingcpp.BarcodeFormat.QRCode)
    return str(code.text)


def _image(drawn: str) -> Image.Image:
    """The half blocks of a terminal with a dark background as pixels, each four pixels wide."""
    halves = {" ": (0, 0), "▀": (255, 0), "▄": (0, 255), "█": (255, 255)}
    rows = [line for line in drawn.splitlines() if line]
    pixels = bytes(halves[c][half] for line in rows for half in (0, 1) for c in line)
    small = Image.frombytes("L", (len(rows[0]), 2 * len(rows)), pixels)
    return small.resize((4 * small.width, 4 * small.height), Image.Resampling.NEAREST)


REFUSED = (
    ((base64.b64encode(bytes(32)).decode(),), "no peer with this public key"),
    (("PEER", "--qr"), "without the private key"),
    (("PEER", "--private-key-file", "jet0.key"), "is not the private key of this peer"),
    (("PEER", "--private-key-file", "missing.key"), "cannot be read"),
    (("PEER", "--private-key-file", "alice.key", "--qr-file", "alice.gif"), "must end in .svg or .png"),
    (("PEER", "--private-key-file", "alice.key", "--qr-file", "no/where.png"), "cannot be written"),
    (("PEER", "--entry", "rome"), "expected host:port"),
    (("PEER", "--endpoint", "a:99999"), "expected host:port"),
)


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(
    operator: Operator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(operator.directory)
    assert operator.run(*(operator.peer if a == "PEER" else a for a in arguments)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert operator.peer not in said.err


@pytest.mark.parametrize("text", ["", "host", "host:", "host:0", "host:65536", "::1", "[::1]", "a b:1", "[::1]x:1"])
def test_an_endpoint_without_a_usable_port_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected host:port"):
        Endpoint.parse(text)
