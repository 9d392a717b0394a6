"""Part E of the rules: which backend a new request goes to (P29, P30, P32)."""

from fractions import Fraction
from ipaddress import ip_network

import pytest
from sipcase import OTHER, PHONE, PROXY1, REG1, REG2, Gateway, endpoint, request, setup, standing

from nfqlb.balance import maglev
from nfqlb.balance.pool import Backend, Pool
from nfqlb.balance.states import State
from nfqlb.net.networks import NetworkSet
from nfqlb.proxy.setup import HashOn, RouteRule
from nfqlb.proxy.verdict import Reason


def farm(count: int, hash_on: HashOn = "call-id") -> Gateway:
    backends = tuple(Backend(f"b{n}", endpoint(f"192.168.1.{n + 1}:5060")) for n in range(count))
    return Gateway(setup(pools=(Pool("all", backends, (hash_on,)),), routes=(RouteRule("all"),)))


AUTH = 'Authorization: Digest realm="x", username="carol", uri="sip:x"'

KEYS: list[tuple[HashOn, dict[str, str], dict[str, str]]] = [
    ("call-id", {"From": "<sip:x@y>;tag=1"}, {"Call_ID": "other"}),
    ("from-uri", {"From": '"A" <sip:alice@EXAMPLE.org:5060;x=y>;tag=9', "Call_ID": "o"}, {"From": "<sip:x@y>;tag=f1"}),
    ("to-uri", {"To": "<sip:bob@example.org;user=phone>;tag=9", "Call_ID": "o"}, {"To": "<sip:carol@example.org>"}),
    ("request-user", {"To": "<sip:x@y>", "Call_ID": "o"}, {}),
    ("auth-user", {"To": "<sip:x@y>", "Call_ID": "o"}, {"From": "<sip:zed@example.org>;tag=f1"}),
    ("source-ip", {"To": "<sip:x@y>", "Call_ID": "o"}, {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("hash_on", "same", "other"), KEYS)
def test_P29_the_key_decides_and_nothing_else(hash_on: HashOn, same: dict[str, str], other: dict[str, str]) -> None:
    gateway = farm(100, hash_on)
    chosen = gateway.from_phone(request()).dst
    assert gateway.from_phone(request(**same)).dst == chosen
    changed = gateway.from_phone(
        request("INVITE", "sip:dave@example.org" if hash_on == "request-user" else "sip:bob@example.org", **other),
        OTHER if hash_on == "source-ip" else PHONE,
    )
    assert changed.dst != chosen


@pytest.mark.parametrize("hash_on", [key[0] for key in KEYS])
def test_P29_invite_its_cancel_its_ack_and_retransmissions_make_one_choice(hash_on: HashOn) -> None:
    gateway = farm(50, hash_on)
    for number in range(20):
        fields = {"Call_ID": f"c{number}", "From": f"<sip:u{number}@x>;tag=1"}
        chosen = gateway.from_phone(request("INVITE", "sip:bob@x", AUTH, **fields)).dst
        assert gateway.from_phone(request("INVITE", "sip:bob@x", AUTH, **fields)).dst == chosen
        assert gateway.from_phone(request("CANCEL", "sip:bob@x", **fields)).dst == chosen
        assert gateway.from_phone(request("ACK", "sip:bob@x", To="<sip:bob@example.org>;tag=9", **fields)).dst == chosen


def test_P29_auth_user_is_the_user_name_of_the_credentials() -> None:
    gateway = farm(100, "auth-user")
    with_auth = gateway.from_phone(request("REGISTER", "sip:x", AUTH)).dst
    assert gateway.from_phone(request("REGISTER", "sip:x", From="<sip:carol@z>;tag=1")).dst == with_auth
    assert gateway.from_phone(request("REGISTER", "sip:x")).dst != with_auth


def test_P29_rules_choose_the_pool_and_ack_and_cancel_follow_their_invite() -> None:
    gateway = Gateway(
        setup(
            routes=(
                RouteRule("proxies", methods=frozenset(("INVITE",)), domains=frozenset(("gold.example.org",))),
                RouteRule("proxies", sources=(ip_network("198.51.100.0/24"), ip_network("2001:db8::/32"))),
                RouteRule("proxies", listeners=frozenset(("nobody",))),
                RouteRule("registrars"),
            )
        )
    )
    for method in ("INVITE", "ACK", "CANCEL"):
        assert gateway.from_phone(request(method, "sip:bob@Gold.Example.org")).dst == PROXY1
    assert gateway.from_phone(request("OPTIONS", "sip:bob@gold.example.org")).dst in (REG1, REG2)
    assert gateway.from_phone(request("OPTIONS"), OTHER).dst == PROXY1


def test_P30_tables_do_not_depend_on_the_order_in_the_file() -> None:
    names = [("a", 1), ("b", 2), ("c", 1), ("d", 3)]
    size = maglev.table_size([weight for _, weight in names])
    one = [names[index][0] for index in maglev.build(names, size)]
    other = [names[::-1][index][0] for index in maglev.build(names[::-1], size)]
    assert one == other


def naive_maglev(members: list[tuple[str, int]], size: int) -> list[str]:
    """An independent oracle, after the pseudocode of the paper: explicit permutations, and turns by exact fractions."""
    from hashlib import blake2b

    permutations = []
    for name, _ in sorted(members):
        digest = blake2b(name.encode(), digest_size=16, person=b"nfqlb-maglev").digest()
        offset = int.from_bytes(digest[:8], "big") % size
        skip = int.from_bytes(digest[8:], "big") % (size - 1) + 1
        permutations.append((name, [(offset + j * skip) % size for j in range(size)]))
    weights = [weight for _, weight in sorted(members)]
    turns = sorted((Fraction(k, weight), i) for i, weight in enumerate(weights) for k in range(1, size + 1))
    entry: list[str | None] = [None] * size
    nexts = [0] * len(members)
    for _, i in turns[:size]:
        name, permutation = permutations[i]
        while entry[permutation[nexts[i]]] is not None:
            nexts[i] += 1
        entry[permutation[nexts[i]]] = name
    return [name or "" for name in entry]


@pytest.mark.parametrize("weights", [[1] * 7, [10] * 3, [3, 1, 7, 2], [10, 9], [1], [1000, 1, 1, 999]])
def test_P30_the_table_is_maglevs(weights: list[int]) -> None:
    members = [(f"m{n}", weight) for n, weight in enumerate(weights)]
    assert [members[index][0] for index in maglev.build(members, 1021)] == naive_maglev(members, 1021)


def test_P32_nothing_to_choose_from_gets_503_with_retry_after() -> None:
    down = Gateway(standings=standing({("proxies", "proxy1"): State.DISABLED})).send_only(
        PHONE, "203.0.113.5:5060", request()
    )
    no_rule = Gateway(setup(routes=(RouteRule("registrars", methods=frozenset(("REGISTER",))),))).from_phone(request())
    for result in (down, no_rule):
        assert result.reason is Reason.NO_BACKEND
        assert result.lines[0] == "SIP/2.0 503 Service Unavailable"
        assert int(result.header("Retry-After")) > 0


def test_network_sets_keep_ip_versions_apart() -> None:
    networks = NetworkSet([ip_network("0.0.0.0/0")])
    assert endpoint("9.9.9.9:1").addr in networks
    assert endpoint("[::1]:1").addr not in networks
