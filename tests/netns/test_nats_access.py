"""Credentials and TLS by file, with the least that a node needs; and that nothing is said about peers."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from jetplane.errors import ConfigurationError
from jetplane.sources import open_source
from tests.netns.nats_accounts import Accounts, Certificates
from tests.netns.nats_server import BUCKET, ControlPlane, Server
from tests.netns.test_nats import Follower, key, node_config, record

STREAM = f"KV_{BUCKET}"
PUBLISH = (
    f"$JS.API.STREAM.INFO.{STREAM}",
    f"$JS.API.CONSUMER.CREATE.{STREAM}",
    f"$JS.API.CONSUMER.DELETE.{STREAM}.*",
    f"$JS.FC.{STREAM}.>",
    f"$KV.{BUCKET}-applied.paris1",
)
"""All that a node may send; the documentation names the same."""


def test_a_node_needs_no_more_rights_than_it_is_given(tmp_path: Path) -> None:
    accounts = Accounts()
    admin = accounts.user(tmp_path / "admin.creds")
    node = accounts.user(tmp_path / "node.creds", publish=PUBLISH, subscribe=("_INBOX.>",))
    with (
        Server(tmp_path / "nats", accounts.server_config()) as server,
        ControlPlane(server.url, user_credentials=str(admin)) as plane,
    ):
        plane.make_buckets()
        plane.put(key(1), record(1))
        follower = Follower(node_config(server.url, credentials_file=str(node)))
        with follower.source:
            follower.until_it_has(1)
            follower.until(lambda: plane.acknowledged().get("paris1", {}).get("revision") == 1)
            assert follower.source.problem() == ""


@pytest.mark.parametrize(
    ("publish", "said"),
    [
        (PUBLISH[:1], "not permitted to these credentials; the peers are left alone"),
        (PUBLISH[:4], f"nats bucket {BUCKET}-applied: not written: not permitted to these credentials"),
    ],
)
def test_a_missing_right_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publish: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr("jetplane.sources.session.REQUEST_S", 1.0)
    monkeypatch.setattr("jetplane.sources.session.CREATE_S", 1.0)
    accounts = Accounts()
    admin = accounts.user(tmp_path / "admin.creds")
    node = accounts.user(tmp_path / "node.creds", publish=publish, subscribe=("_INBOX.>",))
    with (
        Server(tmp_path / "nats", accounts.server_config()) as server,
        ControlPlane(server.url, user_credentials=str(admin)) as plane,
    ):
        plane.make_buckets()
        follower = Follower(node_config(server.url, credentials_file=str(node)))
        with follower.source:
            follower.until(lambda: follower.source.problem().endswith(said))


def test_a_stranger_is_turned_away_and_the_node_says_so(tmp_path: Path) -> None:
    stranger = Accounts().user(tmp_path / "stranger.creds")
    with Server(tmp_path / "nats", Accounts().server_config()) as server:
        follower = Follower(node_config(server.url, credentials_file=str(stranger)))
        with follower.source:
            follower.until(lambda: "the credentials are refused" in follower.source.problem())
            assert not follower.known


def test_tls_with_certificates_on_both_sides(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "tls")
    context = ssl.create_default_context(cafile=str(files.ca))
    context.load_cert_chain(files.node, files.node_key)
    mine = {"tls_ca_file": str(files.ca), "tls_cert_file": str(files.node), "tls_key_file": str(files.node_key)}
    with Server(tmp_path / "nats", files.server_config(verify=True), scheme="tls") as server:
        with ControlPlane(server.url, tls=context) as plane:
            plane.make_buckets()
            plane.put(key(1), record(1))
            follower = Follower(node_config(server.url, **mine))
            with follower.source:
                follower.until_it_has(1)
        without = Follower(node_config(server.url, tls_ca_file=str(files.ca)))
        with without.source:
            without.until(
                lambda: without.source.problem() != "" and "not connected yet" not in without.source.problem()
            )
            assert not without.known


def test_a_server_that_nobody_vouches_for_is_not_spoken_to(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "tls")
    with Server(tmp_path / "nats", files.server_config(verify=False), scheme="tls") as server:
        follower = Follower(node_config(server.url))
        with follower.source:
            follower.until(lambda: "certificate is refused" in follower.source.problem())


def test_a_server_that_offers_no_tls_is_told_nothing(tmp_path: Path) -> None:
    with Server(tmp_path / "nats", scheme="tls") as server:
        follower = Follower(node_config(server.url))
        with follower.source:
            follower.until(lambda: "offers no TLS" in follower.source.problem())


def test_a_file_that_cannot_be_used_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "open.creds").write_text("x")
    (tmp_path / "open.creds").chmod(0o644)
    (tmp_path / "noise.pem").write_text("x")
    cases = (
        ({"credentials_file": str(tmp_path / "gone.creds")}, "cannot be read: No such file"),
        ({"credentials_file": str(tmp_path / "open.creds")}, "is open to every user"),
        ({"tls_ca_file": str(tmp_path / "gone.pem")}, "cannot be used: No such file"),
        ({"tls_ca_file": str(tmp_path / "noise.pem")}, "cannot be used: not PEM"),
    )
    for settings, message in cases:
        with pytest.raises(ConfigurationError, match=message):
            open_source(node_config("tls://127.0.0.1:4222", **settings))
