"""The admin API over its real socket: what it answers, what it refuses, and that nobody can stall it."""

from __future__ import annotations

import json
import os
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from jetplane.admin import client, server
from jetplane.admin.api import Api
from jetplane.admin.edits import Edits
from jetplane.admin.place import FILE, reachable
from jetplane.admin.server import MAX_BODY, MAX_CLIENTS, Server
from jetplane.errors import ConfigurationError, JetplaneError, KernelError, PeerError
from jetplane.model import InnerAddress, Peer, PublicKey
from jetplane.schedule import Schedule

KEY = PublicKey(bytes(range(32)))
PEER = Peer(KEY, (InnerAddress.parse("10.64.0.2"),), expires_at=1_800_000_000)

CONFIG = """
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


class Pretender:
    """A controller without a node: it remembers what it was told."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.known = True
        self.files = True
        self.trouble: JetplaneError | None = None

    def report(self) -> Mapping[str, Any]:
        return {"ready": True, "padding": "x" * 3_000_000}

    def reload(self) -> Mapping[str, Any]:
        if self.trouble:
            raise self.trouble
        return {"generation": 7}

    def drain(self, tunnels: Iterable[str]) -> None:
        self.done.append(("drain", tuple(tunnels)))

    def undrain(self, tunnels: Iterable[str]) -> None:
        self.done.append(("undrain", tuple(tunnels)))

    def sessions(self, answer: Callable[[Mapping[str, Any]], None]) -> None:
        answer({"draining": [], "sessions": {"jet0": 3}})

    def forget(self, public_key: PublicKey) -> bool:
        self.done.append(("forget", public_key))
        return self.known

    def peers(self) -> Iterable[tuple[Peer, str]]:
        return [(PEER, "jet0")]

    def take_peers(self) -> None:
        self.done.append("take")

    def refuse_unless_files(self) -> None:
        if not self.files:
            raise PeerError("peers come from nats, not from this node's files", hint="change them there")


@pytest.fixture
def pretender() -> Pretender:
    return Pretender()


@pytest.fixture
def place(root: None, tmp_path: Path) -> Path:
    """A run directory, with a configuration and a file of peers beside it."""
    (tmp_path / "jetplane.toml").write_text(CONFIG)
    (tmp_path / "peers.toml").write_text("")
    run = tmp_path / "run"
    run.mkdir(mode=0o711)
    return run


@pytest.fixture
def served(place: Path, pretender: Pretender) -> Iterator[Path]:
    """The API, in a loop like the controller's."""
    over = threading.Event()

    def loop() -> None:
        schedule = Schedule()
        with selectors.DefaultSelector() as selector:
            edits = Edits(selector, schedule.once)
            api = Api(pretender, edits, place.parent / "jetplane.toml")
            with Server(place, selector, schedule.once, api.handle):
                ready.set()
                while not over.is_set():
                    wait = schedule.run()
                    for key, _ in selector.select(0.02 if wait is None else min(wait, 0.02)):
                        key.data()
            edits.close()

    ready = threading.Event()
    thread = threading.Thread(target=loop)
    thread.start()
    assert ready.wait(5)
    yield place
    over.set()
    thread.join()
    assert not (place / FILE).exists()


def connect(place: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(10)
    with reachable(place) as address:
        made.connect(address)
    return made


def talk(place: Path, sent: bytes, *, half_close: bool = False) -> tuple[int, dict[str, Any]]:
    """Send bytes; return the status and the body of the answer."""
    with connect(place) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before it was read to the end
            connection.sendall(sent)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            status = int(answer.readline().split()[1])
            headers = dict(line.strip().lower().split(b": ", 1) for line in iter(answer.readline, b"\r\n"))
            assert headers[b"content-type"] == b"application/json"
            return status, json.loads(answer.read(int(headers[b"content-length"])))


def post(path: str, body: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)


def headed(lines: bytes) -> bytes:
    return b"POST /v1/drain HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n\r\n"


GET_STATUS = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"


def test_the_socket_is_roots_alone(served: Path) -> None:
    assert (served / FILE).stat().st_mode & 0o777 == 0o600


def test_a_long_answer_arrives_whole(served: Path) -> None:
    assert len(client.ask(served, "GET", "/v1/status")["padding"]) == 3_000_000


def test_the_description_names_every_path(place: Path, pretender: Pretender) -> None:
    page = (Path(server.__file__).parent / "API.md").read_text()
    described = set(re.findall(r"^\| `([A-Z]+ /\S+)` \|", page, re.MULTILINE))
    with selectors.DefaultSelector() as selector:
        api = Api(pretender, Edits(selector, Schedule().once), place / "none")
    assert described == {f"{method} {path}" for path, methods in api._routes.items() for method in methods}


def test_what_is_asked_is_done_and_told(served: Path, pretender: Pretender) -> None:
    assert client.ask(served, "POST", "/v1/reload") == {"generation": 7}
    assert client.ask(served, "GET", "/v1/sessions") == {"draining": [], "sessions": {"jet0": 3}}
    client.ask(served, "POST", "/v1/drain", {"tunnels": ["jet0"]})
    client.ask(served, "POST", "/v1/undrain")
    assert pretender.done == [("drain", ("jet0",)), ("undrain", ())]
    assert client.ask(served, "GET", "/v1/peers") == {
        "peers": [
            {
                "public_key": KEY.text(),
                "allowed_ips": ["10.64.0.2/32"],
                "tunnel": "jet0",
                "expires_at": "2027-01-15T08:00:00Z",
                "statistics": True,
                "restricted": False,
            }
        ]
    }


def test_peers_are_added_removed_and_forgotten_in_the_files(served: Path, pretender: Pretender) -> None:
    record = {"public_key": KEY.text(), "allowed_ips": ["10.64.0.2/32"]}
    file = served.parent / "peers.toml"
    added = client.ask(served, "POST", "/v1/peers/add", {"peers": [record]})
    assert added == {"file": str(file), "count": 1}
    assert KEY.text() in file.read_text()
    with pytest.raises(JetplaneError, match="also owned by"):
        client.ask(served, "POST", "/v1/peers/add", {"peers": [record]})
    assert client.ask(served, "POST", "/v1/forget", {"public_key": KEY.text()}) == {
        "forgotten": True,
        "record": "removed",
    }
    assert KEY.text() not in file.read_text()
    assert pretender.done == ["take", ("forget", KEY), "take"]
    with pytest.raises(JetplaneError, match="no peer with this public key"):
        client.ask(served, "POST", "/v1/peers/remove", {"public_keys": [KEY.text()]})


def test_flags_are_set_in_the_files(served: Path, pretender: Pretender) -> None:
    file = served.parent / "peers.toml"
    client.ask(
        served, "POST", "/v1/peers/add", {"peers": [{"public_key": KEY.text(), "allowed_ips": ["10.64.0.2/32"]}]}
    )
    before = file.read_text()
    wanted = {"public_keys": [KEY.text()], "restricted": True}
    assert client.ask(served, "POST", "/v1/peers/set", wanted) == {"files": [str(file)], "count": 1}
    assert file.read_text() == before + "restricted = true\n"
    assert pretender.done == ["take", "take"], "the answer comes when it has been applied"
    for body in ({"public_keys": [KEY.text()]}, {**wanted, "plan": "fast"}, {**wanted, "restricted": "yes"}):
        status, answer = talk(served, post("/v1/peers/set", json.dumps(body).encode()))
        assert (status, answer["error"]["code"]) == (400, "bad_request")
    with pytest.raises(JetplaneError, match="no peer with this public key"):
        client.ask(served, "POST", "/v1/peers/set", {**wanted, "public_keys": [PublicKey(bytes(32)).text()]})


def test_a_key_is_cut_off_even_if_its_record_cannot_be_removed(served: Path, pretender: Pretender) -> None:
    (served.parent / "peers.toml").write_text("[[peer")
    status, body = talk(served, post("/v1/forget", json.dumps({"public_key": KEY.text()}).encode()))
    assert (status, body["error"]["code"]) == (409, "record_stays")
    assert "peers.toml: is not TOML" in body["error"]["message"]
    assert pretender.done == [("forget", KEY)]


def test_a_key_that_only_the_node_knows_is_forgotten_without_a_record(served: Path) -> None:
    assert client.ask(served, "POST", "/v1/forget", {"public_key": KEY.text()})["record"] == "none"


def test_nobody_can_be_forgotten_twice(served: Path, pretender: Pretender) -> None:
    pretender.known = False
    status, body = talk(served, post("/v1/forget", json.dumps({"public_key": KEY.text()}).encode()))
    assert (status, body["error"]["code"]) == (404, "unknown_peer")
    assert KEY.text() not in json.dumps(body)


def test_peers_from_elsewhere_are_not_edited_here_but_can_be_forgotten(served: Path, pretender: Pretender) -> None:
    pretender.files = False
    for sent in (
        b"GET /v1/peers HTTP/1.1\r\nHost: x\r\n\r\n",
        post("/v1/peers/add", b'{"peers": []}'),
        post("/v1/peers/remove", b'{"public_keys": []}'),
        post("/v1/peers/set", b'{"public_keys": [], "restricted": true}'),
    ):
        status, body = talk(served, sent)
        assert (status, body["error"]["code"]) == (409, "not_file_mode")
        assert body["error"]["hint"] == "change them there"
    told = client.ask(served, "POST", "/v1/forget", {"public_key": KEY.text()})
    assert told == {"forgotten": True, "record": "held"}


def test_the_nodes_own_failure_is_told_as_one(served: Path, pretender: Pretender) -> None:
    for error, code in ((KernelError("link jet0: gone"), "kernel"), (ConfigurationError("x: bad"), "configuration")):
        pretender.trouble = error
        assert talk(served, post("/v1/reload", b"")) == (
            500,
            {"error": {"code": code, "message": str(error), "hint": ""}},
        )


def test_what_nobody_foresaw_is_told_without_what_it_says(
    served: Path, pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> bool:
        raise ZeroDivisionError(KEY.text())

    monkeypatch.setattr(pretender, "forget", fail)
    status, body = talk(served, post("/v1/forget", json.dumps({"public_key": KEY.text()}).encode()))
    assert (status, body["error"]["code"]) == (500, "unforeseen")
    assert "ZeroDivisionError at test_admin.py" in body["error"]["message"]
    assert KEY.text() not in body["error"]["message"]


BAD = {
    "no HTTP at all": (b"\0\1\2 hello\r\n\r\n", 400, "bad_http"),
    "a line that never ends": (b"GET /" + b"x" * 40_000, 400, "bad_http"),
    "headers without end": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 9_000, 400, "bad_http"),
    "no path of ours": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404, "no_such_path"),
    "a path of another version": (b"GET /v2/status HTTP/1.1\r\nHost: x\r\n\r\n", 404, "no_such_path"),
    "the wrong method": (b"DELETE /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", 405, "wrong_method"),
    "no JSON": (post("/v1/drain", b"{tunnels"), 400, "bad_json"),
    "JSON that is no UTF-8": (post("/v1/drain", b'{"tunnels": ["\xff"]}'), 400, "bad_json"),
    "another shape": (post("/v1/drain", b'{"tunnels": "jet0"}'), 400, "bad_request"),
    "an unknown field": (post("/v1/forget", b'{"public_key": "a", "force": true}'), 400, "bad_request"),
    "no key": (post("/v1/forget", b"{}"), 400, "bad_request"),
    "a key that is none": (post("/v1/forget", b'{"public_key": "c2hvcnQ="}'), 400, "bad_request"),
    "too long by its header": (headed(b"Content-Length: 99999999"), 413, "too_large"),
    "too long in the end": (
        headed(b"Transfer-Encoding: chunked") + b"%x\r\n" % (MAX_BODY + 9) + b" " * (MAX_BODY + 9),
        413,
        "too_large",
    ),
    "a length that is no number": (headed(b"Content-Length: 9a"), 400, "bad_http"),
    "a length below nothing": (headed(b"Content-Length: -9"), 400, "bad_http"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_gets_its_reason(served: Path, pretender: Pretender, name: str) -> None:
    sent, status, code = BAD[name]
    got, body = talk(served, sent)
    assert (got, body["error"]["code"]) == (status, code)
    assert body["error"].keys() == {"code", "message", "hint"}
    assert pretender.done == []
    assert client.ask(served, "GET", "/v1/sessions"), "and it goes on"


def test_who_closes_the_way_there_still_hears_the_answer(served: Path) -> None:
    assert talk(served, post("/v1/reload", b"{}"), half_close=True) == (200, {"generation": 7})


def test_a_request_cut_short_is_refused(served: Path) -> None:
    status, body = talk(served, post("/v1/reload", b"{}")[:-1], half_close=True)
    assert (status, body["error"]["code"]) == (400, "bad_http")
    with connect(served) as silent:
        silent.shutdown(socket.SHUT_WR)
        assert silent.recv(100) == b"", "who said nothing is told nothing"


def test_clients_that_hang_do_not_delay_others_and_are_cut_off(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READ_S", 0.5)
    monkeypatch.setattr(server, "WRITE_S", 0.5)
    with closing(connect(served)) as silent, closing(connect(served)) as slow, closing(connect(served)) as deaf:
        slow.sendall(GET_STATUS[:20])
        deaf.sendall(GET_STATUS)  # and reads nothing of three megabytes
        began = time.monotonic()
        client.ask(served, "GET", "/v1/sessions")
        assert time.monotonic() - began < 0.5
        for stuck in (silent, slow):
            assert stuck.recv(100) == b"", "cut off"
        received = 0
        while part := deaf.recv(1 << 20):
            received += len(part)
        assert received < 3_000_000


def test_more_clients_than_it_takes_are_turned_away_and_room_is_made_again(served: Path) -> None:
    crowd = [connect(served) for _ in range(MAX_CLIENTS)]
    deadline = time.monotonic() + 5
    turned_away = False
    while not turned_away and time.monotonic() < deadline:
        try:
            client.ask(served, "GET", "/v1/sessions")
        except client.NotAnswering:
            turned_away = True
    assert turned_away
    for one in crowd:
        one.close()
    while time.monotonic() < deadline:
        try:
            assert client.ask(served, "GET", "/v1/sessions")
            return
        except client.NotAnswering:
            continue
    pytest.fail("no room again")


def test_who_is_not_root_may_not_even_connect_and_is_refused_where_the_mode_would_let_him(served: Path) -> None:
    for directory in (served, *served.parents[:4]):
        directory.chmod(directory.stat().st_mode | 0o011)

    def as_nobody(said: int) -> None:
        os.setresuid(65534, 65534, 65534)
        try:
            answer, body = talk(served, GET_STATUS)
            os.write(said, f"{answer} {body['error']['code']}".encode())
        except PermissionError:
            os.write(said, b"permission denied")

    assert _forked(as_nobody) == b"permission denied"
    (served / FILE).chmod(0o666)
    assert _forked(as_nobody) == b"403 not_root"


def _forked(work: Callable[[int], None]) -> bytes:
    """Run in a child process; return what it writes."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work(writer)
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as said:
        return said.read()


def test_where_nobody_listens_the_client_says_so(place: Path) -> None:
    with pytest.raises(client.NotRunning):
        client.ask(place, "GET", "/v1/status")
    with pytest.raises(client.NotRunning):
        client.ask(place / "nowhere", "GET", "/v1/status")


def test_a_dead_ones_socket_is_replaced_and_a_long_path_is_no_obstacle(root: None, tmp_path: Path) -> None:
    long = tmp_path / ("d" * 120)
    long.mkdir()
    with socket.socket(socket.AF_UNIX) as dead, reachable(long) as address:
        dead.bind(address)
    with pytest.raises(client.NotRunning):
        client.ask(long, "GET", "/v1/status")
    with selectors.DefaultSelector() as selector:
        with Server(long, selector, Schedule().once, lambda *_: None):
            connect(long).close()
        assert not (long / FILE).exists()
