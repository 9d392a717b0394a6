"""What `nfqlb check` says of route rules: conditions of a wrong form, rules never reached, rules that overlap."""

import pytest
from test_config import GOOD, mistakes, read, warnings

HEAD = GOOD.partition("[[route]]")[0]
LAST = '[[route]]\npool = "proxies"\n'


def routes(*tables: str, head: str = HEAD) -> str:
    """A configuration with these rules, and `proxies` for what they leave."""
    return head + "".join(f"[[route]]\n{table}\n" for table in tables) + LAST


def notes(text: str) -> list[str]:
    return [str(problem) for problem in read(text).notes]


REG = 'pool = "registrars"'

WRONG = [
    (
        f'user_prefixes = ["sip:49"]\n{REG}',
        'route[0].user_prefixes[0] = "sip:49": expected how the user part of a SIP URI begins, such as +49, without ',
    ),
    (
        f'user_regex = "(a"\n{REG}',
        "route[0].user_regex = \"(a\": expected a regular expression in RE2's syntax: missing ): (a",
    ),
    (f"user_regex = 5\n{REG}", "route[0].user_regex = 5: expected text, in quotes"),
    (
        f'methods = ["MESSAGE"]\nheaders = ["o"]\n{REG}',
        'route[0].headers[0] = "o": expected the long name; did you mean "event"?',
    ),
    (
        f'methods = ["MESSAGE"]\nheaders = ["a b"]\n{REG}',
        'route[0].headers[0] = "a b": expected the name of a header such as P-Asserted-Identity',
    ),
    (
        f'methods = ["MESSAGE"]\nuser_agents = [""]\n{REG}',
        'route[0].user_agents[0] = "": expected one printable character or more',
    ),
    (f"percent = 101\n{REG}", "route[0].percent = 101: expected a number of at most 100"),
    (f"percent = nan\n{REG}", "route[0].percent = nan: expected a number of at most 100"),
    (f'percent = "5"\n{REG}', 'route[0].percent = "5": expected a number, without quotes'),
    (f'from_domains = ["*.org"]\n{REG}', 'route[0].from_domains[0] = "*.org": expected a host name'),
]  # fmt: skip


@pytest.mark.parametrize(("table", "said"), WRONG)
def test_a_condition_of_a_wrong_form(table: str, said: str) -> None:
    [mistake] = mistakes(routes(table))
    assert mistake.startswith(said)


@pytest.mark.parametrize("condition", ['headers = ["Event"]', 'user_agents = ["x"]', 'user_agent_regex = "x"'])
@pytest.mark.parametrize("methods", ["", 'methods = ["INVITE"]\n', 'methods = ["MESSAGE", "INVITE"]\n'])
def test_P29_what_a_cancel_may_lack_is_no_condition_for_an_invite(condition: str, methods: str) -> None:
    [mistake] = mistakes(routes(f"{methods}{condition}\n{REG}"))
    assert mistake.startswith(f"route[0].{condition.partition(' ')[0]}: an INVITE need not share it with its CANCEL")
    assert read(routes(f'methods = ["MESSAGE"]\n{condition}\n{REG}')).routes[0].methods == {"MESSAGE"}


DEAD = [
    (f'user_prefixes = ["+49"]\n{REG}', f'user_prefixes = ["+4930", "+4989"]\n{REG}'),
    (f'user_regex = "^1"\n{REG}', f'user_regex = "^1"\ndomains = ["x.org"]\n{REG}'),
    (f'from_domains = ["a.org", "b.org"]\n{REG}', f'from_domains = ["a.org"]\npercent = 5\n{REG}'),
    (f'to_domains = ["a.org", "b.org"]\n{REG}', f'to_domains = ["A.org"]\n{REG}'),
    (f"percent = 10\n{REG}", f"percent = 5\n{REG}"),
    (
        f'methods = ["MESSAGE"]\nuser_agents = ["acme"]\n{REG}',
        f'methods = ["MESSAGE"]\nuser_agents = ["Acme 3"]\n{REG}',
    ),
    (f'methods = ["MESSAGE"]\nheaders = ["event", "to"]\n{REG}', f'methods = ["MESSAGE"]\nheaders = ["to"]\n{REG}'),
]


@pytest.mark.parametrize(("before", "after"), DEAD)
def test_a_rule_that_is_never_reached(before: str, after: str) -> None:
    said = "route[1]: never reached: route[0] stands before it and matches all that this one does"
    assert mistakes(routes(before, after)) == [said]
    assert read(routes(after, before)).notes == ()


ALIVE = [
    (f'user_prefixes = ["+4930"]\n{REG}', f'user_prefixes = ["+49"]\n{REG}'),
    (f'user_regex = "^1"\n{REG}', f'user_regex = "^12"\n{REG}'),
    (f"percent = 5\n{REG}", f"percent = 10\n{REG}"),
    (f"percent = 50\n{REG}", 'percent = 50\npool = "proxies"'),
    (f'user_prefixes = ["1"]\nfrom_domains = ["x.org"]\n{REG}', f'user_prefixes = ["1"]\n{REG}'),
]


@pytest.mark.parametrize(("before", "after"), ALIVE)
def test_rules_that_only_look_alike(before: str, after: str) -> None:
    assert read(routes(before, after)).routes


def test_a_source_of_another_ip_version_than_the_listeners() -> None:
    said = "route[0].sources: never reached: the listeners have IPv4 only"
    assert mistakes(routes(f'sources = ["2001:db8::/32"]\n{REG}')) == [said]
    named = f'listeners = ["main"]\nsources = ["2001:db8::/32"]\n{REG}'
    assert mistakes(routes(named)) == ["route[0].sources: never reached: its listeners have IPv4 only"]
    assert read(routes(f'sources = ["2001:db8::/32", "10.0.0.0/8"]\n{REG}')).routes


def test_rules_that_overlap_are_a_note_and_no_warning() -> None:
    text = routes(f'methods = ["REGISTER"]\n{REG}', 'sources = ["10.0.0.0/8"]\npool = "proxies"')
    assert notes(text) == ["route[1]: what route[0] matches too goes there, as the first rule that holds counts"]
    assert warnings(text) == []


NO_OVERLAP = [
    (f'methods = ["REGISTER"]\n{REG}', 'methods = ["INVITE"]\nsources = ["10.0.0.0/8"]\npool = "proxies"'),
    (f'user_prefixes = ["1"]\n{REG}', 'user_prefixes = ["2"]\ndomains = ["x.org"]\npool = "proxies"'),
    (f'sources = ["10.0.0.0/8"]\n{REG}', 'sources = ["192.168.0.0/16"]\ndomains = ["x.org"]\npool = "proxies"'),
    (f'methods = ["REGISTER"]\n{REG}', f'sources = ["10.0.0.0/8"]\n{REG}'),  # both to one pool
    (f"percent = 5\n{REG}", 'sources = ["10.0.0.0/8"]\npool = "proxies"'),  # a canary takes its part on purpose
    (f'methods = ["REGISTER"]\ndomains = ["x.org"]\n{REG}', 'methods = ["REGISTER"]\npool = "proxies"'),  # exception
    (f'domains = ["x.org"]\n{REG}', 'percent = 5\npool = "proxies"'),
]


@pytest.mark.parametrize(("before", "after"), NO_OVERLAP)
def test_rules_that_do_not_overlap_or_are_meant_to(before: str, after: str) -> None:
    assert notes(routes(before, after)) == []


def test_a_canary_that_is_switched_off_is_a_note() -> None:
    text = routes(f"percent = 0\n{REG}", f'methods = ["REGISTER"]\n{REG}')
    assert notes(text) == ["route[0].percent = 0: takes nothing as long as it is 0"]


KEYS = [
    ('"callid"', '"callid": expected "call-id", "from-uri"'),
    (
        '["call-id", "source-ip"]',
        '["call-id", "source-ip"]: every request has call-id, so what stands behind it is never',
    ),
    ('["to-uri", "to-uri"]', '["to-uri", "to-uri"]: to-uri stands in the list twice'),
    ('["to-uri", "user"]', '["to-uri", "user"]: expected "call-id"'),
    ("[]", "[]: expected "),
    ("5", "5: expected "),
]


@pytest.mark.parametrize(("written", "said"), KEYS)
def test_lists_of_keys_that_make_no_sense(written: str, said: str) -> None:
    [mistake] = mistakes(GOOD.replace('hash_on = "source-ip"', f"hash_on = {written}"))
    assert mistake.startswith(f"pool[1].hash_on = {said}")


def test_a_list_of_keys() -> None:
    config = read(GOOD.replace('hash_on = "source-ip"', 'hash_on = ["auth-user", "request-user", "call-id"]'))
    assert [pool.hash_on for pool in config.pools] == [("call-id",), ("auth-user", "request-user", "call-id")]
