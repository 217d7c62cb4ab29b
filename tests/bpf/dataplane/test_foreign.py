"""Another's XDP program on the uplink: it stays, unless the operator has said that the guard takes its place."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from jetplane.audit import dataplane as audit
from jetplane.dataplane import bpf, bpffs
from jetplane.dataplane.foreign import DISPATCHER
from jetplane.dataplane.links import Attached, Links, interface_index
from jetplane.dataplane.node import DataPlane
from jetplane.dataplane.programs import ProgramType
from jetplane.errors import KernelError
from jetplane.preflight import probe
from tests.bpf.dataplane.conftest import ConfigFactory, ip, xdp_id

pytestmark = pytest.mark.usefixtures("namespace", "sources")

TOLD = {"uplink": {"interface": "up0", "replace_foreign_xdp": True}}
_XDP_PASS = 2
_LINK_CREATE, _ATTACH_TYPE_XDP = 28, 37  # linux/bpf.h

Put = Callable[..., int]


@pytest.fixture
def put(pristine: ConfigFactory) -> Put:
    """put("up0", "name"): attach a program of somebody's, who goes away; return its id."""

    def attach(interface: str, name: str, mode: str = "native") -> int:
        with bpf.opened(probe.load(ProgramType.XDP, returns=_XDP_PASS, name=name)) as fd, Links() as links:
            links.set_xdp(interface_index(interface), fd, mode)
            return bpf.prog_info(fd).id

    return attach


def attached(interface: str) -> Attached | None:
    with Links() as links:
        return links.xdp(interface_index(interface))


def test_it_is_refused_by_name_and_stays(put: Put, configure: ConfigFactory) -> None:
    theirs = put("up0", "other")
    with pytest.raises(
        KernelError, match=rf"up0: an XDP .* not jetplane's is attached: other \(id {theirs}\)$"
    ) as error:
        DataPlane(configure()).ensure()
    assert "xdp off" in error.value.hint and "uplink.replace_foreign_xdp = true" in error.value.hint
    assert xdp_id("up0") == theirs
    assert DataPlane(configure()).detach() == ()
    assert xdp_id("up0") == theirs


def test_one_that_comes_while_the_node_runs_is_refused_and_stays(
    dataplane: DataPlane, configure: ConfigFactory, put: Put
) -> None:
    DataPlane(configure()).ensure()
    ip("link set dev up0 xdp off")
    theirs = put("up0", "late")
    with pytest.raises(KernelError, match=r"late \(id"):
        DataPlane(configure()).ensure()
    assert DataPlane(configure()).detach() == ()
    assert xdp_id("up0") == theirs


def test_when_told_the_guard_takes_its_place_and_gives_it_back(put: Put, configure: ConfigFactory) -> None:
    theirs = put("up0", "other")
    node = DataPlane(configure(**TOLD))
    done = node.ensure()
    assert done.warnings == (
        f"XDP program other (id {theirs}) on up0 gives way to the guard; `jetplane down` puts it back",
    )
    assert "guard on up0 (xdp) attached, native" in done.changed
    assert node.attachments()[-1].mode == "native"
    assert node.ensure().changed == ()
    told_no_more = DataPlane(configure(nat={"udp_timeout": 200}))
    assert told_no_more.ensure().warnings == ()
    assert told_no_more.detach() == (f"put back XDP program other (id {theirs}) on up0",)
    assert attached("up0") == Attached("native", theirs)
    assert not list(node._directory.iterdir())


def test_it_is_given_back_in_its_own_mode(put: Put, configure: ConfigFactory) -> None:
    """That it was generic says nothing of what the driver can do."""
    theirs = put("up0", "other", "generic")
    node = DataPlane(configure(**TOLD))
    node.ensure()
    assert node.attachments()[-1].mode == "native"
    node.detach()
    assert attached("up0") == Attached("generic", theirs)


def test_an_audit_takes_what_is_held_for_nobodys_on_the_node(put: Put, configure: ConfigFactory) -> None:
    theirs = put("up0", "other")
    config = configure(**TOLD)
    DataPlane(config).ensure()
    found = audit.gather(config)
    assert theirs not in {program.id for program in found.programs}
    assert f"foreign/{interface_index('up0')}" in {pin.path for pin in found.pins}
    with bpf.opened(bpf.prog_by_id(theirs)) as fd, Links() as links:
        links.set_xdp(interface_index("jet0"), fd, "native")
    assert [program.place for program in audit.gather(config).programs if program.id == theirs] == ["jet0 xdp"]


def test_when_the_guard_cannot_be_attached_it_is_back(put: Put, configure: ConfigFactory) -> None:
    theirs = put("lo", "other", "generic")
    node = DataPlane(configure(uplink={"interface": "lo", "xdp": "native", "replace_foreign_xdp": True}))
    with pytest.raises(KernelError, match=r"guard on lo \(xdp\)"):
        node.ensure()
    assert attached("lo") == Attached("generic", theirs)
    assert not (node._directory / "foreign.json").exists()


def test_on_an_uplink_that_is_one_no_more_it_is_back(put: Put, configure: ConfigFactory) -> None:
    ip("link add up1 type veth peer name far-up1")
    theirs = put("up0", "other")
    DataPlane(configure(**TOLD)).ensure()
    moved = DataPlane(configure(uplink={"interface": "up1"}))
    assert f"put back XDP program other (id {theirs}) on up0" in moved.ensure().changed
    assert xdp_id("up0") == theirs
    assert moved.detach() == ()


def test_the_first_one_is_given_back_and_no_later_one(put: Put, configure: ConfigFactory) -> None:
    theirs = put("up0", "first")
    node = DataPlane(configure(**TOLD))
    node.ensure()
    ip("link set dev up0 xdp off")
    put("up0", "second")
    assert "puts back what was there before it" in node.ensure().warnings[0]
    node.detach()
    assert xdp_id("up0") == theirs


def test_one_that_has_come_since_stays_when_the_node_goes(put: Put, configure: ConfigFactory) -> None:
    put("up0", "first")
    node = DataPlane(configure(**TOLD))
    node.ensure()
    ip("link set dev up0 xdp off")
    second = put("up0", "second")
    assert node.detach() == (f"left alone: XDP program {second} of up0, put there since",)
    assert xdp_id("up0") == second


def test_one_whose_pin_was_lost_and_whom_nobody_holds_is_said_to_be_gone(put: Put, configure: ConfigFactory) -> None:
    theirs = put("up0", "other")
    node = DataPlane(configure(**TOLD))
    node.ensure()
    bpffs.unmount(node._pins)
    [said] = node.detach()
    assert said.startswith(f"not put back: XDP program other (id {theirs}) on up0: opening BPF program {theirs}: ")
    assert xdp_id("up0") == 0
    assert not (node._directory / "foreign.json").exists()


class _LinkCreate(ctypes.Structure):
    """The BPF_LINK_CREATE member of union bpf_attr."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("prog_fd", "target_ifindex", "attach_type", "flags")]


@pytest.fixture
def linked(pristine: ConfigFactory) -> Iterator[int]:
    """A program that a bpf_link holds on up0; the link's id."""
    with ExitStack() as stack:
        fd = stack.enter_context(bpf.opened(probe.load(ProgramType.XDP, returns=_XDP_PASS, name="other")))
        attributes = _LinkCreate(fd, interface_index("up0"), _ATTACH_TYPE_XDP)
        link = bpf.checked(bpf.call(_LINK_CREATE, attributes), "linking")
        yield bpf.link_info(stack.enter_context(bpf.opened(link))).id


@pytest.mark.parametrize("changes", [{}, TOLD], ids=["not told", "told"])
def test_one_that_a_link_holds_can_never_give_way(
    linked: int, configure: ConfigFactory, changes: dict[str, object]
) -> None:
    theirs = xdp_id("up0")
    with pytest.raises(
        KernelError, match=rf"up0: a bpf_link \(id {linked}\) holds .*: other \(id {theirs}\)$"
    ) as error:
        DataPlane(configure(**changes)).ensure()
    assert f"bpftool link detach id {linked}" in error.value.hint
    assert xdp_id("up0") == theirs


def test_a_dispatcher_is_known_by_its_name(put: Put, configure: ConfigFactory) -> None:
    """tests/bpf/dataplane/test_dispatcher.py has the real one, where the kernel lets libxdp have it."""
    theirs = put("up0", DISPATCHER)
    says = rf"up0: libxdp's dispatcher is attached, .*: {DISPATCHER} \(id {theirs}\) with nothing in it$"
    with pytest.raises(KernelError, match=says) as error:
        DataPlane(configure()).ensure()
    assert "xdp-loader unload up0 --all" in error.value.hint
