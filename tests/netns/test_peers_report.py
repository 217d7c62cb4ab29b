"""`jetplane peers report KEY`: everything that a live node holds about a key, by the published schema."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import jetplane
from jetplane.lab import namespaces, traffic
from jetplane.lab.addresses import SITES_IPV4
from jetplane.lab.topology import Lab
from tests.netns.audit_breaks import CANARY

SCHEMA = json.loads((Path(jetplane.__file__).parent / "privacy" / "report.schema.json").read_text())


def reported(lab: Lab, key: str) -> dict[str, Any]:
    done = lab.node.jetplane("peers", "report", key, "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(told, SCHEMA, cls=jsonschema.Draft202012Validator)
    return told


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"held": True}, SCHEMA)


def test_a_key_in_use_is_told_from_every_place(lab: Lab) -> None:
    subscriber = lab.plan.subscribers[0]
    visit = traffic.Visit(lab.name, subscriber.namespace, SITES_IPV4[0])
    assert traffic.udp_echo(visit, 3) == 3
    told = reported(lab, lab.public_keys[0])
    assert told["held"]
    assert told["wanted"]["source"] == "files" and told["wanted"]["place"] == f"{lab.node.peers}: peer[0]"
    assert told["wanted"]["record"]["allowed_ips"] == [f"{subscriber.inner_ipv4}/32", f"{subscriber.inner_ipv6}/128"]
    (device,) = told["wireguard"].values()
    assert list(told["wireguard"]) == [lab.plan.tunnels[subscriber.tunnel].name]
    assert device["endpoint"].startswith(f"{subscriber.outer_ipv4.ip}:")
    assert device["latest_handshake"] <= time.time() and device["transfer_received"] > 0
    plane = told["data_plane"]
    (entry,) = plane["entries"]
    assert set(entry["exit_addresses"]) <= {*lab.plan.exit_ipv4, *lab.plan.exit_ipv6} and entry["exit_addresses"]
    assert entry["port_blocks"] >= 1
    mine = [b for b in plane["bindings"] if b["protocol"] == "udp"]
    assert mine and all(b["inner"].startswith(f"{subscriber.inner_ipv4} port ") for b in mine)
    assert {b["exit_address"] for b in mine} <= set(entry["exit_addresses"])
    assert all(b["state"] == "active" and len(b["remotes"]) == 1 for b in mine)
    text = json.dumps(told)
    assert SITES_IPV4[0] not in text, "the node itself knows a remote by its hash alone"
    assert lab.public_keys[1] not in text


def test_a_binding_is_told_by_the_port_that_it_was_made_from(lab: Lab) -> None:
    subscriber = lab.plan.subscribers[0]

    def opened() -> socket.socket:
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.bind((str(subscriber.inner_ipv4), 40_123))
        sender.connect((SITES_IPV4[0], 7))
        sender.settimeout(20)
        return sender

    with namespaces.inside(subscriber.namespace, opened) as sender:
        sender.send(b"hello")
    told = reported(lab, lab.public_keys[0])
    assert [b for b in told["data_plane"]["bindings"] if b["inner"] == f"{subscriber.inner_ipv4} port 40123"]


def test_an_idle_key_has_no_endpoint_and_no_binding(lab: Lab) -> None:
    key = lab.node.peers.read_text().split('public_key = "')[4].partition('"')[0]
    told = reported(lab, key)
    (device,) = told["wireguard"].values()
    assert (device["endpoint"], device["latest_handshake"], device["transfer_received"]) == (None, None, 0)
    assert told["data_plane"]["bindings"] == [] and told["data_plane"]["entries"]


def test_a_key_that_the_node_never_had_is_told_as_such_to_people_too(lab: Lab) -> None:
    told = reported(lab, CANARY)
    assert not told["held"] and told["wanted"]["record"] is None
    assert told["wireguard"] == {} and told["data_plane"] is None
    done = lab.node.jetplane("peers", "report", CANARY)
    assert b"holds nothing" in done.stdout and b"keyed hashes" in done.stdout


def test_nothing_of_a_report_is_stored(lab: Lab) -> None:
    def contents() -> dict[str, bytes]:
        places = (lab.node.run_directory, lab.directory)
        files = (path for place in places for path in place.glob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files if path.name != "status.json"}

    before = contents()
    reported(lab, lab.public_keys[0])
    assert contents() == before


def test_a_secret_is_said_to_be_there_and_not_repeated(lab: Lab, tmp_path: Path) -> None:
    psk, key = "cHNrcHNrcHNrcHNrcHNrcHNrcHNrcHNrcHNrcHNrcHM=", CANARY
    (tmp_path / "psk").write_text(psk)
    address = str(lab.plan.idle_peers(200)[-1][0])
    added = lab.node.jetplane(
        "peers", "add", key, "--allowed-ip", address, "--preshared-key-file", str(tmp_path / "psk")
    )
    assert added.returncode == 0, added.stderr
    try:
        told = reported(lab, key)
        assert told["wanted"]["record"]["has_preshared_key"]
        assert psk not in json.dumps(told)
    finally:
        assert lab.node.jetplane("peers", "remove", key).returncode == 0


@pytest.mark.parametrize("key", ["", "short", "A" * 44])
def test_a_key_that_is_none_is_refused(lab: Lab, key: str) -> None:
    done = lab.node.jetplane("peers", "report", key)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
