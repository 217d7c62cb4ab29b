"""Which maps the lists of sources have been read into."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from jetplane import abi
from jetplane.dataplane.node import DataPlane
from jetplane.errors import ConfigurationError
from tests.bpf.dataplane.conftest import ConfigFactory


@pytest.fixture
def listed(namespace: None, sources: Path, configure: ConfigFactory, tmp_path: Path) -> DataPlane:
    (tmp_path / "blocked.txt").write_text("198.51.100.7\n")
    return DataPlane(
        configure(guard={"bogons": False, "blocklists": [str(tmp_path / "blocked.txt")], "max_blocked": 1024})
    )


def blocked(plane: DataPlane) -> set[str]:
    """The IPv4 addresses in the current half of lines and leaves."""
    constants = abi.constants()
    half = plane._map("halves").lookup(constants["HALF_SOURCES"]).value
    lines = plane._map("source_lines")
    found = []
    for index, line in lines.items():
        if index * 2 // lines.info.max_entries == half:
            fours = (entry for entry in line.entry if entry & 0xF == constants["SOURCE_ENTRY_V4"])
            found += [(entry << 1 & 0xFFFFFFE0, entry >> 32) for entry in fours]
    for key, leaf in plane._map("source_leaves").items():
        if key >> 32 == half:
            found += [((key << 8 & 0xFFFFFFFF) + 64 * n, word) for n, word in enumerate(leaf.listed)]
    return {str(IPv4Address(first + n)) for first, bits in found for n in range(64) if bits >> n & 1}


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
        assert blocked(listed) == {"198.51.100.7", "198.51.100.8"}
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
            assert blocked(full) == {f"1{second}.{place}" for place in places(most)}
            assert len(list(full._map("source_leaves").items())) > most // 2, "lines are full, too"
            assert len(list(full._map("source_prefixes").items())) == most
        file.write_text(listing(3, most + 1))
        with pytest.raises(ConfigurationError, match=f"{most + 1} entries, but there is room for {most}"):
            full.refresh_source_lists()
        assert blocked(full) == {f"12.{place}" for place in places(most)}, "the old list is still in force"
    finally:
        full.detach()


def places(count: int) -> list[str]:
    """Eight addresses of each of so many /24s, none of which shares an entry with another."""
    return [f"{n >> 8}.{n & 255}.{32 * part + 7}" for n in range(count) for part in range(8)]


def listing(second: int, count: int) -> str:
    """Something of so many /24s, and as many IPv6 prefixes that are no /48s."""
    four = "".join(f"1{second}.{place}\n" for place in places(count))
    return four + "".join(f"2a0{second}:{n:x}:1:2::/64\n" for n in range(count))
