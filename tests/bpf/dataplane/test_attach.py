"""Programs on interfaces: ours come, are exchanged and go; others stay."""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import threading
from pathlib import Path

import pytest

from jetplane import abi
from jetplane.dataplane import bpf, bpffs, load, pins
from jetplane.dataplane.links import Links, interface_index
from jetplane.dataplane.node import DataPlane
from jetplane.dataplane.programs import Hook
from jetplane.errors import CompileError, KernelError
from jetplane.lab.waiting import patience
from tests.bpf.dataplane.conftest import ConfigFactory, ip, xdp_id

pytestmark = pytest.mark.usefixtures("namespace", "sources")


def filter_ids(name: str, hook: Hook) -> list[int]:
    with Links() as links:
        return [entry.prog_id for entry in links.filters(interface_index(name), hook)]


def pinned(dataplane: DataPlane) -> dict[str, int]:
    directory = dataplane._pins / dataplane._record().build
    ids = {}
    for path in directory.iterdir():
        with bpf.opened(bpf.obj_get(path)) as fd:
            ids[path.name] = bpf.prog_info(fd).id
    return ids


def test_every_program_is_where_it_belongs(dataplane: DataPlane) -> None:
    ids = pinned(dataplane)
    assert xdp_id("up0") == ids["guard"]
    assert filter_ids("up0", Hook.INGRESS) == [ids["nat_in"]]
    assert filter_ids("up0", Hook.EGRESS) == [ids["leak_guard"]]
    assert filter_ids("jet0", Hook.INGRESS) == [ids["nat_out"]]


def test_attachments_are_told(dataplane: DataPlane) -> None:
    told = [(a.program, a.interface, a.hook, a.mode) for a in dataplane.attachments() if a.present]
    assert told == [
        ("leak_guard", "up0", "tc egress", "tc"),
        ("nat_in", "up0", "tc ingress", "tc"),
        ("nat_out", "jet0", "tc ingress", "tc"),
        ("guard", "up0", "xdp", "native"),
    ]


def test_doing_it_again_changes_nothing(dataplane: DataPlane) -> None:
    before = pinned(dataplane)
    again = dataplane.ensure()
    assert (again.loaded, again.changed) == (False, ())
    assert pinned(dataplane) == before


def test_another_process_finds_it_all_in_place(dataplane: DataPlane, configure: ConfigFactory) -> None:
    assert not DataPlane(configure()).ensure().loaded


def test_what_was_taken_away_comes_back(dataplane: DataPlane) -> None:
    ip("link set dev up0 xdp off")
    ip("tc filter del dev up0 egress")
    gone = {a.program for a in dataplane.attachments() if not a.present}
    assert gone == {"guard", "leak_guard"}
    assert len(dataplane.ensure().changed) == 2
    assert all(a.present for a in dataplane.attachments())


def test_a_program_that_someone_put_in_our_place_is_not_taken_for_ours(dataplane: DataPlane) -> None:
    build = dataplane._record().build
    ip(f"tc filter replace dev up0 egress prio 1 handle 0x6a65 bpf da object-pinned {dataplane._pins}/{build}/nat_in")
    assert "leak_guard" in {a.program for a in dataplane.attachments() if not a.present}


def test_a_changed_constant_exchanges_the_programs_and_keeps_the_maps(
    dataplane: DataPlane, configure: ConfigFactory
) -> None:
    before, maps = pinned(dataplane), dataplane._record().layout
    dataplane._map("own_addresses").update(bytes(16), 1)
    dataplane._map("addresses").update(bytes(16), 5)
    changed = DataPlane(configure(nat={"udp_timeout": 200}))
    assert all("replaced" in change for change in changed.ensure().changed)
    assert not set(pinned(changed).values()) & set(before.values())
    assert changed._record().layout == maps
    assert changed._map("addresses").lookup(bytes(16)).value == 5
    assert {path.name for path in changed._pins.iterdir()} == {
        maps,
        changed._record().build,
        "maps.debug",
        "progs.debug",
    }, "what was replaced is gone"


def test_the_dns_services_program_comes_and_goes_with_what_needs_it(
    dataplane: DataPlane, configure: ConfigFactory
) -> None:
    layout = dataplane._record().layout
    assert filter_ids("jet0", Hook.EGRESS) == []
    steering = DataPlane(configure(dns={"service": True, "steer": True}))
    steering.ensure()
    assert filter_ids("jet0", Hook.EGRESS) == [pinned(steering)["dns_answer"]]
    assert ("dns_answer", "jet0", True) in {(a.program, a.interface, a.present) for a in steering.attachments()}
    serving = DataPlane(configure(dns={"service": True}))
    serving.ensure()
    assert filter_ids("jet0", Hook.EGRESS) == []
    assert "dns_answer" not in {a.program for a in serving.attachments()}
    assert serving._record().layout == layout, "flows go on"


def test_a_larger_layout_takes_the_state_over(dataplane: DataPlane, configure: ConfigFactory) -> None:
    dataplane._map("addresses").update_many((n.to_bytes(16), n) for n in range(500))
    binding = dataplane._map("bindings").value(peer=3, generation=9)
    dataplane._map("bindings").update(70_000, binding)
    secret = bytes(dataplane._map("secrets").lookup(0))
    dataplane._map("steered").update(bytes(8), bytes(64))
    larger = DataPlane(configure(peers={"max": 512}, nat={"max_bindings": 4096}))
    larger.ensure()
    assert {int.from_bytes(bytes(k)): v for k, v in larger._map("addresses").items()} == {n: n for n in range(500)}
    assert bytes(larger._map("bindings").lookup(70_000)) == bytes(binding)
    assert bytes(larger._map("secrets").lookup(0)) == secret
    assert larger._map("steered").every_key() == [], "whom a peer has asked is not read"


@pytest.mark.parametrize("changes", [{"peers": {"max": 128}}, {"exit": {"ipv4": ["203.0.113.11", "203.0.113.10"]}}])
def test_a_smaller_layout_or_other_exits_begin_anew(
    dataplane: DataPlane, configure: ConfigFactory, changes: dict[str, object]
) -> None:
    dataplane._map("addresses").update(bytes(16), 5)
    other = DataPlane(configure(**changes))
    other.ensure()
    assert not list(other._map("addresses").items())


def test_no_packet_is_lost_or_passes_unseen_in_forty_exchanges(dataplane: DataPlane) -> None:
    """Two sets of programs take turns while a sender goes on: every frame meets a guard and nat_in, once, in order."""
    before = dataplane._pins / dataplane._record().build
    other = before.with_name(f"{pins.PROGRAM_SETS}other")
    build = dataplane._directory / "build"
    load.load(
        header=dataplane._names()[2], maps=dataplane._pins / dataplane._record().layout, programs=other,
        build=build, sources=abi.EBPF,
    )  # fmt: skip
    stop, sent = threading.Event(), 0
    with _socket("far-up0") as sender, _socket("up0") as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)

        def send() -> None:
            nonlocal sent
            while not stop.wait(0.0005):
                sent += sender.send(_FRAME + sent.to_bytes(4) + bytes(42)) == 60

        thread = threading.Thread(target=send)
        thread.start()
        try:
            for programs in (other, before) * 20:
                changed = dataplane._hooks.attach(programs)
                assert [done.text.rpartition(" ")[2] for done in changed] == ["replaced"] * 4
        finally:
            stop.set()
            thread.join()
        assert sent > 100
        receiver.settimeout(patience(5))
        came = [receiver.recv(60) for _ in range(sent)]
    assert [int.from_bytes(frame[14:18]) for frame in came] == list(range(sent))
    counted = dataplane.counters()
    assert (counted["GUARD_PASSED"], counted["IN_PACKETS"]) == (sent, sent)


_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_FRAME = b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5"  # an Ethertype for experiments


def _socket(interface: str) -> socket.socket:
    """One for frames of that Ethertype."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.bind((interface, 0x88B5))
    return made


def test_lost_pins_cost_no_state(dataplane: DataPlane, configure: ConfigFactory) -> None:
    """Someone unmounts the bpffs, or its mount namespace ends: the attached programs hold their maps."""
    dataplane._map("peers").update(3, dataplane._map("peers").value(generation=9))
    dataplane.close()
    bpffs.unmount(dataplane._pins)
    again = DataPlane(configure())
    assert all(a.present for a in again.attachments()), "ours are recognised"
    again.ensure()
    assert again._map("peers").lookup(3).generation == 9
    assert bpffs.is_private(again._pins)


def test_a_process_that_does_not_see_the_pins_can_still_look(dataplane: DataPlane, configure: ConfigFactory) -> None:
    """`ip netns exec` and services with a /tmp of their own have a mount namespace of their own, too."""
    dataplane._map("addresses").update(bytes(16), 5)
    bpffs.unmount(dataplane._pins)
    elsewhere = DataPlane(configure())
    assert elsewhere._map("addresses").lookup(bytes(16)).value == 5
    assert elsewhere.counters().keys() == dataplane.counters().keys()
    assert elsewhere.capacities() == dataplane.capacities()


def test_what_was_detached_cannot_be_looked_at(dataplane: DataPlane, configure: ConfigFactory) -> None:
    dataplane.detach()
    with pytest.raises(KernelError, match="no data plane is loaded"):
        DataPlane(configure()).counters()


def test_programs_without_any_record_are_recognised(dataplane: DataPlane, configure: ConfigFactory) -> None:
    dataplane.close()
    bpffs.unmount(dataplane._pins)
    dataplane._layout_file.unlink()
    again = DataPlane(configure())
    again.ensure()
    assert xdp_id("up0") == pinned(again)["guard"]


def test_a_broken_set_of_pins_is_made_anew(dataplane: DataPlane, configure: ConfigFactory) -> None:
    (dataplane._pins / dataplane._record().build / "nat_in").unlink()
    again = DataPlane(configure())
    assert again.ensure().loaded
    assert filter_ids("up0", Hook.INGRESS) == [pinned(again)["nat_in"]]


def add_filter(dataplane: DataPlane, priority: int) -> None:
    """A filter under another handle, by somebody else's will; that its program is one of ours matters to nobody."""
    program = dataplane._pins / dataplane._record().build / "nat_in"
    ip(f"tc filter add dev up0 egress prio {priority} handle 1 bpf da object-pinned {program}")


def test_anothers_filter_behind_ours_stays(dataplane: DataPlane, configure: ConfigFactory) -> None:
    add_filter(dataplane, priority=50)
    DataPlane(configure(nat={"udp_timeout": 200})).ensure()
    dataplane.detach()
    left = ip("tc filter show dev up0 egress")
    assert "pref 50 bpf" in left
    assert "jetplane" not in left


def test_anothers_filter_before_ours_is_refused(dataplane: DataPlane, configure: ConfigFactory) -> None:
    add_filter(dataplane, priority=1)
    before = filter_ids("up0", Hook.EGRESS)
    with pytest.raises(KernelError, match="up0: a bpf filter that is not jetplane's stands first at tc egress"):
        DataPlane(configure(nat={"udp_timeout": 200})).ensure()
    assert filter_ids("up0", Hook.EGRESS) == before


class _Attach(ctypes.Structure):
    """The BPF_PROG_ATTACH member of union bpf_attr."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("target", "fd", "type", "flags", "replace", "relative")),
        ("revision", ctypes.c_uint64),
    ]


def test_a_tcx_program_that_would_run_first_is_refused(dataplane: DataPlane, configure: ConfigFactory) -> None:
    """tcx came with Linux 6.6; on an older kernel there is nothing that could run first."""
    with bpf.opened(bpf.obj_get(dataplane._pins / dataplane._record().build / "nat_in")) as fd:
        if bpf.call(8, _Attach(interface_index("up0"), fd, type=47)) == -errno.EINVAL:
            assert tuple(map(int, platform.release().split(".")[:2])) < (6, 6)
            return
        with pytest.raises(KernelError, match=r"up0: tcx programs, ids \[\d+\], run before jetplane's at tc egress"):
            dataplane.ensure()


def test_a_changed_uplink_leaves_nothing_on_the_old_one(dataplane: DataPlane, configure: ConfigFactory) -> None:
    ip("link add up1 type veth peer name far-up1")
    changed = DataPlane(configure(uplink={"interface": "up1"})).ensure().changed
    assert "no longer configured" in changed[-1]
    assert xdp_id("up0") == 0
    assert xdp_id("up1") != 0
    assert "clsact" not in ip("tc qdisc show dev up0")
    assert "clsact" in ip("tc qdisc show dev up1")


def test_detaching_finds_what_an_earlier_configuration_attached(dataplane: DataPlane, configure: ConfigFactory) -> None:
    ip("link add up1 type veth peer name far-up1")
    DataPlane(configure(uplink={"interface": "up1"})).detach()
    assert xdp_id("up0") == 0
    assert "clsact" not in ip("tc qdisc show")


def test_an_ingress_qdisc_in_the_way_is_named_and_nothing_is_begun(pristine: ConfigFactory) -> None:
    ip("tc qdisc add dev up0 ingress")
    with pytest.raises(KernelError, match="up0: an ingress qdisc stands where clsact belongs") as raised:
        DataPlane(pristine()).ensure()
    assert "tc qdisc del dev up0 ingress" in raised.value.hint
    assert not (pristine().run_directory / "bpf").exists()


def test_a_missing_interface_is_named_and_nothing_is_begun(pristine: ConfigFactory) -> None:
    new = DataPlane(pristine(uplink={"interface": "nowhere0"}))
    with pytest.raises(KernelError, match="nowhere0: no such interface"):
        new.ensure()
    assert not new._pins.exists()
    assert [a.present for a in new.attachments()] == [False] * 4


def test_a_driver_without_native_xdp_gets_generic(pristine: ConfigFactory) -> None:
    made = DataPlane(pristine(uplink={"interface": "lo"}))
    changed = made.ensure().changed
    assert "generic: the driver refused native mode" in changed[-1]
    assert made.attachments()[-1].mode == "generic"
    assert (
        DataPlane(pristine(uplink={"interface": "lo"}, nat={"udp_timeout": 200}))
        .ensure()
        .changed[-1]
        .endswith("replaced")
    )


def test_when_one_program_cannot_be_attached_the_others_leave_again(pristine: ConfigFactory) -> None:
    made = DataPlane(pristine(uplink={"interface": "lo", "xdp": "native"}))
    with pytest.raises(KernelError, match=r"guard on lo \(xdp\): attaching an XDP program in native mode"):
        made.ensure()
    assert not any(a.present for a in made.attachments())
    assert not bpffs.is_mounted(made._pins)


def test_when_an_exchange_fails_the_old_programs_are_back(configure: ConfigFactory) -> None:
    made = DataPlane(configure(uplink={"interface": "lo"}))
    made.ensure()
    before = pinned(made)
    made._map("addresses").update(bytes(16), 5)
    with pytest.raises(KernelError):
        DataPlane(configure(uplink={"interface": "lo", "xdp": "native"}, nat={"max_bindings": 2048})).ensure()
    assert pinned(made) == before
    assert filter_ids("lo", Hook.EGRESS) == [before["leak_guard"]]
    assert xdp_id("lo") == before["guard"]
    assert DataPlane(configure(uplink={"interface": "lo"}))._map("addresses").lookup(bytes(16)).value == 5


def test_a_change_of_mode_is_made(dataplane: DataPlane, configure: ConfigFactory) -> None:
    DataPlane(configure(uplink={"xdp": "generic"})).ensure()
    assert dataplane.attachments()[-1].mode == "generic"
    DataPlane(configure(uplink={"xdp": "native"})).ensure()
    assert dataplane.attachments()[-1].mode == "native"


def test_a_reload_that_does_not_compile_changes_nothing(
    dataplane: DataPlane, configure: ConfigFactory, sources: Path
) -> None:
    before = pinned(dataplane)
    (sources / "small.bpf.c").write_text("int guard(void) { return nothing; }\n")
    with pytest.raises(CompileError):
        DataPlane(configure()).ensure()
    assert pinned(dataplane) == before
    assert xdp_id("up0") == before["guard"]


def test_nothing_is_left_after_detaching(dataplane: DataPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "PROGRAMS", ())  # no compiler, no list of programs: detaching asks for neither
    dataplane.detach()
    assert xdp_id("up0") == 0
    assert "clsact" not in ip("tc qdisc show")
    assert not bpffs.is_mounted(dataplane._pins)
    assert not list(dataplane._directory.iterdir())


def test_detaching_twice_or_without_anything_is_fine(dataplane: DataPlane, configure: ConfigFactory) -> None:
    dataplane.detach()
    dataplane.detach()
    DataPlane(configure(uplink={"interface": "nowhere0"})).detach()


def test_a_qdisc_that_was_there_before_stays(configure: ConfigFactory) -> None:
    ip("tc qdisc add dev up0 clsact")
    made = DataPlane(configure())
    made.ensure()
    made.detach()
    assert "clsact" in ip("tc qdisc show dev up0")


def test_a_tunnel_that_is_gone_does_not_keep_the_rest(dataplane: DataPlane) -> None:
    ip("link del jet0")
    dataplane.detach()
    assert xdp_id("up0") == 0
