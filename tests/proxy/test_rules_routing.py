"""Part E of the rules: which route rule holds (P29), by every condition that there is."""

import pickle
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sipcase import OTHER, Gateway, endpoint, request, setup

from nfqlb.balance.pattern import PATTERN_MAX, Pattern, PatternError
from nfqlb.balance.pool import Backend, Pool
from nfqlb.balance.routes import ALL, TEXT_MAX, RouteRule, Routes
from nfqlb.config.checks.routes import covers, disjoint
from nfqlb.engine import Engine
from nfqlb.proxy.setup import HashOn, Setup
from nfqlb.proxy.verdict import Reason

HIT, MISS = "192.168.1.101:5060", "192.168.1.102:5060"


def routed(*rules: RouteRule, hash_on: tuple[HashOn, ...] = ("call-id",)) -> Setup:
    """A setup in which pool `hit` and pool `miss` have one backend each, and `miss` gets what no rule takes."""
    pools = (
        Pool("hit", (Backend("h", endpoint(HIT)),), hash_on),
        Pool("miss", (Backend("m", endpoint(MISS)),)),
    )
    return setup(pools=pools, routes=(*rules, RouteRule("miss")))


def one(**conditions: Any) -> Gateway:
    return Gateway(routed(RouteRule("hit", **conditions)))


def some(*texts: str) -> frozenset[str]:
    return frozenset(texts)


CASES: list[tuple[dict[str, object], str, str]] = [
    # conditions, a request that meets them, one that does not
    ({"methods": some("MESSAGE")}, request("MESSAGE"), request("INVITE")),
    ({"domains": some("gold.example.org")}, request(uri="sip:bob@GOLD.example.org"), request(uri="sip:bob@x.org")),
    ({"domains": some("gold.example.org")}, request(uri="sips:gold.example.org:5061;x=y"), request(uri="tel:+491")),
    ({"domains": some("[2001:db8::1]")}, request(uri="sip:bob@[2001:db8::1]"), request(uri="sip:bob@[2001:db8::2]")),
    ({"user_prefixes": some("+49", "0049")}, request(uri="sip:0049301@x"), request(uri="sip:0043301@x")),
    ({"user_prefixes": some("+49")}, request(uri="sip:%2B49301@x"), request(uri="sip:49301@x")),
    ({"user_prefixes": some("+4930")}, request(uri="tel:+49-(30)-1;phone-context=x"), request(uri="tel:+43")),
    ({"user_prefixes": some("a")}, request(uri="sip:alice@x"), request(uri="sip:a.example.org")),
    ({"user_regex": "^0[1-9]"}, request(uri="sip:0301@x"), request(uri="sip:00301@x")),
    ({"user_regex": "[0-9]{3}$"}, request(uri="sip:x123@x"), request(uri="sip:x12@x")),
    ({"from_domains": some("a.org")}, request(From='"x" <sip:x@A.org:5060;p=1>;tag=1'), request(From="<sip:x@b.org>")),
    ({"from_domains": some("a.org")}, request(From="sip:x@a.org;tag=1"), request(From="<tel:+49>;tag=1")),
    ({"to_domains": some("a.org")}, request(To="<sip:x@a.org>"), request(To="<sip:x@b.org>")),
    ({"user_agents": some("Acme", "Other")}, request("MESSAGE", User_Agent="the ACME phone"), request("MESSAGE")),
    ({"user_agents": some("Acme")}, request("MESSAGE", User_Agent="acme"), request("INVITE", User_Agent="acme")),
    (
        {"user_agent_regex": r"^Acme/[12]\."},
        request("MESSAGE", User_Agent="Acme/2.1"),
        request("MESSAGE", User_Agent="Acme/3.1"),
    ),
    ({"headers": some("event", "subject")}, request("MESSAGE", s="hello"), request("MESSAGE")),
    ({"headers": some("event")}, request("SUBSCRIBE", "sip:a@b", "o: reg"), request("INVITE", "sip:a@b", "o: reg")),
    ({"percent": 0.0, "methods": some("INVITE")}, "", request("INVITE")),
]


@pytest.mark.parametrize(("conditions", "hit", "miss"), CASES)
def test_P29_a_condition_holds_or_does_not(conditions: dict[str, object], hit: str, miss: str) -> None:
    gateway = one(**conditions)
    if hit:
        assert gateway.from_phone(hit).dst == HIT
    assert gateway.from_phone(miss).dst == MISS


def test_P29_the_source_and_the_listener_are_conditions() -> None:
    gateway = one(sources=(ip_network("198.51.100.0/24"),), listeners=some("main"))
    assert (gateway.from_phone(request(), OTHER).dst, gateway.from_phone(request()).dst) == (HIT, MISS)
    assert one(listeners=some("second")).from_phone(request()).dst == MISS


def test_P29_all_conditions_of_a_rule_have_to_hold_and_the_first_rule_wins() -> None:
    gateway = Gateway(
        routed(
            RouteRule("miss", methods=some("INVITE"), user_prefixes=some("9")),
            RouteRule("hit", methods=some("INVITE"), domains=some("x.org"), from_domains=some("example.org")),
        )
    )
    assert gateway.from_phone(request(uri="sip:8@x.org")).dst == HIT
    assert gateway.from_phone(request(uri="sip:9@x.org")).dst == MISS
    assert gateway.from_phone(request(uri="sip:8@y.org")).dst == MISS
    assert gateway.from_phone(request("MESSAGE", "sip:8@x.org")).dst == MISS


def test_P29_an_explanation_names_the_rule_and_its_conditions() -> None:
    result = one(user_prefixes=some("b"), percent=100.0).from_phone(request())
    told = [text for rule, text in result.trace if rule == "P29"]
    assert told[0] == "route[0] holds: user b…"
    assert told[1].startswith("pool hit by call-id call-1@")


def test_P29_long_texts_are_looked_at_in_part() -> None:
    gateway = one(user_agent_regex="end$")
    long = "x" * (TEXT_MAX - 3)
    assert gateway.from_phone(request("MESSAGE", User_Agent=f"{long}end")).dst == HIT
    assert gateway.from_phone(request("MESSAGE", User_Agent=f"{long}xend")).dst == MISS


@pytest.mark.slow
@pytest.mark.parametrize("hash_on", ["call-id", "from-uri", "to-uri", "request-user", "auth-user", "source-ip"])
def test_P29_a_canary_takes_its_part_of_the_keys_and_always_the_same(hash_on: HashOn) -> None:
    counts = {}
    taken: dict[float, set[int]] = {}
    for percent in (5.0, 20.0):
        engine = Gateway(routed(RouteRule("hit", percent=percent), hash_on=(hash_on,)))
        taken[percent] = set()
        for number in range(400):
            sources = {"src": f"172.31.{number // 200}.{number % 200 + 1}:5060"}
            fields = {
                "Call_ID": f"c{number}", "From": f"<sip:u{number}@x>;tag=1", "To": f"<sip:t{number}@x>",
                "Via": f"SIP/2.0/UDP {sources['src']};branch=z9hG4bK{number}",
            }  # fmt: skip
            uri = f"sip:r{number}@x"
            first = engine.from_phone(request("INVITE", uri, **fields), **sources).dst
            again = engine.from_phone(request("INVITE", uri, **fields), **sources).dst
            cancel = engine.from_phone(request("CANCEL", uri, **fields), **sources).dst
            fields["To"] += ";tag=x"
            ack = engine.from_phone(request("ACK", uri, **fields), **sources).dst
            assert first == again == cancel == ack
            if first == HIT:
                taken[percent].add(number)
        counts[percent] = len(taken[percent])
    # 400 keys: five standard deviations either way.
    assert 0 < counts[5.0] < 42
    assert 40 < counts[20.0] < 120
    assert taken[5.0] < taken[20.0]


def test_P29_two_canaries_do_not_share_their_keys() -> None:
    pools = tuple(Pool(name, (Backend(name, endpoint(f"192.168.1.{n}:5060")),)) for n, name in enumerate("abc", 101))
    rules = (RouteRule("a", percent=50), RouteRule("b", percent=50), RouteRule("c"))
    gateway = Gateway(setup(pools=pools, routes=rules))
    chosen = [gateway.from_phone(request(Call_ID=f"c{n}")).dst[-8:-5] for n in range(200)]
    assert all(chosen.count(each) > 20 for each in ("101", "102", "103"))


PRESENT: list[tuple[tuple[HashOn, ...], dict[str, str], str]] = [
    (("auth-user", "call-id"), {"row": 'Authorization: Digest username="carol"'}, "auth-user"),
    (("auth-user", "call-id"), {}, "call-id"),
    (("from-uri", "source-ip"), {"From": "<sip:x@y>;tag=1"}, "from-uri"),
    (("from-uri", "source-ip"), {"From": "<sip:y>;tag=1"}, "source-ip"),
    (("to-uri", "from-uri"), {"To": "<sip:y>", "From": "<tel:+49>;tag=1"}, "from-uri"),
    (("request-user", "to-uri", "call-id"), {"uri": "sip:example.org", "To": "<sip:y>"}, "call-id"),
    (("request-user", "to-uri", "call-id"), {"uri": "sip:example.org"}, "to-uri"),
    (("request-user", "to-uri"), {"uri": "tel:+49"}, "request-user"),
]


@pytest.mark.parametrize(("hash_on", "fields", "used"), PRESENT)
def test_P29_of_several_keys_the_first_counts_that_the_request_has(
    hash_on: tuple[HashOn, ...], fields: dict[str, str], used: str
) -> None:
    fields = dict(fields)
    rows = [fields.pop("row")] if "row" in fields else []
    uri = fields.pop("uri", "sip:bob@example.org")
    result = Gateway(routed(RouteRule("hit"), hash_on=hash_on)).from_phone(request("MESSAGE", uri, *rows, **fields))
    told = [text for rule, text in result.trace if rule == "P29"]
    assert told[-1].startswith(f"pool hit by {used} ")


def test_P29_a_list_of_keys_keeps_an_invite_and_what_belongs_to_it_together() -> None:
    """The INVITE has credentials, its CANCEL and ACK have none; and From names no user in half of the cases."""
    backends = tuple(Backend(f"b{n}", endpoint(f"192.168.1.{n + 1}:5060")) for n in range(50))
    lists: list[tuple[HashOn, ...]] = [("auth-user", "call-id"), ("auth-user", "source-ip"), ("to-uri", "auth-user")]
    for hash_on in lists:
        gateway = Gateway(setup(pools=(Pool("all", backends, hash_on),), routes=(RouteRule("all"),)))
        for number in range(20):
            sender = f"<sip:u{number}@x>;tag=1" if number % 2 else "<sip:x>;tag=1"
            fields = {"Call_ID": f"c{number}", "From": sender}
            row = f'Proxy-Authorization: Digest realm="x", username="carol{number}"'
            chosen = gateway.from_phone(request("INVITE", "sip:bob@x", row, **fields)).dst
            assert gateway.from_phone(request("CANCEL", "sip:bob@x", **fields)).dst == chosen
            assert (
                gateway.from_phone(request("ACK", "sip:bob@x", To="<sip:bob@example.org>;tag=9", **fields)).dst
                == chosen
            )


def test_P29_rules_go_through_a_pickle() -> None:
    """The engine is built in a child of the supervisor."""
    rule = RouteRule(
        "hit", methods=some("MESSAGE"), listeners=some("main"), domains=some("x"), user_prefixes=some("b"),
        user_regex="^b", from_domains=some("example.org"), to_domains=some("example.org"),
        sources=(ip_network("172.31.0.0/16"),), user_agents=some("acme"), user_agent_regex="(?i)^acme",
        headers=some("subject"), percent=99.999999,
    )  # fmt: skip
    gateway = Gateway(routed(rule))
    gateway.engine = pickle.loads(pickle.dumps(Engine(gateway.setup)))
    message = request("MESSAGE", "sip:bob@x", User_Agent="Acme", Subject="x")
    assert gateway.from_phone(message).dst == HIT
    assert gateway.from_phone(message.replace("bob@x", "rob@x")).dst == MISS


def test_P32_no_rule_holds() -> None:
    gateway = Gateway(setup(routes=(RouteRule("proxies", headers=some("event")),)))
    assert gateway.from_phone(request("MESSAGE")).reason is Reason.NO_BACKEND


# -- patterns ---------------------------------------------------------------------------------------------------------


def test_a_pattern_takes_any_bytes_in_linear_time() -> None:
    """Python's re would need 2**500 steps for the second one."""
    assert Pattern("ü").found("grün".encode())
    assert not Pattern("^(a+)+$").found(b"a" * 500 + b"!")
    assert not Pattern("^(a|a)*$").found(b"\xff\xfe\0")


@pytest.mark.parametrize("text", ["(a", r"(a)\1", "(?=a)", "a{5000}", "((a{100}){100}){100}", "a" * (PATTERN_MAX + 1)])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(PatternError, match=r"\w"):
        Pattern(text)


# -- what check says of rules, against the rules themselves -----------------------------------------------------------


@dataclass(frozen=True)
class Stub:
    """A request as rules ask it."""

    method: bytes
    listener: str
    source: bytes
    domain: bytes
    user: bytes
    from_domain: bytes
    to_domain: bytes
    user_agent: bytes
    headers: frozenset[bytes]
    number: int

    def key(self, pool: str) -> bytes:
        return b"%s %d" % (pool.encode(), self.number)


METHODS, NAMES, USERS, AGENTS = ("INVITE", "REGISTER", "MESSAGE"), ("a", "b"), ("", "1", "12", "2"), ("x", "Xy", "z")
NETWORKS = tuple(map(ip_network, ("10.0.0.0/8", "10.1.0.0/16", "192.168.0.0/16", "::/0")))
SOURCES = tuple(endpoint(text).addr for text in ("10.1.0.1:1", "10.2.0.1:1", "192.168.1.1:1", "[2001:db8::1]:1"))


def few(values: tuple[str, ...]) -> st.SearchStrategy[frozenset[str]]:
    return st.one_of(st.just(frozenset()), st.frozensets(st.sampled_from(values), max_size=2))


RULES = st.builds(
    RouteRule,
    pool=st.sampled_from(("p", "q")),
    methods=few(METHODS),
    listeners=few(NAMES),
    domains=few(NAMES),
    user_prefixes=few(USERS[1:]),
    user_regex=st.sampled_from((None, None, "^1", "2$")),
    from_domains=few(NAMES),
    to_domains=few(NAMES),
    sources=st.lists(st.sampled_from(NETWORKS), max_size=2).map(tuple),
    user_agents=few(AGENTS),
    user_agent_regex=st.sampled_from((None, None, "x")),
    headers=few(NAMES),
    percent=st.sampled_from((ALL, ALL, 80.0, 30.0)),
)

REQUESTS = st.builds(
    Stub,
    method=st.sampled_from(METHODS).map(str.encode),
    listener=st.sampled_from(NAMES),
    source=st.sampled_from(SOURCES),
    domain=st.sampled_from((*NAMES, "")).map(str.encode),
    user=st.sampled_from(USERS).map(str.encode),
    from_domain=st.sampled_from(NAMES).map(str.encode),
    to_domain=st.sampled_from(NAMES).map(str.encode),
    user_agent=st.sampled_from((*AGENTS, "")).map(str.encode),
    headers=st.frozensets(st.sampled_from((b"a", b"b", b"c"))),
    number=st.integers(0, 50),
)


def holds(rule: RouteRule, asked: Stub) -> bool:
    return Routes([rule]).first(asked) == 0


@pytest.mark.slow
@given(RULES, RULES, st.lists(REQUESTS, min_size=5, max_size=30))
def test_what_check_says_of_two_rules_is_so(before: RouteRule, after: RouteRule, requests: list[Stub]) -> None:
    for asked in requests:
        if covers(before, after):
            assert holds(before, asked) or not holds(after, asked)
        if disjoint(before, after):
            assert not (holds(before, asked) and holds(after, asked))


@pytest.mark.slow
@given(RULES, st.data())
def test_a_rule_covers_each_rule_made_narrower_from_it(wide: RouteRule, data: st.DataObject) -> None:
    """So that check does find what is never reached."""
    more = data.draw(RULES)
    keys = ("methods", "listeners", "domains", "from_domains", "to_domains", "headers", "user_prefixes", "user_agents")
    narrow = replace(wide, **{key: getattr(wide, key) or getattr(more, key) for key in (*keys, "sources")})
    assert covers(wide, narrow)


@pytest.mark.slow
@given(st.lists(RULES, max_size=5), REQUESTS, REQUESTS)
def test_P29_the_invite_and_its_cancel_meet_one_rule_whatever_headers_they_have(
    rules: list[RouteRule], one: Stub, other: Stub
) -> None:
    invite = replace(one, method=b"INVITE")
    cancel = replace(invite, user_agent=other.user_agent, headers=other.headers)
    assert Routes(rules).first(invite) == Routes(rules).first(cancel)
