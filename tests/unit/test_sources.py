"""Peers from files: read whole or not at all, edited without losing the operator's words."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from jetplane import config
from jetplane.config import Config
from jetplane.errors import PeerError
from jetplane.model import PublicKey
from jetplane.sources import files
from jetplane.sources.records import Placed, Record, expiry, wanted_by_tunnel


def _key(number: int) -> str:
    return base64.b64encode(number.to_bytes(32)).decode()


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    tree = {
        "uplink": {"interface": "eth0"},
        "exit": {"ipv4": ["203.0.113.10"]},
        "tunnel": [
            {"name": "jet0", "listen_port": 1, "private_key_file": "k", "addresses": ["10.64.0.1/16", "fd64::1/64"]},
            {"name": "jet1", "listen_port": 2, "private_key_file": "k", "addresses": ["10.65.0.1/16"]},
        ],
        "peers": {"path": str(tmp_path / "peers"), "max": 3},
        "plan": {"standard": {"up_mbit": 8}, "fast": {}},
    }
    (tmp_path / "peers").mkdir()
    return config.parse(tree, tmp_path / "jetplane.toml")


def _read(settings: Config) -> dict[str, int]:
    wanted = wanted_by_tunnel(files.read(settings.peers.path), settings)
    return {name: len(peers) for name, peers in wanted.items()}


def test_toml_and_json_files_of_a_directory_are_read_together(settings: Config) -> None:
    (settings.peers.path / "a.toml").write_text(
        f'[[peer]]\npublic_key = "{_key(1)}"\nallowed_ips = ["10.64.0.2/32", "fd64::2"]\n'
    )
    record = {
        "public_key": _key(2),
        "allowed_ips": ["10.65.0.2"],
        "plan": "fast",
        "persistent_keepalive": 25,
        "statistics": False,
    }
    (settings.peers.path / "b.json").write_text(json.dumps({"peer": [record]}))
    third = {
        "public_key": _key(3),
        "allowed_ips": ["10.65.0.3"],
        "expires_at": "2027-01-31T00:00:00.9+01:00",
        "restricted": True,
    }
    (settings.peers.path / "c.jsonl").write_text(f"\n{json.dumps(third)}\n")
    (settings.peers.path / ".c.toml").write_text("half-written")
    (settings.peers.path / "notes.txt").write_text("not ours")
    assert _read(settings) == {"jet0": 1, "jet1": 2}
    *_, second, last = wanted_by_tunnel(files.read(settings.peers.path), settings)["jet1"].values()
    assert last.expires_at == 1801350000
    assert (second.statistics, second.restricted) == (False, False)
    assert (last.statistics, last.restricted) == (True, True)


RECORD = {"public_key": _key(1), "allowed_ips": ["10.64.0.2/32"]}
BAD = [
    ([RECORD, RECORD], "a.json: peer[1]: public_key: also owned by {file}: peer[0]"),
    ([RECORD, RECORD | {"public_key": _key(2)}], "a.json: peer[1]: allowed_ips: also owned by {file}: peer[0]"),
    ([RECORD | {"allowed_ips": ["10.64.0.2", "10.64.0.2/32"]}], "peer[0]: allowed_ips: holds an address twice"),
    ([RECORD | {"public_key": "short"}], "a.json: peer[0]: public_key: not base64"),
    ([RECORD | {"allowed_ips": []}], "a.json: peer[0]: allowed_ips: is empty"),
    ([RECORD | {"allowed_ips": ["10.64.0.0/24"]}], "a.json: peer[0]: allowed_ips: wider than one address"),
    ([RECORD | {"allowed_ips": ["192.0.2.1"]}], "a.json: peer[0]: allowed_ips: in no tunnel's prefix"),
    ([RECORD | {"allowed_ips": ["10.64.0.1"]}], "a.json: peer[0]: allowed_ips: is the node's own address on jet0"),
    ([RECORD | {"allowed_ips": ["10.64.0.2", "10.65.0.2"]}], "peer[0]: allowed_ips: spread over tunnels jet0, jet1"),
    ([RECORD | {"plan": "gold"}], "peer[0]: plan = 'gold': expected one of fast, standard"),
    ([RECORD | {"endpoint": "x"}], "a.json: peer[0]: Object contains unknown field `endpoint`"),
    ([RECORD | {"persistent_keepalive": 70000}], "peer[0]: Expected `int` <= 65535 - at `persistent_keepalive`"),
    ([RECORD | {_key(1): "x"}], "a.json: peer[0]: Object contains an unknown field"),
    ([RECORD | {"plan": _key(1)}], "a.json: peer[0]: plan: expected one of fast, standard"),
    ([RECORD | {"statistics": "no"}], "peer[0]: Expected `bool`, got `str` - at `statistics`"),
    ([RECORD | {"expires_at": "tomorrow"}], "peer[0]: Invalid RFC3339 encoded datetime - at `expires_at`"),
    ([RECORD | {"expires_at": "2027-01-31T00:00:00"}], "Expected `datetime` with a timezone component"),
    ([RECORD | {"preshared_key": "AAAA"}], "peer[0]: preshared_key: 3 bytes instead of 32"),
    ([{"public_key": _key(n), "allowed_ips": [f"10.64.0.{n + 2}"]} for n in range(4)], "4 peers, but peers.max is 3"),
]


@pytest.mark.parametrize(("peers", "message"), BAD, ids=[m[-40:] for _, m in BAD])
def test_a_bad_record_is_named_by_its_place(settings: Config, peers: list[object], message: str) -> None:
    file = settings.peers.path / "a.json"
    file.write_text(json.dumps({"peer": peers}))
    with pytest.raises(PeerError) as caught:
        _read(settings)
    assert message.format(file=file) in str(caught.value)
    assert _key(1) not in str(caught.value) and "10.64.0.2" not in str(caught.value)


HALF = [
    ("a.toml", "[[peer]\n"),
    ("a.json", '{"peer": ['),
    ("a.json", "[]"),
    ("a.json", '{"peers": []}'),
    ("a.toml", "\x00"),
    ("a.toml", "peer = 1"),
    ("a.jsonl", '{"public_key": "'),
    ("a.jsonl", json.dumps(RECORD)),
]


@pytest.mark.parametrize(("name", "text"), HALF)
def test_a_half_written_file_is_refused_whole(settings: Config, name: str, text: str) -> None:
    (settings.peers.path / name).write_text(text)
    with pytest.raises(PeerError, match="not applied"):
        _read(settings)


def test_a_missing_path_says_so(settings: Config) -> None:
    with pytest.raises(PeerError, match="is not there"):
        files.read(settings.peers.path / "gone.toml")


NAMES = ["peers.toml", "peers.json", "peers.jsonl", "."]


@pytest.mark.parametrize("name", NAMES)
def test_a_peer_that_is_added_is_read_and_one_that_is_removed_is_gone(settings: Config, name: str) -> None:
    path = settings.peers.path / name
    if name != ".":
        path.write_text("")
    check = lambda placed: wanted_by_tunnel(placed, settings)  # noqa: E731
    ends = expiry("2027-01-31T00:00:00Z")
    for numbers in ((1,), (2, 3)):
        new = (Record(public_key=_key(n), allowed_ips=(f"10.64.0.{n + 1}",), expires_at=ends) for n in numbers)
        files.add(path, new, check)
    assert [item.record.public_key for item in files.read(path)] == [_key(1), _key(2), _key(3)]
    assert {item.record.expires_at for item in files.read(path)} == {ends}
    files.remove(path, [PublicKey.parse(_key(1)), PublicKey.parse(_key(3))])
    assert [item.record.public_key for item in files.read(path)] == [_key(2)]
    with pytest.raises(files.UnknownPeer, match="no peer with this public key"):
        files.remove(path, [PublicKey.parse(_key(1))])
    with pytest.raises(files.UnknownPeer, match="1 of the public keys: no peer"):
        files.remove(path, [PublicKey.parse(_key(1)), PublicKey.parse(_key(2))])
    assert len(files.read(path)) == 1, "all or none"


@pytest.mark.parametrize("name", ["peers.toml", "peers.json", "peers.jsonl"])
def test_a_key_can_be_removed_whatever_else_is_wrong(settings: Config, name: str) -> None:
    file = settings.peers.path / name
    bad, good = {"public_key": 5, "note": "keep me"}, RECORD
    match file.suffix:
        case ".toml":
            file.write_text(
                f'[[peer]]\npublic_key = 5\nnote = "keep me"\n[[peer]]\npublic_key = "{_key(1)}"\n'
                'allowed_ips = ["10.64.0.2"]\n'
            )
        case ".json":
            file.write_text(json.dumps({"peer": [bad, good]}))
        case ".jsonl":
            file.write_text(f"{json.dumps(bad)}\n{json.dumps(good)}\n")
    (settings.peers.path / "broken.json").write_text("{")
    assert files.remove(settings.peers.path, [PublicKey.parse(_key(1))]) == (file,)
    assert "keep me" in file.read_text() and _key(1) not in file.read_text()
    with pytest.raises(PeerError, match=r"broken\.json: is not JSON"):
        files.remove(settings.peers.path, [PublicKey.parse(_key(1))])


def test_a_file_that_no_table_can_follow_is_not_changed(settings: Config) -> None:
    file = settings.peers.path / "peers.toml"
    file.write_text(before := f'peer = [{{public_key = "{_key(1)}", allowed_ips = ["10.64.0.2"]}}]\n')
    with pytest.raises(PeerError, match="no table can follow"):
        files.add(file, [Record(public_key=_key(2), allowed_ips=("10.64.0.3",))], lambda _: None)
    assert file.read_text() == before


def test_editing_keeps_comments_and_mode(settings: Config) -> None:
    file = settings.peers.path / "peers.toml"
    file.write_text(f'# staff\n[[peer]]\npublic_key = "{_key(1)}" # the boss\nallowed_ips = ["10.64.0.2/32"]\n')
    file.chmod(0o640)
    files.add(file, [Record(public_key=_key(2), allowed_ips=("10.64.0.3",))], lambda _: None)
    files.remove(file, [PublicKey.parse(_key(2))])
    assert "# staff" in file.read_text() and "# the boss" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o640


FLAGGED = {
    "peers.toml": f"""# staff
[[peer]]
public_key = "{_key(1)}" # the boss
allowed_ips = ["10.64.0.2/32"]
""",
    "inline.toml": f"""# staff
peer = [{{ public_key = "{_key(1)}", allowed_ips = ["10.64.0.2/32"] }}] # the boss
""",
    "peers.json": json.dumps({"peer": [RECORD]}),
    "peers.jsonl": f"\n{json.dumps(RECORD)}\n",
}


@pytest.mark.parametrize("name", FLAGGED)
def test_a_flag_is_set_and_lifted_and_nothing_else_changes(settings: Config, name: str) -> None:
    key, file = PublicKey.parse(_key(1)), settings.peers.path / name
    other = settings.peers.path / "other.jsonl"
    other.write_text(text := json.dumps(RECORD | {"public_key": _key(2), "allowed_ips": ["10.64.0.9"]}) + "\n")
    file.write_text(FLAGGED[name])
    before = next(placed for placed in files.read(file))
    assert files.change(settings.peers.path, [key], {"restricted": True, "statistics": False}) == (file,)
    (after,) = files.read(file)
    assert after == replace(before, record=msgspec.structs.replace(before.record, restricted=True, statistics=False))
    assert all(word in file.read_text() for word in ("# staff", "# the boss") if word in FLAGGED[name])
    files.change(settings.peers.path, [key], {"restricted": False, "statistics": True})
    assert files.read(file) == (before,)
    assert other.read_text() == text
    with pytest.raises(files.UnknownPeer, match="1 of the public keys: no peer"):
        files.change(settings.peers.path, [key, PublicKey.parse(_key(3))], {"restricted": True})
    assert files.read(file) == (before,), "all or none"


def test_a_refused_peer_changes_nothing(settings: Config) -> None:
    file = settings.peers.path / "peers.toml"
    file.write_text(before := f'[[peer]]\npublic_key = "{_key(1)}"\nallowed_ips = ["10.64.0.2/32"]\n')
    thief = Record(public_key=_key(2), allowed_ips=("10.64.0.2",))
    with pytest.raises(PeerError, match="the new peer: allowed_ips: also owned by"):
        files.add(file, [thief], lambda placed: wanted_by_tunnel(placed, settings))
    assert file.read_text() == before
    assert {path.name for path in settings.peers.path.iterdir()} == {".peers.toml.lock", "peers.toml"}


def test_a_record_never_shows_its_key() -> None:
    placed = Placed(Record(public_key=_key(7), allowed_ips=("10.64.0.9",)), "peers.toml: peer[0]")
    assert _key(7) not in repr(placed) and "10.64.0.9" not in repr(placed)
