"""[health] and what a pool says of its backends: values, mistakes, and what a reload tells."""

import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfqlb.balance.health import ACCEPTED, Check
from nfqlb.config.build import build
from nfqlb.config.diff import differences
from nfqlb.config.model import Config
from nfqlb.config.problems import ConfigError
from nfqlb.config.status_codes import FINAL, read_codes, written_codes

TEXT = """
[[listener]]
name = "main"
external = "203.0.113.5:5060"
internal = "192.168.1.5:5060"
[[pool]]
name = "regs"
#POOL
[[pool.backend]]
name = "reg1"
address = "192.168.1.11:5060"
[[pool.backend]]
name = "reg2"
address = "192.168.1.12:5060"
[[pool.backend]]
name = "old"
address = "192.168.1.13:5060"
weight = 0
#BELOW
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
"""


def config(health: str = "", *, pool: str = "", below: str = "") -> Config:
    """`health`: the table [health]; `pool`: keys of the pool regs; `below`: its table [pool.health]."""
    text = TEXT.replace("#POOL", pool).replace("#BELOW", f"[pool.health]\n{below}" if below else "")
    return build(Path("/etc/nfqlb/nfqlb.toml"), tomllib.loads(f"{text}\n[health]\n{health}"))


def mistakes(health: str = "", *, pool: str = "", below: str = "") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config(health, pool=pool, below=below)
    return [str(problem) for problem in caught.value.problems]


def test_the_defaults_are_those_of_the_check() -> None:
    plain = config()
    assert plain.health == plain.check("regs") == plain.check("proxies") == Check()
    regs, _ = plain.pools
    assert (regs.min_up, regs.panic, regs.warmup) == (1, "all", 0)
    assert plain.gateway.state_dir == Path("/var/lib/nfqlb")


def test_each_key_arrives() -> None:
    read = config(
        'interval = 2\ntimeout = 0.5\njitter = 0\nrise = 1\nfall = 4\naccept = [200, "4xx", "not 408"]\n'
        'method = "INFO"\nuri = "sip:ping@{address};x=y"\n',
        pool='min_up = 2\npanic = "none"\nwarmup = 7.5\n',
    )
    accept = frozenset((200, *range(400, 500))) - {408}
    assert read.health == Check(
        interval=2.0,
        timeout=0.5,
        jitter=0.0,
        rise=1,
        fall=4,
        method="INFO",
        uri="sip:ping@{address};x=y",
        accept=accept,
    )
    assert (read.pools[0].min_up, read.pools[0].panic, read.pools[0].warmup) == (2, "none", 7.5)


def test_a_pool_replaces_the_keys_that_it_names() -> None:
    read = config("interval = 9\nfall = 7\n", below="interval = 2\nrise = 5\n")
    assert read.check("proxies") == replace(Check(), interval=9.0, fall=7)
    assert read.check("regs") == replace(Check(), interval=2.0, fall=7, rise=5)
    again = config("interval = 9\n", below=f"interval = {Check().interval}\n")
    assert again.check("regs").interval == Check().interval, "the default too, where it is written"


CODES = 'expected a list of status codes from 200 to 699 and classes of them, such as ["2xx", "4xx", "not 408"]'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("interval = 0", "interval = 0: expected a number of at least 0.2"),
        ("interval = nan", "interval = nan: expected a number"),
        ("interval = inf", "interval = inf: expected a number"),
        ('interval = "5s"', 'interval = "5s": expected a number, without quotes'),
        ("interval = true", "interval = true: expected a number, without quotes"),
        ("jitter = 1", "jitter = 1: expected a number of at most 0.9"),
        ("fall = 0", "fall = 0: expected a number of at least 1"),
        ("rise = 1.5", "rise = 1.5: expected a whole number"),
        ("accept = []", "accept = []: no answer would do: expected one code or class that is not taken out again"),
        (
            'accept = ["408", "not 4xx"]',
            'accept = ["408", "not 4xx"]: no answer would do: expected one code or class that is not taken out again',
        ),
        ('accept = ["1xx"]', f'accept = ["1xx"]: {CODES}'),
        ("accept = [180]", f"accept = [180]: {CODES}"),
        ("accept = [true]", f"accept = [true]: {CODES}"),
        ('accept = "2xx"', f'accept = "2xx": {CODES}'),
        (
            'method = "INVITE"',
            'method = "INVITE": expected a method that makes no phone ring and is answered, such as OPTIONS',
        ),
        ('method = "options"', 'method = "options": methods are written in capitals; did you mean "OPTIONS"?'),
        ('uri = "sip:{host}"', 'uri = "sip:{host}": {address} is the only placeholder there is'),
        *(
            (f"uri = {text}", f"uri = {text}: expected a SIP URI such as sip:{{address}} or sip:ping@example.org")
            for text in ('"192.168.1.11"', '"sip:a b@{address}"', '"<sip:{address}>"', r'"sip:x\r\nRoute: y"', '"sip:"')
        ),
        ("intervall = 3", 'intervall: unknown key; did you mean "interval"?'),
        ("timeout = 6", "timeout = 6.0: expected at most the interval, 5: probes do not pile up"),
        ("interval = 0.5", "timeout = 1.0: expected at most the interval, 0.5: probes do not pile up"),
    ],
)
def test_mistakes_are_told_at_their_place(line: str, said: str) -> None:
    assert mistakes(line) == [f"health.{said}"]
    assert mistakes(below=line) == [f"pool[0].health.{said}"]


def test_what_is_wrong_for_all_is_told_once() -> None:
    assert mistakes("timeout = 8\n", below="rise = 1\n") == [
        "health.timeout = 8.0: expected at most the interval, 5: probes do not pile up"
    ]
    assert mistakes("interval = 20\ntimeout = 8\n", below="interval = 7\n") == [
        "pool[0].health.timeout = 8.0: expected at most the interval, 7: probes do not pile up"
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("min_up = 3", "min_up = 3: the alarm would never end: only 2 of this pool can take requests"),
        ("min_up = -1", "min_up = -1: expected a number of at least 0"),
        ('panic = "some"', 'panic = "some": expected "all" or "none"'),
        ("warmup = -0.5", "warmup = -0.5: expected a number of at least 0.0"),
        ("warmup = inf", "warmup = inf: expected a number"),
        ("health = 5", "health = 5: expected a table"),
    ],
)
def test_mistakes_of_a_pool(line: str, said: str) -> None:
    assert mistakes(pool=line) == [f"pool[0].{said}"]


def test_health_in_the_wrong_brackets() -> None:
    text = TEXT + "[[health]]\ninterval = 5\n"
    with pytest.raises(ConfigError, match=r"health = .*: expected one table, \[health\]"):
        build(Path("x"), tomllib.loads(text))


# -- what a reload tells


CHANGES = [
    ("enabled = false", "enabled: true → false"),
    ("interval = 2", "interval: 5.0 → 2.0"),
    ("timeout = 2", "timeout: 1.0 → 2.0"),
    ("jitter = 0", "jitter: 0.2 → 0.0"),
    ("rise = 1", "rise: 2 → 1"),
    ("fall = 9", "fall: 3 → 9"),
    ('accept = ["2xx", 404]', "accept: 2xx, 3xx, 4xx, not 408, 6xx → 2xx, 404"),
    ('method = "INFO"', "method: OPTIONS → INFO"),
    ('uri = "sip:x@y"', "uri: sip:{address} → sip:x@y"),
]


@pytest.mark.parametrize(("line", "told"), CHANGES)
def test_each_change_of_health_is_told(line: str, told: str) -> None:
    assert list(differences(config(), config(line))) == [f"health.{told}"]
    assert list(differences(config(), config(below=line))) == [f"pool regs: health.{told}"]


def test_no_field_of_a_check_is_forgotten_in_these_tests() -> None:
    assert {told.partition(":")[0] for _, told in CHANGES} == {field.name for field in fields(Check)}


def test_a_change_for_all_is_told_of_all_it_concerns() -> None:
    old, new = config("interval = 9\n", below="fall = 7\n"), config("interval = 8\n", below="fall = 7\n")
    assert list(differences(old, new)) == ["pool regs: health.interval: 9.0 → 8.0", "health.interval: 9.0 → 8.0"]
    assert list(differences(config(), config(below="interval = 5\n"))) == [], "written or not, it is the same"


@pytest.mark.parametrize(
    ("line", "told", "added"),
    [
        ("min_up = 2", "min_up: 1 → 2", "min_up 2"),
        ('panic = "none"', "panic: all → none", "panic none"),
        ("warmup = 30", "warmup: 0.0 → 30.0", "warmup 30.0"),
    ],
)
def test_each_change_of_a_pool_is_told(line: str, told: str, added: str) -> None:
    assert list(differences(config(), config(pool=line))) == [f"pool regs: {told}"]
    without = replace(config(), pools=config().pools[1:])
    assert f"pool regs: added ({added})" in list(differences(without, config(pool=line)))


# -- sets of codes


@given(st.frozensets(st.sampled_from(FINAL)))
def test_codes_are_read_as_they_are_written(codes: frozenset[int]) -> None:
    assert read_codes(written_codes(codes)) == codes


def test_codes_are_written_briefly() -> None:
    assert written_codes(ACCEPTED) == ["2xx", "3xx", "4xx", "not 408", "6xx"]
    assert written_codes(frozenset((200, 404))) == ["200", "404"]
    assert written_codes(frozenset()) == []


@pytest.mark.parametrize("item", ["", "xx", "7xx", "2XX", "20", "2000", "not", "not 2", "NOT 408", "not  408", "²00"])
def test_what_is_no_code(item: str) -> None:
    with pytest.raises(ValueError, match=f"^{item}$"):
        read_codes(["200", item])
