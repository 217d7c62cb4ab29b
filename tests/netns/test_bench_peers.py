"""The bench of many peers, small: that it measures both, and that a small change needs no look at everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import peers
from jetplane.wireguard.interface import Kind


def test_both_contenders_are_measured(wireguard_kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.main(["--peers", "1000", "--rounds", "1", "--output", str(tmp_path)]) == 0
    content = json.loads((tmp_path / f"peers-{wireguard_kind}.json").read_text())
    rows = {(row["bench"], row["metric"]): row for row in content["rows"]}
    assert all(row["jetplane"] > 0 and row["rounds"] == 1 for row in rows.values())
    assert rows["1,000 peers", "onto an empty interface"]["rival"] == "wg(8) setconf"
    assert rows["1,000 peers", "1 % of them changed"]["ratio"] < 1
    assert rows["1,000 peers", "one of them changed, CPU"]["jetplane"] < 20
    assert ("1,000 peers removed", "longest gap of a stream of pings") in rows
    assert rows["1,000 peers", "memory of the controller"]["jetplane"] < 100
    assert wireguard_kind in capsys.readouterr().out
