"""Files as the running node follows them: what is wrong is refused alone, what is half-written is not applied."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetplane import config
from jetplane.config import Config
from jetplane.errors import PeerError
from jetplane.model import PublicKey, Rate
from jetplane.readable import readable
from jetplane.sources import open_source
from jetplane.sources.interface import Change, Source, refusals_problem


def _key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32))


def _record(number: int, **fields: object) -> dict[str, object]:
    return {"public_key": _key(number).text(), "allowed_ips": [f"10.64.1.{number}"], **fields}


def _config(path: Path, up_mbit: int = 8) -> Config:
    tree = {
        "uplink": {"interface": "eth0"},
        "exit": {"ipv4": ["203.0.113.10"]},
        "tunnel": [{"name": "jet0", "listen_port": 1, "private_key_file": "k", "addresses": ["10.64.0.1/16"]}],
        "peers": {"path": str(path)},
        "plan": {"standard": {"up_mbit": up_mbit}},
    }
    return config.parse(tree, path.parent / "jetplane.toml")


class Followed:
    """A directory of peers and the source that follows it."""

    def __init__(self, path: Path) -> None:
        self.path, self.source = path, open_source(_config(path))

    def write(self, name: str, *records: dict[str, object]) -> Path:
        """Replace a file as a careful writer does."""
        new = self.path / f".{name}.new"
        lines = name.endswith(".jsonl")
        new.write_text("".join(json.dumps(r) + "\n" for r in records) if lines else json.dumps({"peer": records}))
        return new.replace(self.path / name)

    def take(self) -> Change | None:
        """What a controller gets that waits for the descriptor; None when there is nothing to wait for."""
        if not readable(self.source, 0):
            return None
        change = self.source.take()
        assert not readable(self.source, 0), "taken, but still readable"
        return change

    def numbers(self) -> dict[int, bool]:
        """Number of the key → whether it came or changed (else it is gone)."""
        change = self.take()
        return {int.from_bytes(key): peer is not None for key, peer in change.peers.items()} if change else {}


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    (tmp_path / "peers").mkdir()
    made = Followed(tmp_path / "peers")
    with made.source:
        yield made


def test_the_first_change_is_whole_and_those_after_say_what_differs(followed: Followed) -> None:
    followed.write("a.json", _record(1), _record(2))
    first = followed.take()
    assert first
    assert (first.whole, first.peers.keys(), first.refused.total) == (True, {_key(1), _key(2)}, 0)
    assert followed.take() is None
    followed.write("a.json", _record(1), _record(3))
    followed.write("b.jsonl", _record(4))
    second = followed.take()
    assert second
    assert not second.whole
    assert second.revision > first.revision
    assert {key: peer is not None for key, peer in second.peers.items()} == {
        _key(2): False,
        _key(3): True,
        _key(4): True,
    }
    (followed.path / "b.jsonl").unlink()
    assert followed.numbers() == {4: False}
    (followed.path / "notes.txt").write_text("not ours")
    followed.write("a.json", _record(1), _record(3))
    assert followed.numbers() == {}


def test_a_bad_record_stops_no_other(followed: Followed) -> None:
    followed.write("a.json", _record(1), {"allowed_ips": []}, _record(2, allowed_ips=["10.64.1.1"]), _record(3))
    (followed.path / "b.jsonl").write_text(f"{json.dumps(_record(4))}\n\nnonsense\n")
    change = followed.take()
    assert change
    assert change.peers.keys() == {_key(1), _key(3), _key(4)}
    assert dict(change.refused.counts) == {"record": 2, "duplicate": 1}
    assert [str(refusal).removeprefix(f"{followed.path}/") for refusal in change.refused.first] == [
        "a.json: peer[1]: Object missing required field `public_key`",
        f"a.json: peer[2]: allowed_ips: also owned by {followed.path}/a.json: peer[0]",
        "b.jsonl: line 3: is not JSON",
    ]
    assert refusals_problem(change.refused).endswith("`public_key` and 2 more: not applied")
    followed.write("a.json", _record(2, allowed_ips=["10.64.1.1"]), _record(3))
    assert followed.numbers() == {1: False, 2: True}, "who waited for the address has it now"


def test_a_file_that_comes_between_changes_the_order_of_all_behind_it(followed: Followed) -> None:
    """Who claims first is decided by the names of the files, whichever came first."""
    followed.write("c.json", _record(1), _record(2))
    followed.write("e.json", {}, _record(5))
    assert followed.numbers() == {1: True, 2: True, 5: True}
    (followed.path / "e.json").write_text("{")
    followed.write("d.json", _record(3), _record(4, allowed_ips=["10.64.1.5"]))
    change = followed.take()
    assert change
    assert {key: peer is not None for key, peer in change.peers.items()} == {
        _key(3): True,
        _key(4): True,
        _key(5): False,
    }
    places = [str(refusal).removeprefix(f"{followed.path}/") for refusal in change.refused.first]
    assert places[1:] == [
        "e.json: peer[0]: Object missing required field `allowed_ips`",
        f"e.json: peer[1]: allowed_ips: also owned by {followed.path}/d.json: peer[1]",
    ]
    followed.write("b.json", _record(6, allowed_ips=["10.64.1.2"]))
    assert followed.numbers() == {2: False, 6: True}
    (followed.path / "c.json").unlink()
    (followed.path / "d.json").unlink()
    assert followed.numbers() == {1: False, 3: False, 4: False, 5: True}
    (followed.path / "b.json").unlink()
    assert followed.numbers() == {6: False}


def test_no_refusal_says_a_key_or_an_address(followed: Followed) -> None:
    secret = base64.b64encode(b"s" * 32).decode()
    bad = [
        _record(1, **{secret: 1}),
        _record(2, plan=secret),
        _record(3, allowed_ips=[secret]),
        _record(4, public_key=3),
    ]
    bad += [_record(5, allowed_ips=["192.0.2.77"]), _record(6, preshared_key=secret + "A"), _record(7), _record(7)]
    followed.write("a.json", *bad)
    change = followed.take()
    assert change
    assert (len(change.peers), change.refused.total) == (1, 7)
    told = " ".join(map(str, change.refused.first)) + repr(change)
    for hidden in (secret, "10.64.1", "192.0.2", *(_key(n).text() for n in range(1, 8))):
        assert hidden not in told


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", '{"peer": ['), ("a.toml", "[[peer]\n"), ("a.jsonl", json.dumps(_record(2))), ("a.json", '{"x": 1}')],
)
def test_a_file_that_is_none_keeps_its_old_records(followed: Followed, name: str, text: str) -> None:
    toml = f'[[peer]]\npublic_key = "{_key(1).text()}"\nallowed_ips = ["10.64.1.1"]\n'
    if name.endswith("toml"):
        (followed.path / name).write_text(toml)
    else:
        followed.write(name, _record(1))
    assert followed.numbers() == {1: True}
    (followed.path / name).write_text(text)
    followed.write("b.json", _record(3))
    change = followed.take()
    assert change
    assert change.peers.keys() == {_key(3)}, "the others go on"
    assert [(refusal.kind, refusal.place) for refusal in change.refused.first] == [("file", str(followed.path / name))]
    assert name in followed.source.problem() and "stay as they were" in followed.source.problem()
    (followed.path / name).unlink()
    change = followed.take()
    assert change
    assert dict(change.peers) == {_key(1): None}
    assert change.refused.total == 0
    assert followed.source.problem() == ""


def test_a_file_is_not_read_while_somebody_writes_it(followed: Followed) -> None:
    """Half of this file would look whole: only the kernel knows that its writer is not done."""
    followed.write("a.jsonl", _record(1), _record(2))
    assert followed.numbers() == {1: True, 2: True}
    with (followed.path / "a.jsonl").open("w") as half:
        half.write(json.dumps(_record(1)) + "\n")
        half.flush()
        followed.write("b.json", _record(3))
        assert followed.numbers() == {3: True}
        followed.source.follow(_config(followed.path), frozenset())
        assert followed.numbers() == {}, "not even when every file is read again"
        assert "is being written" in followed.source.problem()
    assert followed.numbers() == {2: False}
    assert followed.source.problem() == ""


def test_nothing_is_known_until_every_file_could_be_read(followed: Followed) -> None:
    followed.write("a.json", _record(1))
    (followed.path / "b.json").write_text("{")
    assert followed.take() is None
    assert "b.json: is not JSON" in followed.source.problem() and "left alone" in followed.source.problem()
    followed.write("b.json", _record(2))
    change = followed.take()
    assert change
    assert (change.whole, change.peers.keys()) == (True, {_key(1), _key(2)})


def test_a_place_that_vanishes_takes_no_peers_along(followed: Followed) -> None:
    followed.write("a.json", _record(1))
    assert followed.numbers() == {1: True}
    aside = followed.path.rename(followed.path.with_name("aside"))
    assert followed.numbers() == {}
    assert "is not there" in followed.source.problem()
    followed.path.mkdir()
    (aside / "a.json").rename(followed.path / "a.json")
    followed.write("b.json", _record(2))
    assert followed.numbers() == {2: True}
    assert followed.source.problem() == ""


def test_one_file_is_followed_when_it_is_replaced_and_missed_when_it_goes(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    source: Source = open_source(_config(file))
    with source:
        assert source.take() is None
        assert "is not there" in source.problem()
        for number, numbers in ((1, {_key(1)}), (2, {_key(1), _key(2)})):
            (tmp_path / "new").write_text(json.dumps({"peer": [_record(number)]}))
            (tmp_path / "new").rename(file)
            change = source.take()
            assert change
            assert change.peers.keys() == numbers
        file.unlink()
        change = source.take()
        assert change
        assert not change.peers
        assert dict(change.refused.counts) == {"file": 1}


def test_the_nodes_own_key_and_a_new_plan_are_followed(followed: Followed) -> None:
    followed.write("a.json", _record(1), _record(2))
    assert followed.numbers() == {1: True, 2: True}
    followed.source.follow(_config(followed.path, up_mbit=16), frozenset({_key(2)}))
    change = followed.take()
    assert change
    peer = change.peers[_key(1)]
    assert peer
    assert peer.rate == Rate(2_000_000, 0)
    assert change.peers[_key(2)] is None
    assert dict(change.refused.counts) == {"own_key": 1}


def test_a_place_that_cannot_be_watched_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="cannot be watched"):
        open_source(_config(tmp_path / "nowhere" / "peers.json"))
