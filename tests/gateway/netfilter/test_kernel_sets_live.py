"""Entries of sets, written and read over netlink, as the command `ipset` sees them."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from hostnet import Host

from nfqlb.errors import HostError
from nfqlb.gateway.netfilter.kernel_sets import KernelSets

pytestmark = pytest.mark.root

SETS = """\
create a4 hash:ip family inet timeout 600 counters comment
create a6 hash:ip family inet6 netmask 64 timeout 600 counters comment
create small4 hash:ip family inet timeout 600 maxelem 2
"""
ADDRESSES = {4: "192.0.2.7", 6: "2001:db8:1:2::"}


@pytest.fixture
def kernel(host: Host) -> Iterator[KernelSets]:
    host.run("sh", "-c", f"printf '{SETS}' | ipset restore")
    made = host.here(KernelSets)
    yield made
    made.close()


@pytest.mark.parametrize("family", [4, 6])
def test_an_entry_comes_is_seen_and_goes(host: Host, kernel: KernelSets, family: int) -> None:
    name, address = f"a{family}", ip_address(ADDRESSES[family])
    assert not kernel.has(name, address)
    assert kernel.entries(name) == []
    kernel.put(name, address, 99, 'the "why" of it'.replace('"', "'"))
    assert kernel.has(name, address)
    ((found, left),) = kernel.entries(name)
    assert found == address
    assert 0 < left <= 99
    assert f"add {name} {address} timeout" in host.run("ipset", "save", name)
    assert "comment \"the 'why' of it\"" in host.run("ipset", "save", name)
    kernel.remove(name, address)
    kernel.remove(name, address)  # no error
    assert kernel.entries(name) == []


def test_an_entry_that_is_there_keeps_its_counters(host: Host, kernel: KernelSets) -> None:
    host.run("ipset", "add", "a4", "192.0.2.7", "timeout", "10", "packets", "5", "bytes", "500")
    kernel.put("a4", ip_address("192.0.2.7"), 300, "junk")
    (line,) = (line for line in host.run("ipset", "save", "a4").splitlines() if line.startswith("add"))
    assert "packets 5 bytes 500" in line
    assert 'comment "junk"' in line
    assert kernel.entries("a4")[0][1] > 200


def test_a_set_of_many_is_read_whole(host: Host, kernel: KernelSets) -> None:
    wanted = {ip_address(f"10.0.{number // 256}.{number % 256}") for number in range(5000)}
    for address in wanted:
        kernel.put("a4", address, 600)
    found = kernel.entries("a4")
    assert len(found) == len(wanted)
    assert {address for address, _ in found} == wanted
    assert host.run("ipset", "list", "-terse", "a4").count("Number of entries: 5000") == 1


def test_what_is_wrong_is_told(kernel: KernelSets) -> None:
    one, two, three = map(ip_address, ("192.0.2.1", "192.0.2.2", "192.0.2.3"))
    for ask in (lambda: kernel.put("none", one, 1), lambda: kernel.has("none", one), lambda: kernel.entries("none")):
        with pytest.raises(HostError, match="there is no such set"):
            ask()
    kernel.put("small4", one, 9)
    kernel.put("small4", two, 9)
    with pytest.raises(HostError, match="the set is full"):
        kernel.put("small4", three, 9)
    assert kernel.has("small4", two)  # and the next question gets its own answer
