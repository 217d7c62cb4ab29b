"""Handles on maps, against real maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from jetplane import abi
from jetplane.dataplane import batch, bpf
from jetplane.dataplane.maps import Map
from jetplane.dataplane.node import DataPlane
from jetplane.dataplane.run import SkbContext, XdpContext, prog_test_run
from jetplane.errors import KernelError


@pytest.fixture
def addresses(dataplane: DataPlane) -> Map:
    """A hash map of 1,024 elements: 16 bytes to a number."""
    return dataplane._map("addresses")


def key(number: int) -> bytes:
    return number.to_bytes(16)


def test_what_is_written_is_read(addresses: Map) -> None:
    addresses.update(key(1), 7)
    assert addresses.lookup(key(1)).value == 7


def test_what_is_not_there_is_none(addresses: Map) -> None:
    assert addresses.lookup(key(1)) is None


def test_deleting_says_whether_it_was_there(addresses: Map) -> None:
    addresses.update(key(1), 7)
    assert addresses.delete(key(1))
    assert not addresses.delete(key(1))


def test_many_are_written_and_read_in_batches(addresses: Map) -> None:
    addresses.update_many((key(n), n) for n in range(1000))
    assert {bytes(k): v for k, v in addresses.items()} == {key(n): n for n in range(1000)}


def test_a_bucket_fuller_than_the_chunk_is_read_with_a_larger_one(addresses: Map) -> None:
    """1,024 elements in 1,024 buckets: some bucket has more than one, and the kernel splits none."""
    addresses.update_many((key(n), n) for n in range(1024))
    chunks = list(batch.lookup_batch(addresses.fd, 16, 4, chunk=1))
    seen = Counter(keys[at : at + 16] for keys, _ in chunks for at in range(0, len(keys), 16))
    assert seen == Counter(key(n) for n in range(1024))
    assert max(len(keys) for keys, _ in chunks) > 16


def test_many_are_deleted_also_where_some_are_missing(addresses: Map) -> None:
    addresses.update_many((key(n), n) for n in range(100))
    assert addresses.delete_many(key(n) for n in range(147, -1, -3)) == 34
    assert {v for _, v in addresses.items()} == {n for n in range(100) if n % 3}


def test_nothing_is_written_or_deleted_without_a_call(addresses: Map) -> None:
    addresses.update_many([])
    assert addresses.delete_many([]) == 0


def test_an_existing_element_is_not_overwritten_when_told_so(addresses: Map) -> None:
    addresses.update(key(1), 7, bpf.NOEXIST)
    with pytest.raises(KernelError, match="writing map addresses: File exists"):
        addresses.update(key(1), 8, bpf.NOEXIST)


def test_a_full_map_says_which_one(addresses: Map) -> None:
    with pytest.raises(KernelError, match="writing map addresses"):
        addresses.update_many((key(n), n) for n in range(5000))


def test_a_key_of_another_length_is_refused(addresses: Map) -> None:
    with pytest.raises(ValueError, match="4 bytes instead of 16"):
        addresses.update(b"abcd", 1)


def test_a_prefix_is_found_by_its_longest_match(dataplane: DataPlane) -> None:
    services = dataplane._map("services")
    wide, narrow = (services.key(bits, 6, 0, 0x1600) for bits in (32, 32 + 96))
    services.update(wide, 1)
    services.update(narrow, 2)
    assert services.lookup(services.key(32 + 128, 6, 0, 0x1600)).value == 2
    assert {bytes(k) for k, _ in services.items()} == {bytes(wide), bytes(narrow)}


def test_a_map_knows_its_memory(dataplane: DataPlane) -> None:
    bindings = dataplane._map("bindings")
    assert bindings.memory() >= bindings.info.max_entries * 64


@pytest.fixture
def guard(dataplane: DataPlane) -> Iterator[int]:
    with bpf.opened(bpf.obj_get(dataplane._pins / dataplane._record().build / "guard")) as fd:
        yield fd


def test_counters_are_summed_over_all_cpus_by_name(dataplane: DataPlane, guard: int) -> None:
    prog_test_run(guard, bytes(60), repeat=23)
    counted = {name: total for name, total in dataplane.counters().items() if total}
    assert counted == {"GUARD_PASSED": 23}
    assert list(dataplane.counters()) == [*abi.drop_reasons(), *abi.counters()]


def test_a_run_gives_verdict_and_packet(guard: int) -> None:
    ran = prog_test_run(guard, bytes(range(60)), XdpContext(data_end=60))
    assert (ran.verdict, ran.packet) == (2, bytes(range(60)))


def test_a_packet_shorter_than_its_ethernet_header_is_the_kernels_to_refuse(guard: int) -> None:
    with pytest.raises(KernelError, match="running a BPF program: Invalid argument"):
        prog_test_run(guard, bytes(13))


def test_a_context_keeps_its_mark(dataplane: DataPlane) -> None:
    with bpf.opened(bpf.obj_get(dataplane._pins / dataplane._record().build / "nat_in")) as fd:
        ran = prog_test_run(fd, bytes(60), SkbContext(mark=42))
    assert SkbContext.from_buffer_copy(ran.context).mark == 42


def test_a_missing_pin_is_named(dataplane: DataPlane) -> None:
    with pytest.raises(KernelError, match="nowhere: No such file"):
        bpf.obj_get(dataplane._pins / "nowhere")
