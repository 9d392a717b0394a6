"""What a reload tells to have changed: every field of every table, and no word of a key."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nfqlb.config.build import build
from nfqlb.config.diff import differences, key_differences
from nfqlb.config.dns_backends import Named
from nfqlb.config.model import Config
from nfqlb.names.target import Target

TEXT = """
[gateway]
name = "lb"
secret_file = "secret"
run_dir = "/run/nfqlb"
[[listener]]
name = "main"
external = "203.0.113.5:5060"
internal = "192.168.1.5:5060"
[[listener]]
name = "second"
external = "203.0.113.6:5060"
internal = "192.168.1.6:5060"
[[pool]]
name = "regs"
[[pool.backend]]
name = "reg1"
address = "192.168.1.11:5060"
[[pool.backend]]
name = "reg2"
address = "192.168.1.12:5060"
[[pool]]
name = "proxies"
[[pool.backend]]
name = "proxy1"
address = "192.168.1.21:5060"
[[route]]
methods = ["REGISTER"]
pool = "regs"
[[route]]
pool = "proxies"
[path]
policy = "always"
[workers]
count = 2
[rules]
backend = "auto"
"""


def config(text: str = TEXT) -> Config:
    return build(Path("/etc/nfqlb/nfqlb.toml"), tomllib.loads(text))


def changed(*pairs: tuple[str, str]) -> Config:
    text = TEXT
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    return config(text)


def test_nothing_is_nothing() -> None:
    assert list(differences(config(), config())) == []


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ('name = "lb"', 'name = "gw"', ["gateway.name: lb → gw"]),
        ('"secret"', '"other"', ["gateway.secret_file: /etc/nfqlb/secret → /etc/nfqlb/other"]),
        ("/run/nfqlb", "/run/other", ["gateway.run_dir: /run/nfqlb → /run/other"]),
        ("203.0.113.5:5060", "203.0.113.5:5070", ["listener main: external: 203.0.113.5:5060 → 203.0.113.5:5070"]),
        ("192.168.1.6:5060", "192.168.1.7:5060", ["listener second: internal: 192.168.1.6:5060 → 192.168.1.7:5060"]),
        (
            '"192.168.1.5:5060"\n',
            '"192.168.1.5:5060"\naliases = ["a.example", "b.example"]\nforce_rport = "never"\n',
            ["listener main: aliases: nothing → a.example, b.example", "listener main: force_rport: auto → never"],
        ),
        ('"regs"\n', '"regs"\nhash_on = "from-uri"\n', ["pool regs: hash_on: call-id → from-uri"]),
        ("1.11:5060", "1.13:5060", ["pool regs: backend reg1: address: 192.168.1.11:5060 → 192.168.1.13:5060"]),
        ('1.12:5060"\n', '1.12:5060"\nweight = 0\n', ["pool regs: backend reg2: weight: 1 → 0"]),
        ('1.12:5060"\n', '1.12:5060"\npriority = 2\n', ["pool regs: backend reg2: priority: 1 → 2"]),
        ('["REGISTER"]', '["SUBSCRIBE", "REGISTER"]', ["route[0].methods: REGISTER → REGISTER, SUBSCRIBE"]),
        ('"always"', '"require"', ["path.policy: always → require"]),
        ('"always"', '"always"\naccept_unsigned = true', ["path.accept_unsigned: false → true"]),
        ("count = 2", "count = 3", ["workers.count: 2 → 3"]),
        ("count = 2", "count = 2\nqueue = 7000", ["workers.queue: 5060 → 7000"]),
        ("count = 2", "count = 2\nqueue_length = 99", ["workers.queue_length: 8192 → 99"]),
        ("count = 2", 'count = 2\nsocket_buffer = "1 MiB"', ["workers.socket_buffer: 8388608 → 1048576"]),
        ('"auto"', '"nft"', ["rules.backend: auto → nft"]),
        ('"auto"', '"auto"\nforward = false', ["rules.forward: true → false"]),
        ('"auto"', '"auto"\ninterfaces = ["eth0"]', ["rules.interfaces: nothing → eth0"]),
        ("[rules]", '[log]\nlevel = "debug"\n[rules]', ["log.level: info → debug"]),
        ("[rules]", '[log]\nformat = "json"\n[rules]', ["log.format: text → json"]),
        ("[rules]", '[egress]\nnetworks = ["10.0.0.0/8"]\n[rules]', ["egress.networks: nothing → 10.0.0.0/8"]),
    ],
)
def test_each_field(old: str, new: str, lines: list[str]) -> None:
    assert list(differences(config(), changed((old, new)))) == lines


def test_what_comes_and_goes() -> None:
    new = changed(
        ('[[pool.backend]]\nname = "reg2"\naddress = "192.168.1.12:5060"\n', ""),
        ('name = "proxy1"', 'name = "proxy2"'),
        ('[[listener]]\nname = "second"\nexternal = "203.0.113.6:5060"\ninternal = "192.168.1.6:5060"\n', ""),
        ('[[route]]\nmethods = ["REGISTER"]\npool = "regs"\n', ""),
        ('[[route]]\npool = "proxies"', '[[route]]\npool = "regs"'),
    )
    told = list(differences(config(), new))
    assert "listener second: removed" in told
    assert "pool regs: backend reg2: removed" in told
    assert "pool proxies: backend proxy1: removed" in told
    assert "pool proxies: backend proxy2: added (address 192.168.1.21:5060)" in told
    assert "route[0] of before: removed (REGISTER: pool regs)" in told
    assert "route[1] of before: removed (everything: pool proxies)" in told
    assert "route[0]: added (everything: pool regs)" in told
    back = list(differences(new, config()))
    assert "listener second: added (external 203.0.113.6:5060, internal 192.168.1.6:5060)" in back


def test_another_order_of_backends_is_said_to_mean_nothing() -> None:
    new = changed(
        ("reg1", "regX"), ("reg2", "reg1"), ("regX", "reg2"), ("1.11", "1.99"), ("1.12", "1.11"), ("1.99", "1.12")
    )
    assert list(differences(config(), new)) == [
        "pool regs: its backends stand in another order, which changes nothing",
    ]


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("listeners", "the listeners stand in another order"),
        ("pools", "the pools stand in another order, which changes nothing"),
        ("names", "pool regs: its backends that have names stand in another order"),
    ],
)
def test_another_order_of_tables_is_told(field: str, line: str) -> None:
    named = [Named("regs", f"reg{number}", Target(f"reg{number}.example.org", 5060)) for number in (8, 9)]
    old = replace(config(), names=tuple(named))
    turned: dict[str, Any] = {field: tuple(reversed(getattr(old, field)))}
    new = replace(old, **turned)
    assert list(differences(old, new)) == [line]


def test_no_table_of_the_configuration_is_forgotten() -> None:
    """Whatever plain field a Config gets, a change of it is told."""
    old = config()
    for field in fields(Config):
        value = getattr(old, field.name)
        if field.name in ("path", "warnings", "notes") or is_dataclass(value) or isinstance(value, Mapping):
            continue  # no setting; or a table, whose fields are gone through one by one
        if isinstance(value, tuple):
            other: Any = value[:-1] or (Named("regs", "reg9", Target("reg9.example.org", 5060)),)
        elif isinstance(value, bool):
            other = not value
        elif isinstance(value, str):
            other = f"{value}-other"
        else:
            assert value is None
            other = ()
        told = list(differences(old, replace(old, **{field.name: other})))
        assert told, field.name


ONE, TWO, THREE = b"1" * 32, b"2" * 32, b"3" * 32


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ((ONE,), (ONE,), []),
        ((ONE,), (ONE, TWO), ["secret: 1 keys added, 0 removed"]),
        ((ONE, TWO), (ONE,), ["secret: 0 keys added, 1 removed"]),
        ((ONE,), (TWO, ONE), ["secret: 1 keys added, 0 removed", "secret: another key signs from now on"]),
        ((ONE, TWO), (TWO, ONE), ["secret: another key signs from now on"]),
        ((ONE, TWO, THREE), (ONE, THREE, TWO), ["secret: the keys stand in another order"]),
        ((ONE,), (TWO,), ["secret: 1 keys added, 1 removed", "secret: another key signs from now on"]),
    ],
)
def test_keys_are_counted_and_never_shown(old: tuple[bytes, ...], new: tuple[bytes, ...], lines: list[str]) -> None:
    given = config().setup
    told = list(key_differences(given(old), given(new)))
    assert told == lines
    assert not any(key.decode() in line for key in (*old, *new) for line in told)
