"""The configuration file: what it turns into, and what each mistake in it is told."""

import re
import tomllib
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfqlb.config.build import build, load, run_dir_in
from nfqlb.config.model import Config, Log
from nfqlb.config.problems import VALUE_WIDTH, ConfigError, Problem, shown
from nfqlb.config.schema.ha import HaGroupTable
from nfqlb.config.schema.tables import REPEATED, SINGLE, BackendTable
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Backend, Listener, Pool, RouteRule
from nfqlb.spelling import nearest

EXAMPLE = Path(__file__).parents[2] / "docs" / "nfqlb.example.toml"

GOOD = """
[gateway]
name = "lb"
secret_file = "secret"

[[listener]]
name = "main"
external = "203.0.113.5:5060"
internal = "192.168.1.5:5060"

[[pool]]
name = "registrars"
[[pool.backend]]
name = "reg1"
address = "192.168.1.11:5060"
[[pool.backend]]
name = "reg2"
address = "192.168.1.12:5080"
weight = 3
priority = 2

[[pool]]
name = "proxies"
hash_on = "source-ip"
[[pool.backend]]
name = "proxy1"
address = "192.168.1.21"

[[route]]
methods = ["REGISTER"]
pool = "registrars"

[[route]]
pool = "proxies"

[path]
policy = "if-supported"

[workers]
count = 2

[egress]
networks = ["10.0.0.0/8"]
"""


def read(text: str) -> Config:
    return build(Path("/etc/nfqlb/nfqlb.toml"), tomllib.loads(text))


def changed(*changes: tuple[str, str]) -> str:
    """GOOD with replacements, each of which must find its text."""
    text = GOOD
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def mistakes(text: str) -> list[str]:
    """The mistakes found in `text`, as a person reads them."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems if problem.severity == "error"]


def warnings(text: str) -> list[str]:
    return [str(problem) for problem in read(text).warnings]


def endpoint(text: str) -> Endpoint:
    return Endpoint.parse(text, 5060)


def test_a_good_file_becomes_the_values_that_the_gateway_works_with() -> None:
    config = read(GOOD)
    assert config.listeners == (Listener("main", endpoint("203.0.113.5"), endpoint("192.168.1.5")),)
    assert config.pools == (
        Pool(
            "registrars",
            (
                Backend("reg1", endpoint("192.168.1.11")),
                Backend("reg2", endpoint("192.168.1.12:5080"), weight=3, priority=2),
            ),
        ),
        Pool("proxies", (Backend("proxy1", endpoint("192.168.1.21")),), hash_on=("source-ip",)),
    )
    assert config.routes == (RouteRule("registrars", methods=frozenset({"REGISTER"})), RouteRule("proxies"))
    assert (config.path_policy, config.accept_unsigned) == ("if-supported", False)
    assert (config.workers.count, list(config.workers.queues)) == (2, [5060, 5061])
    assert config.gateway.run_dir == Path("/run/nfqlb")
    assert config.warnings == ()


def test_setup_takes_everything_over() -> None:
    config = read(GOOD)
    setup = config.setup(keys=(b"k" * 16,))
    assert (setup.name, setup.keys, setup.path_policy) == ("lb", (b"k" * 16,), "if-supported")
    assert (setup.listeners, setup.pools, setup.routes) == (config.listeners, config.pools, config.routes)
    assert setup.egress == (ip_network("10.0.0.0/8"),)
    everywhere = read(changed(('networks = ["10.0.0.0/8"]', ""))).setup(keys=(b"k" * 16,)).egress
    assert everywhere == (ip_network("0.0.0.0/0"), ip_network("::/0"))
    assert read(changed(('["10.0.0.0/8"]', "[]"))).setup(keys=(b"k" * 16,)).egress == ()


def test_one_worker_for_each_core_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 2, 5})
    assert read(changed(("count = 2", ""))).workers.count == 3
    assert read(changed(("count = 2", "count = 0"))).workers.count == 3


def test_the_defaults_need_no_table() -> None:
    config = read(re.sub(r"(?s)\[gateway\].*?(?=\[\[)|\[path\].*", "", GOOD))
    assert config.gateway.name == "lb"
    assert config.gateway.secret_file == Path("/etc/nfqlb/secret")
    assert config.path_policy == "always"
    assert config.workers.socket_buffer == 8 << 20
    assert config.workers.pin is True


def test_workers_need_not_stay_on_one_core() -> None:
    assert read(changed(("count = 2", "pin = false"))).workers.pin is False


def test_relative_secret_file_starts_from_the_directory_of_the_configuration() -> None:
    assert read(GOOD).gateway.secret_file == Path("/etc/nfqlb/secret")
    assert read(changed(('"secret"', '"/srv/keys"'))).gateway.secret_file == Path("/srv/keys")


def test_hosts_are_canonical() -> None:
    config = read(
        changed(
            ('internal = "192', 'aliases = ["SBC.example.ORG", "[2001:DB8::0:5]"]\ninternal = "192'),
            ('methods = ["REGISTER"]', 'domains = ["Example.org", "2001:DB8::0:5"]'),
        )
    )
    assert config.listeners[0].aliases == ("sbc.example.org", "2001:db8::5")
    assert config.routes[0].domains == {"example.org", "[2001:db8::5]"}


@pytest.mark.parametrize(
    ("written", "size"), [("65536", 1 << 16), ('"64 KiB"', 1 << 16), ('"8MiB"', 8 << 20), ('"1 GiB"', 1 << 30)]
)
def test_sizes(written: str, size: int) -> None:
    assert read(changed(("count = 2", f"socket_buffer = {written}"))).workers.socket_buffer == size


# Wrong in itself: one change to GOOD, and exactly what is said of it.
WRONG = [
    # addresses
    (
        ('"203.0.113.5:5060"', '"sbc.example.org"'),
        'listener[0].external = "sbc.example.org": expected an IP address and a port from 1 to 65535, '
        "such as 192.0.2.1:5060 or [2001:db8::1]:5060; host names are not looked up",
    ),
    (
        ('"192.168.1.11:5060"', '"reg1"'),
        'pool[0].backend[0].address = "reg1": expected an IP address and a port from 1 to 65535, such as '
        "192.0.2.1:5060 or [2001:db8::1]:5060, or a full name, such as reg1.example.org:5060: there is no domain to "
        "search in",
    ),
    (
        ('"192.168.1.11:5060"', '"_sip._tcp.example.org"'),
        'pool[0].backend[0].address = "_sip._tcp.example.org": expected _sip._udp. and a domain: SRV records are '
        "looked up for SIP over UDP only",
    ),
    (
        ('"192.168.1.11:5060"', '"_sip._udp.example.org:5060"'),
        'pool[0].backend[0].address = "_sip._udp.example.org:5060": SRV records tell ports of their own; '
        'did you mean "_sip._udp.example.org"?',
    ),
    (
        ('"192.168.1.11:5060"', '"reg1.example.org:70000"'),
        'pool[0].backend[0].address = "reg1.example.org:70000": expected a port from 1 to 65535 behind the name',
    ),
    (
        ("[workers]", '[dns]\nservers = ["dns.example.org"]\n[workers]'),
        'dns.servers[0] = "dns.example.org": expected the IP address of a DNS server, such as 192.0.2.53 or '
        "[2001:db8::53]:53",
    ),
    (
        ("[workers]", "[dns]\nmin_ttl = 60\nmax_ttl = 30\n[workers]"),
        "dns.min_ttl = 60: expected at most max_ttl, 30",
    ),
    (
        ("[workers]", "[limits]\nrequests = 9000\n[workers]"),
        "limits.ban_above = 8000: expected at least requests, 9000: nobody is banned for what may pass",
    ),
    (
        ("[workers]", '[limits]\nallow = ["198.51.100.7/24"]\n[workers]'),
        'limits.allow[0] = "198.51.100.7/24": the address has bits set beyond its prefix length; '
        'did you mean "198.51.100.0/24"?',
    ),
    (
        ('"192.168.1.11:5060"', '"192.168.1.11:0"'),
        'pool[0].backend[0].address = "192.168.1.11:0": expected an IP address and a port from 1 to 65535, '
        "such as 192.0.2.1:5060 or [2001:db8::1]:5060",
    ),
    (
        ('"192.168.1.21"', '"2001:db8::21"'),
        'pool[1].backend[0].address = "2001:db8::21": an IPv6 address is written in brackets; '
        'did you mean "[2001:db8::21]:5060"?',
    ),
    (
        ('"192.168.1.21"', '"[::ffff:192.168.1.21]"'),
        'pool[1].backend[0].address = "[::ffff:192.168.1.21]": an IPv4 address in IPv6 clothing never stands in '
        'a packet; did you mean "192.168.1.21:5060"?',
    ),
    (
        ('internal = "192.168.1.5:5060"', 'internal = "203.0.113.5:5060"\ninternal_interface = "eth1"'),
        'listener[0].internal_interface = "eth1": a one-armed listener has one socket: expected external_interface '
        "alone, or an internal address apart",
    ),
    (
        ('internal = "192.168.1.5:5060"', 'internal = "192.168.1.5:5060"\nexternal_interface = "eth 0"'),
        'listener[0].external_interface = "eth 0": expected the name of a network interface such as eth0',
    ),
    (
        ('"203.0.113.5:5060"', '"0.0.0.0:5060"'),
        'listener[0].external = "0.0.0.0:5060": the unspecified address is nobody\'s; name the very address',
    ),
    (
        ('"203.0.113.5:5060"', '"224.0.1.75:5060"'),
        'listener[0].external = "224.0.1.75:5060": a multicast address cannot be a SIP socket',
    ),
    (
        ('"192.168.1.5:5060"', '"127.0.0.1:5060"'),
        'listener[0].internal = "127.0.0.1:5060": a loopback address never passes through the packet path',
    ),
    (
        ('"192.168.1.21"', '"[fe80::1]:5060"'),
        'pool[1].backend[0].address = "[fe80::1]:5060": a link-local address means nothing on another interface',
    ),
    (
        ('"192.168.1.21"', '"255.255.255.255"'),
        'pool[1].backend[0].address = "255.255.255.255": this address is reserved',
    ),
    # types and ranges
    (("weight = 3", "weight = -3"), "pool[0].backend[1].weight = -3: expected a number of at least 0"),
    (("weight = 3", "weight = 1001"), "pool[0].backend[1].weight = 1001: expected a number of at most 1000"),
    (("weight = 3", 'weight = "3"'), 'pool[0].backend[1].weight = "3": expected a whole number'),
    (("weight = 3", "weight = 0.5"), "pool[0].backend[1].weight = 0.5: expected a whole number"),
    (("count = 2", "count = true"), "workers.count = true: expected a whole number"),
    (
        ('policy = "if-supported"', "accept_unsigned = 1"),
        "path.accept_unsigned = 1: expected true or false, without quotes",
    ),
    (
        ('methods = ["REGISTER"]', 'methods = "REGISTER"'),
        'route[0].methods = "REGISTER": expected a list such as ["…", "…"]',
    ),
    (
        ('methods = ["REGISTER"]', "methods = []"),
        "route[0].methods = []: expected at least one; where there is nothing to name, leave the key out",
    ),
    (
        ("count = 2", 'socket_buffer = "8 MB"'),
        'workers.socket_buffer = "8 MB": expected bytes, as a whole number or as "512 KiB", "8 MiB", "1 GiB"; '
        'did you mean "8 MiB"?',
    ),
    (("count = 2", "pin = 1"), "workers.pin = 1: expected true or false, without quotes"),
    (("count = 2", "socket_buffer = 1"), "workers.socket_buffer = 1: expected a number of at least 65536"),
    # names and words
    (
        ('"source-ip"', '"sourceip"'),
        'pool[1].hash_on = "sourceip": expected "call-id", "from-uri", "to-uri", "request-user", "auth-user" or '
        '"source-ip"; did you mean "source-ip"?',
    ),
    (
        ('name = "lb"', 'name = "l b"'),
        'gateway.name = "l b": expected 1 to 64 letters, digits, "-", "_" or "."; the first a letter or digit',
    ),
    (
        ('["REGISTER"]', '["register"]'),
        'route[0].methods[0] = "register": methods are written in capitals; did you mean "REGISTER"?',
    ),
    (
        ('methods = ["REGISTER"]', 'domains = ["*.example.org"]'),
        'route[0].domains[0] = "*.example.org": expected a host name such as sip.example.org, or an IP address; '
        "there are no wildcards",
    ),
    (
        ('methods = ["REGISTER"]', 'domains = ["example.org:5060"]'),
        'route[0].domains[0] = "example.org:5060": expected a host name such as sip.example.org, or an IP address; '
        "without a port",
    ),
    (
        ('methods = ["REGISTER"]', 'sources = ["10.0.0.1/8"]'),
        'route[0].sources[0] = "10.0.0.1/8": the address has bits set beyond its prefix length; '
        'did you mean "10.0.0.0/8"?',
    ),
    (
        ('methods = ["REGISTER"]', 'sources = ["office"]'),
        'route[0].sources[0] = "office": expected a network such as 192.0.2.0/24 or 2001:db8::/32',
    ),
    (
        ('secret_file = "secret"', 'run_dir = "run"'),
        'gateway.run_dir = "run": expected an absolute directory such as /run/nfqlb',
    ),
    (
        ("[path]", '[log]\nlevel = "warn"\n[path]'),
        'log.level = "warn": expected "debug", "info", "warning" or "error"; did you mean "warning"?',
    ),
    (
        ("[path]", '[log]\nformat = "jsn"\n[path]'),
        'log.format = "jsn": expected "text" or "json"; did you mean "json"?',
    ),
    (("[path]", "[log]\nlevel = 7\n[path]"), 'log.level = 7: expected "debug", "info", "warning" or "error"'),
    (("[path]", '[log]\nlevle = "info"\n[path]'), 'log.levle: unknown key; did you mean "level"?'),
    (("[path]", "[logs]\n[path]"), 'logs: unknown key; did you mean "log"?'),
    # keys and tables
    (("hash_on", "hashon"), 'pool[1].hashon: unknown key; did you mean "hash_on"?'),
    (
        ("weight", "colour"),
        'pool[0].backend[1].colour: unknown key in this table (of "name", "address", "weight" or "priority")',
    ),
    (('address = "192.168.1.21"', ""), "pool[1].backend[0].address: expected, but it is not there"),
    (
        ('address = "192.168.1.21"', 'adress = "192.168.1.21"'),
        'pool[1].backend[0].adress: unknown key; did you mean "address"?',
    ),
    (("[path]", "[paths]"), 'paths: unknown key; did you mean "path"?'),
    (("[path]", "[[path]]"), "path = [{…}]: expected one table, [path]"),
    (("[[route]]\npool", "[[routes]]\npool"), 'routes: unknown key; did you mean "route"?'),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[change[1][:40] for change, _ in WRONG])
def test_a_mistake_is_told_with_place_value_and_expectation(change: tuple[str, str], said: str) -> None:
    assert mistakes(changed(change)) == [said]


# Wrong together: changes to GOOD, and the one mistake.
CONTRADICTIONS = [
    (
        [('"192.168.1.5:5060"', '"[2001:db8::5]:5060"')],
        'listener[0].internal = "[2001:db8::5]:5060": expected IPv4 as in external; '
        "for the other IP version make a second listener",
    ),
    (
        [('internal = "', 'advertise = "[2001:db8::5]"\ninternal = "')],
        'listener[0].advertise = "[2001:db8::5]:5060": expected IPv4 as in external; '
        "for the other IP version make a second listener",
    ),
    (
        [('"192.168.1.21"', '"192.168.1.5"')],
        'pool[1].backend[0].address = "192.168.1.5:5060": this is a socket of ours: packets would go round in a circle',
    ),
    (
        [('"192.168.1.21"', '"192.168.1.5:5070"')],
        'pool[1].backend[0].address = "192.168.1.5:5070": an address of the gateway itself: '
        "what a backend there sends never enters the packet path",
    ),
    (
        [('"192.168.1.12:5080"', '"[2001:db8::12]:5060"')],
        'pool[0].backend[1].address = "[2001:db8::12]:5060": no listener has IPv6',
    ),
    (
        [('"192.168.1.12:5080"', '"192.168.1.11"')],
        'pool[0].backend[1].address = "192.168.1.11:5060": this pool has that address as pool[0].backend[0] '
        "already; for a larger share give it more weight",
    ),
    (
        [('name = "proxies"', 'name = "registrars"'), ('pool = "proxies"', 'pool = "registrars"')],
        'pool[1].name = "registrars": this name is taken by pool[0]',
    ),
    (
        [('"proxy1"', '"reg1"')],
        'pool[1].backend[0].name = "reg1": this name is taken by pool[0].backend[0]',
    ),
    (
        [('"192.168.1.21"', '"192.168.1.21"\nweight = 0')],
        "pool[1]: every backend has weight 0: expected one that takes requests",
    ),
    (
        [('pool = "proxies"', 'pool = "proxy"')],
        'route[1].pool = "proxy": no pool has this name; did you mean "proxies"?',
    ),
    (
        [('methods = ["REGISTER"]', 'listeners = ["mian"]')],
        'route[0].listeners[0] = "mian": no listener has this name; did you mean "main"?',
    ),
    (
        [('methods = ["REGISTER"]\n', "")],
        "route[1]: never reached: route[0] stands before it and matches everything",
    ),
    (
        [
            ('methods = ["REGISTER"]', 'sources = ["10.0.0.0/8"]\nmethods = ["REGISTER", "PUBLISH"]'),
            ('pool = "proxies"\n\n[path]', 'pool = "proxies"\nsources = ["10.9.8.7"]\nmethods = ["PUBLISH"]\n[path]'),
        ],
        "route[1]: never reached: route[0] stands before it and matches all that this one does",
    ),
    (
        [('["REGISTER"]', '["CANCEL"]')],
        'route[0].methods[0] = "CANCEL": CANCEL goes where its INVITE goes; write INVITE instead',
    ),
    (
        [("count = 2", "count = 2\nqueue = 65535")],
        "workers.queue = 65535: the queues of 2 workers end beyond 65535: expected a lower first number",
    ),
]


@pytest.mark.parametrize(("changes", "said"), CONTRADICTIONS, ids=[said[:40] for _, said in CONTRADICTIONS])
def test_a_contradiction_is_a_mistake(changes: list[tuple[str, str]], said: str) -> None:
    assert mistakes(changed(*changes)) == [said]


SECOND = '[[listener]]\nname = "second"\nexternal = "{0}"\ninternal = "{1}"\n'


@pytest.mark.parametrize(
    ("external", "internal", "said"),
    [
        (
            "203.0.113.5",
            "192.168.1.6",
            'listener[1].external = "203.0.113.5:5060": this socket is listener[0].external',
        ),
        (
            "203.0.113.6",
            "192.168.1.5",
            'listener[1].internal = "192.168.1.5:5060": this socket is listener[0].internal',
        ),
        (
            "192.168.1.5",
            "192.168.1.6",
            'listener[1].external = "192.168.1.5:5060": this socket is listener[0].internal',
        ),
    ],
)
def test_two_listeners_on_one_socket(external: str, internal: str, said: str) -> None:
    assert mistakes(GOOD + SECOND.format(external, internal)) == [f"{said} already"]


def test_one_armed_listener_and_two_ports_of_one_address_are_fine() -> None:
    assert read(changed(('"192.168.1.5:5060"', '"203.0.113.5:5060"'))).listeners[0].one_armed
    assert len(read(GOOD + SECOND.format("203.0.113.5:5070", "192.168.1.5:5070")).listeners) == 2


def test_same_listener_name_is_told_although_the_rest_of_the_table_is_wrong() -> None:
    found = mistakes(GOOD + SECOND.format("nowhere", "192.168.1.6").replace("second", "main"))
    assert found[-1] == 'listener[1].name = "main": this name is taken by listener[0]'
    assert len(found) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            [('pool = "proxies"\n\n[path]', 'pool = "proxies"\nmethods = ["INVITE"]\n[path]')],
            "route: requests that match no rule are answered 503; a last rule without conditions takes them",
        ),
        (
            [('pool = "proxies"', 'pool = "registrars"')],
            'pool[1].name = "proxies": no [[route]] leads to this pool; it gets no new requests',
        ),
        (
            [('["REGISTER"]', '["INVITE", "ACK"]')],
            'route[0].methods[1] = "ACK": ACK goes where its INVITE goes; leave it out',
        ),
        (
            [("[path]", SECOND.format("[2001:db8::1]", "[2001:db8::2]").replace("second", "six") + "[path]")],
            "route[0]: its pool registrars has no IPv6 backend, so listener six answers 503 here",
        ),
    ],
)
def test_what_only_looks_wrong_is_a_warning(changes: list[tuple[str, str]], said: str) -> None:
    assert said in warnings(changed(*changes))


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("key", ["listener", "pool", "route"])
def test_what_must_be_there(key: str, empty: bool) -> None:
    raw = tomllib.loads(GOOD)
    del raw[key]
    if empty:
        raw = {key: [], **raw}
    with pytest.raises(ConfigError) as caught:
        build(Path("x"), raw)
    assert str(caught.value) == f"x: {key}: expected at least one [[{key}]]"


def test_a_pool_needs_a_backend() -> None:
    assert mistakes(GOOD + '[[pool]]\nname = "empty"\n[[route]]\nsources = ["10.1.2.3"]\npool = "empty"') == [
        "pool[2]: a pool without backends: expected at least one [[pool.backend]]",
        "route[2]: never reached: route[1] stands before it and matches everything",
    ]


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file() -> None:
    text = changed(
        ('name = "lb"', 'nam = "lb"'),
        ('internal = "', 'force_rport = "yes"\ninternal = "'),
        ("weight = 3", "weight = true"),
        ('"192.168.1.21"', '"192.168.1.5"'),
        ('pool = "registrars"', 'pool = "registrar"\nlisteners = ["nobody"]'),
        ('["REGISTER"]', "[1]"),
        ("[egress]", "[egres]"),
    )
    assert [re.split(" = |: ", line)[0] for line in mistakes(text)] == [
        *("gateway.nam", "listener[0].force_rport", "pool[0].backend[1].weight", "pool[1].backend[0].address"),
        *("route[0].pool", "route[0].methods[0]", "route[0].listeners[0]", "egres"),
    ]


def test_the_error_lists_them_under_the_name_of_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        read(changed(("weight = 3", "weight = true"), ("count = 2", "cont = 2")))
    assert str(caught.value).splitlines() == [
        "/etc/nfqlb/nfqlb.toml has 2 mistakes:",
        "  pool[0].backend[1].weight = true: expected a whole number",
        '  workers.cont: unknown key; did you mean "count"?',
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[gateway]\nname = lb\n", "line 2, column 8: not TOML: invalid value"),
        (b"[gateway\n", "line 1, column 9: not TOML: expected ']' at the end of a table declaration"),
        (b"name = 1\nname = 2\n", "line 2, column 9: not TOML: cannot overwrite a value"),
        (b"name = \x22", "end of document: not TOML: unterminated string"),
        (b"\n\nname = \x22\xff\x22\n", "line 3: expected UTF-8 text"),
        (b"a = " + b"[" * 100_000, "file: the lists or tables in it are nested too deep"),
        (b"a = " + b"9" * 5000, "file: not TOML: a number in it has thousands of digits"),
        (b"#" * (5 << 20), "file: it is larger than 4 MiB; is it a configuration?"),
    ],
    ids=["value", "table", "twice", "string", "utf-8", "nested", "number", "size"],
)
def test_what_is_no_toml(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "nfqlb.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: {said}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, said in [
        (tmp_path / "none", "file: there is no such file; name another one with -c"),
        (tmp_path, "file: it cannot be read (Is a directory)"),
        (tmp_path / "a\0b", "file: it cannot be read (embedded null byte)"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value) == f"{path}: {said}"


def test_editors_of_other_systems_may_be_used(tmp_path: Path) -> None:
    path = tmp_path / "nfqlb.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load(path).pools == read(GOOD).pools


def uncommented() -> str:
    """The example with every commented key in force."""
    return re.sub(r"(?m)^#(?=\S)", "", EXAMPLE.read_text())


def test_the_example_is_right_as_it_stands_and_with_every_key_in_force() -> None:
    assert load(EXAMPLE).warnings == ()
    assert read(uncommented()).warnings == ()


def test_what_the_example_comments_out_are_the_defaults() -> None:
    plain, full = load(EXAMPLE), read(uncommented())
    assert full.gateway == build(Path("/etc/nfqlb/x"), tomllib.loads(EXAMPLE.read_text())).gateway
    assert (full.path_policy, full.accept_unsigned) == (plain.path_policy, plain.accept_unsigned)
    assert full.workers == plain.workers
    assert (full.health, full.pool_health) == (plain.health, plain.pool_health)
    assert full.setup(keys=()).egress == plain.setup(keys=()).egress
    assert (full.rules.backend, full.rules.forward) == (plain.rules.backend, plain.rules.forward)
    assert full.log == plain.log == Log()
    assert full.pools == plain.pools
    assert full.listeners[0].force_rport == plain.listeners[0].force_rport


def test_the_example_shows_every_key_there_is() -> None:
    raw = tomllib.loads(uncommented())
    for name, model in SINGLE.items():
        assert set(raw[name]) - {"group"} == set(model.model_fields), name
    for name, model in REPEATED.items():
        assert {key for table in raw[name] for key in table} - {"backend", "health"} == set(model.model_fields), name
    backends = [backend for pool in raw["pool"] for backend in pool["backend"]]
    assert {key for backend in backends for key in backend} == set(BackendTable.model_fields)
    assert {key for group in raw["ha"]["group"] for key in group} == set(HaGroupTable.model_fields)


# Whatever is done to a good file, the answer is a configuration or a list of places.
json_like = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20)).filter(
        lambda value: value is not None
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
words = st.sampled_from(["192.168.1.5:5060", "2001:db8::1", "[::]:1", "REGISTER", "0.0.0.0/0", "name", "backend", ""])


@st.composite
def mutations(draw: st.DrawFn) -> dict[str, object]:
    raw: dict[str, object] = tomllib.loads(uncommented() if draw(st.booleans()) else GOOD)
    for _ in range(draw(st.integers(1, 4))):
        node: object = raw
        while True:
            if isinstance(node, dict) and node:
                key = draw(st.sampled_from(sorted(node)))
            elif isinstance(node, list) and node:
                key = draw(st.integers(0, len(node) - 1))
            else:
                break
            child = node.get(key) if isinstance(node, dict) else node[key]
            if isinstance(child, dict | list) and draw(st.integers(0, 3)):
                node = child
                continue
            what = draw(st.sampled_from(["drop", "replace", "word", "add", "double"]))
            if what == "drop":
                del node[key]
            elif what == "replace":
                node[key] = draw(json_like)
            elif what == "word":
                node[key] = draw(words)
            elif what == "add" and isinstance(node, dict):
                node[draw(st.text(max_size=10))] = draw(json_like)
            elif what == "double" and isinstance(node, list):
                node.append(node[key])
            break
    return raw


def problems_of(act: Callable[[], object]) -> tuple[Problem, ...]:
    try:
        act()
    except ConfigError as error:
        return error.problems
    return ()


@pytest.mark.slow
@given(mutations())
def test_any_change_gives_a_configuration_or_places(raw: dict[str, object]) -> None:
    found = problems_of(lambda: build(Path("/etc/nfqlb/nfqlb.toml"), raw).setup(keys=(b"k" * 16,)))
    assert all(problem.place and problem.text for problem in found)
    assert not found or any(problem.severity == "error" for problem in found)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)), st.integers(0, len(GOOD)))
def test_any_bytes_give_a_configuration_or_places(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.toml"
    path.write_bytes(GOOD.encode()[:at] + junk + GOOD.encode()[at:])
    assert all(problem.place and problem.text for problem in problems_of(lambda: load(path)))


def test_shown_values_are_toml_on_one_line() -> None:
    assert [shown(each) for each in ("a\nb", True, 3, [1, "x"], {}, {"a": 1})] == [
        *('"a\\nb"', "true", "3", '[1, "x"]', "{}", "{…}"),
    ]
    assert len(shown("x" * 1000)) == VALUE_WIDTH


def test_nearest_looks_at_letters_not_at_case() -> None:
    assert nearest("Registers", ["REGISTER", "INVITE"]) == "REGISTER"
    assert nearest("x", ["REGISTER", "INVITE"]) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[gateway]\nrun_dir = "/run/b"\nnme = 1\n[[pool]]\n', "/run/b"),
        ("[gateway]\nrun_dir = 7\n", "/run/nfqlb"),
        ('[gateway]\nname = "lb"\n', "/run/nfqlb"),
        ("gateway = 7\n", "/run/nfqlb"),
        ("[gateway\n", "/run/nfqlb"),
        (None, "/run/nfqlb"),
    ],
)
def test_the_run_directory_of_a_file_with_mistakes(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "nfqlb.toml"
    if text is not None:
        path.write_text(text)
    assert run_dir_in(path) == Path(expected)
