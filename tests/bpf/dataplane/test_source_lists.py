"""Which maps the lists of sources have been read into."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetplane.dataplane.node import DataPlane
from jetplane.errors import ConfigurationError
from tests.bpf.dataplane.conftest import ConfigFactory


@pytest.fixture
def listed(namespace: None, sources: Path, configure: ConfigFactory, tmp_path: Path) -> DataPlane:
    (tmp_path / "blocked.txt").write_text("198.51.100.7\n")
    return DataPlane(configure(guard={"bogons": False, "blocklists": [str(tmp_path / "blocked.txt")]}))


def test_lists_are_read_again_when_they_or_the_maps_are_others(listed: DataPlane, tmp_path: Path) -> None:
    listed.ensure()
    try:
        assert listed.refresh_source_lists()
        assert not listed.refresh_source_lists(), "nothing has changed"
        (tmp_path / "blocked.txt").write_text("198.51.100.7\n198.51.100.8\n")
        assert listed.refresh_source_lists()
        listed.detach()
        listed.ensure()  # maps of the same name, and empty
        assert listed.refresh_source_lists()
        assert not listed.refresh_source_lists()
        (tmp_path / "blocked.txt").write_text("nobody\n")
        with pytest.raises(ConfigurationError, match=r"blocked\.txt:1"):
            listed.refresh_source_lists()
        assert [bin(leaf.listed[0]).count("1") for _, leaf in listed._map("source_leaves").items()] == [2]
    finally:
        listed.detach()


def test_a_list_may_be_full_and_change_as_a_whole(
    namespace: None, sources: Path, configure: ConfigFactory, tmp_path: Path
) -> None:
    """While it changes, the old one and the new one lie in one map."""
    file, most = tmp_path / "blocked.txt", 1024
    full = DataPlane(configure(guard={"bogons": False, "blocklists": [str(file)], "max_blocked": most}))
    full.ensure()
    try:
        for second in (1, 2):
            file.write_text(listing(second, most))
            assert full.refresh_source_lists()
            for name in ("source_leaves", "source_prefixes"):
                assert len(list(full._map(name).items())) == most
        file.write_text(listing(3, most + 1))
        with pytest.raises(ConfigurationError, match=f"{most + 1} entries, but there is room for {most}"):
            full.refresh_source_lists()
        assert len(list(full._map("source_leaves").items())) == most, "the old list is still in force"
    finally:
        full.detach()


def listing(second: int, count: int) -> str:
    """So many single addresses, each in a /24 of its own, and as many IPv6 prefixes that are no /48s."""
    four = "".join(f"1{second}.{n >> 8}.{n & 255}.7\n" for n in range(count))
    return four + "".join(f"2a0{second}:{n:x}:1:2::/64\n" for n in range(count))
