"""Which requests are settled by their method and listener alone; and a table that nobody is in."""

import pytest

from nfqlb.balance import maglev
from nfqlb.balance.routes import RouteRule, Routes

CALLS = RouteRule("calls", methods=frozenset({"INVITE"}), listeners=frozenset({"main"}))
BOB = RouteRule("bob", methods=frozenset({"MESSAGE"}), user_prefixes=frozenset({"bob"}))
OTHERS = RouteRule("others", listeners=frozenset({"main"}))


@pytest.mark.parametrize(
    ("method", "listener", "pool"),
    [
        (b"INVITE", "main", "calls"),
        (b"ACK", "main", "calls"),
        (b"CANCEL", "main", "calls"),
        (b"REGISTER", "main", "others"),
        (b"MESSAGE", "main", None),
        (b"INVITE", "second", None),
    ],
)
def test_P29_a_pool_is_settled_where_nothing_else_is_asked(method: bytes, listener: str, pool: str | None) -> None:
    """MESSAGE depends on the user; at `second` no rule holds."""
    assert Routes([CALLS, BOB, OTHERS]).settled(method, listener) == pool


def test_P30_a_table_of_nobody_is_empty() -> None:
    for members in ([], [("a", 0), ("b", 0)]):
        assert not maglev.build(members, 7)
