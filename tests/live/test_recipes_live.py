"""docs/recipes.md, its Kamailio: Debian's own kamailio.cfg, unchanged, with the local file and the gateway's
configuration as they stand on the page. Its addresses are those of the lab.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from livelab import fresh_name

from nfqlb.lab import kamailio, namespaces
from nfqlb.lab.baresip import Baresip
from nfqlb.lab.demo import call
from nfqlb.lab.lab import Lab
from nfqlb.lab.ladder import Passage, header, messages, passages
from nfqlb.lab.topology import Node, Plan
from nfqlb.net.endpoint import Endpoint

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
STOCK = Path("/etc/kamailio/kamailio.cfg")
"""The package's; a conffile, so an administrator may have changed it, and then this is about his."""
SECTION = re.search(r"^## Kamailio .*?(?=^## )", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def block(language: str) -> str:
    """The first block of that language in the recipe."""
    assert SECTION is not None
    found = re.search(rf"^```{language}\n(.*?)^```$", SECTION[0], re.MULTILINE | re.DOTALL)
    assert found is not None, f"no block of {language} in the recipe"
    return found[1]


class Stock(Lab):
    """Two registrars from the package, and the gateway of the page."""

    def start_backend(self, node: Node) -> None:
        directory = self.dir / node.role
        directory.mkdir()
        config = directory / "kamailio.cfg"
        config.write_bytes(STOCK.read_bytes())
        first = self.plan.registrar_nodes[0].host
        (directory / "kamailio-local.cfg").write_text(block("kamailio").replace(first, node.host))
        argv = kamailio.command(config, directory)
        self._processes[node.role] = namespaces.spawn(self.plan.namespace(node.role), argv, directory / "log")

    def write_config(self) -> None:
        super().write_config()
        own = self.config.read_text().partition("\n[[listener]]")[0]
        self.config.write_text(f"{own}\n{block('toml')}\n[health]\nenabled = false\n")


@pytest.fixture
def lab() -> Iterator[Stock]:
    with Stock(Plan(fresh_name(), proxies=0), probes=False) as lab:
        yield lab


def test_phones_behind_nat_call_and_are_called_through_debians_own_kamailio(lab: Stock) -> None:
    home, public = lab.plan.home[0], lab.plan.phones[0]
    with lab.tap() as tap, lab.softphone("alice", home) as alice, lab.softphone("dave", public) as dave:
        for phone in (alice, dave):
            phone.registered()
        for caller, callee, ender in both_ways(alice, dave):
            call(caller, callee, ender)
        seen = passages(messages(tap.settled()))
    assert {passage.title.split()[0] for passage in seen if passage.title[:1].isdigit()} <= {"100", "180", "200"}
    # The REGISTER of each and the calls to each met, and not all at one registrar.
    met = [registrars_of(lab.plan, seen, user) for user in ("alice", "dave")]
    assert [len(each) for each in met] == [1, 1], met
    assert met[0] != met[1]


def both_ways(one: Baresip, other: Baresip) -> list[tuple[Baresip, Baresip, Baresip]]:
    """Each calls the other, and each side hangs up: caller, callee, who hangs up."""
    return [(a, b, ender) for a, b in ((one, other), (other, one)) for ender in (a, b)]


def registrars_of(plan: Plan, seen: list[Passage], user: str) -> set[Endpoint]:
    """Which registrars the user's REGISTERs, and the calls to the user, came to."""
    registrars = {Endpoint.parse(f"{node.host}:5060") for node in plan.registrar_nodes}
    return {
        passage.left.target
        for passage in seen
        if passage.left is not None
        and passage.left.target in registrars
        and passage.title in ("REGISTER", "INVITE")
        and f"sip:{user}@" in (header(passage.left.payload, "to") or "")
    }
