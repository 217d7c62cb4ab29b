"""The command line as its users meet it: exit statuses, one line for an error, one object for `--json`."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from jetplane.cli.main import main

KEYS = [base64.b64encode(bytes([n]) * 32).decode() for n in range(3)]

CONFIG = """
run_directory = "run"
[uplink]
interface = "eth0"
[exit]
ipv4 = ["203.0.113.10"]
[[tunnel]]
name = "jet0"
listen_port = 51820
private_key_file = "jet0.key"
addresses = ["10.64.0.1/16"]
[peers]
path = "peers.toml"
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "jetplane.toml").write_text(CONFIG)
    (tmp_path / "peers.toml").write_text("")
    return str(tmp_path / "jetplane.toml")


def _run(*arguments: str) -> int:
    """Exit status of a command."""
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_peers_are_added_listed_and_removed(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    until = ("--expires-at", "2027-01-31T13:00:00+01:00", "--no-statistics", "--restricted")
    assert _run("peers", "add", KEYS[0], "--allowed-ip", "10.64.0.2", "--config", config) == 0
    assert "the controller is not running: this takes effect when it starts" in capsys.readouterr().err
    assert _run("peers", "add", KEYS[1], "--allowed-ip", "10.64.0.3/32", "--config", config, "--json", *until) == 0
    assert _run("peers", "list", "--config", config, "--json") == 0
    *_, added, listed = capsys.readouterr().out.splitlines()
    assert json.loads(added) == {"file": str(Path(config).parent / "peers.toml"), "count": 1, "running": False}
    assert json.loads(listed)["peers"] == [
        {
            "public_key": KEYS[0],
            "allowed_ips": ["10.64.0.2/32"],
            "tunnel": "jet0",
            "expires_at": None,
            "statistics": True,
            "restricted": False,
        },
        {
            "public_key": KEYS[1],
            "allowed_ips": ["10.64.0.3/32"],
            "tunnel": "jet0",
            "expires_at": "2027-01-31T12:00:00Z",
            "statistics": False,
            "restricted": True,
        },
    ]
    assert _run("peers", "remove", KEYS[0], "--config", config) == 0
    assert _run("peers", "list", "--config", config) == 0
    shown = capsys.readouterr().out
    assert KEYS[1] in shown.replace("\n", "")
    assert "restric" in shown  # however narrow the terminal
    assert KEYS[0] not in shown.replace("\n", "")


def test_flags_of_a_record_are_set_and_lifted(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    def listed() -> list[tuple[bool, bool]]:
        capsys.readouterr()
        assert _run("peers", "list", "--config", config, "--json") == 0
        return [(peer["restricted"], peer["statistics"]) for peer in json.loads(capsys.readouterr().out)["peers"]]

    for number in (0, 1):
        assert _run("peers", "add", KEYS[number], "--allowed-ip", f"10.64.0.{number + 2}", "--config", config) == 0
    assert _run("peers", "set", *KEYS[:2], "--restricted", "--no-statistics", "--config", config) == 0
    assert listed() == [(True, False), (True, False)]
    assert _run("peers", "set", KEYS[1], "--no-restricted", "--config", config) == 0
    assert listed() == [(True, False), (False, False)]
    assert _run("peers", "set", KEYS[1], "--statistics", "--config", config, "--json") == 0
    file = str(Path(config).parent / "peers.toml")
    assert json.loads(capsys.readouterr().out) == {"files": [file], "count": 1, "running": False}
    assert listed() == [(True, False), (False, True)]


def test_flags_from_nats_are_set_where_the_record_is(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(config)
    text = path.read_text().replace('path = "peers.toml"', 'source = "nats"')
    path.write_text(text + '[nats]\nservers = ["nats://127.0.0.1:4222"]\nbucket = "b"\n')
    assert _run("peers", "set", KEYS[0], "--restricted", "--config", config) == 1
    assert (
        "peers come from nats, not from this node's files (change them where they come from" in capsys.readouterr().err
    )


def test_a_preshared_key_comes_from_a_file_never_from_an_argument(config: str, tmp_path: Path) -> None:
    secret = tmp_path / "psk"
    secret.write_text(KEYS[2] + "\n")
    add = (
        "peers",
        "add",
        KEYS[0],
        "--allowed-ip",
        "10.64.0.2",
        "--config",
        config,
        "--preshared-key-file",
        str(secret),
    )
    assert _run(*add) == 0
    assert KEYS[2] in (tmp_path / "peers.toml").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("peers", "add", "nokey", "--allowed-ip", "10.64.0.2"), 1, "public_key: not base64"),
        (("peers", "add", KEYS[0], "--allowed-ip", "10.65.0.2"), 1, "allowed_ips: in no tunnel's prefix"),
        (("peers", "add", KEYS[0]), 2, "Missing option '--allowed-ip'"),
        (("peers", "remove", KEYS[0]), 1, "no peer with this public key"),
        (("peers", "set", KEYS[0], "--restricted"), 1, "no peer with this public key"),
        (("peers", "set", "nokey", "--restricted"), 1, "public_key: not base64"),
        (("peers", "set", KEYS[0]), 2, "nothing to set: give --restricted"),
        (("peers", "add", KEYS[0], "--allowed-ip", "10.64.0.2", "--expires-at", "soon"), 1, "expected a time with its"),
        (("status",), 1, "no node runs here"),
        (("reload",), 1, "no controller listens (start it: jetplane run)"),
        (("drain",), 1, "no controller listens"),
        (("undrain",), 1, "no controller listens"),
        (("sessions",), 1, "no controller listens"),
        (("peers", "forget", KEYS[0]), 1, "no peer with this public key"),
        (("peers", "forget", "nokey"), 1, "public_key: not base64"),
        (("fly",), 2, "No such command 'fly'"),
        (("check", "--config", "/nonexistent.toml"), 1, "/nonexistent.toml: cannot be read"),
    ],
)
def test_an_error_is_told_on_standard_error_with_its_exit_status(
    config: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int, says: str
) -> None:
    takes_config = arguments[0] not in ("fly", "check")
    assert _run(*arguments, *(("--config", config) if takes_config else ())) == status
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""
    if status == 1:
        assert len(said.err.strip().splitlines()) == 1


def test_what_nobody_foresaw_is_told_without_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    from jetplane.cli.main import _say_where_not_what

    try:
        raise KeyError("canary-key-of-a-peer")
    except KeyError as error:
        _say_where_not_what(type(error), error, error.__traceback__)
    said = capsys.readouterr().err
    assert "KeyError at test_cli.py:" in said
    assert "canary" not in said
