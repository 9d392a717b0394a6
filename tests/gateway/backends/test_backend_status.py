"""What operators say, what is known of health, and what comes of both; kept over restarts."""

from pathlib import Path

import pytest

from nfqlb.balance.states import WHOLE, Standing, State
from nfqlb.gateway.backends import overrides
from nfqlb.gateway.backends import status as backends_status
from nfqlb.gateway.backends.overrides import Override, OverridesError
from nfqlb.gateway.backends.status import BackendStatuses, Record

A, B = ("p", "a"), ("p", "b")
ADDRESSES = {A: "192.0.2.1:5060", B: "192.0.2.2:5060"}


def statuses(warmup: float = 0.0, **said: Override) -> BackendStatuses:
    made = BackendStatuses({("p", name): override for name, override in said.items()}, {})
    made.adopt(ADDRESSES, {A: warmup, B: warmup} if warmup else {}, 0.0)
    return made


def state(one: BackendStatuses, now: float = 1.0) -> State:
    return one.standings([A], now)[A].state


# -- standings


def test_nothing_is_known_of_a_new_one() -> None:
    assert statuses().standings([A, B], 1.0) == {A: Standing(State.UNKNOWN), B: Standing(State.UNKNOWN)}


@pytest.mark.parametrize("health", [State.UNKNOWN, State.UP, State.DOWN])
@pytest.mark.parametrize("word", [State.DRAINING, State.DISABLED])
def test_what_an_operator_says_outranks_health(word: State, health: State) -> None:
    one = statuses()
    one.heard(A, health, "", 1.0)
    one.say(A, Override(word, 2.0), 2.0)
    assert state(one, 3.0) is word
    one.say(A, None, 4.0)
    assert state(one, 5.0) is health


def test_health_goes_on_being_heard_of_one_that_is_out() -> None:
    one = statuses()
    one.say(A, Override(State.DRAINING, 1.0), 1.0)
    assert one.heard(A, State.DOWN, "no answer", 2.0)
    assert state(one, 2.0) is State.DRAINING
    one.say(A, None, 3.0)
    assert state(one, 3.0) is State.DOWN


def test_an_order_ends_when_its_time_is_over_and_that_is_known_before() -> None:
    one = statuses()
    one.say(A, Override(State.DISABLED, 10.0, 20.0), 10.0)
    assert one.next_change(11.0) == 20.0
    assert (state(one, 19.9), state(one, 20.0)) == (State.DISABLED, State.UNKNOWN)
    assert one.lapse(19.9) == []
    assert one.lapse(20.0) == [A]
    assert one.overrides == {}
    assert one.next_change(21.0) == float("inf")


def test_one_that_comes_back_gets_its_share_in_ten_steps() -> None:
    one = statuses(warmup=10.0)
    one.heard(A, State.UP, "", 0.0)
    assert one.share(A, 0.0) == WHOLE, "it has never been away"
    one.heard(A, State.DOWN, "dead", 50.0)
    one.heard(A, State.UP, "", 100.0)
    shares, now = [one.share(A, 100.0)], 100.0
    while (now := one.next_change(now)) < float("inf"):
        shares.append(one.share(A, now))
        assert len(shares) < 20
    assert shares == list(range(1, WHOLE + 1))
    assert one.share(A, 110.0) == WHOLE
    assert one.standings([A], 103.5)[A] == Standing(State.UP, 4)


def test_one_that_was_disabled_is_cold_and_one_that_was_draining_is_warm() -> None:
    for word, share in ((State.DISABLED, 1), (State.DRAINING, WHOLE)):
        one = statuses(warmup=10.0)
        one.heard(A, State.UP, "", 0.0)
        one.say(A, Override(word, 1.0), 1.0)
        one.say(A, None, 100.0)
        assert one.share(A, 100.0) == share, word


def test_the_last_error_stays_to_be_seen() -> None:
    one = statuses()
    one.heard(A, State.DOWN, "no answer to OPTIONS", 5.0)
    one.heard(A, State.UP, "", 9.0)
    record = one.records[A]
    assert (record.state, record.since, record.error, record.error_at) == (State.UP, 9.0, "no answer to OPTIONS", 5.0)


def test_health_goes_with_the_address_and_orders_with_the_name() -> None:
    one = statuses()
    one.heard(A, State.DOWN, "dead", 5.0)
    one.say(B, Override(State.DRAINING, 5.0), 5.0)
    renamed = {("q", "x"): ADDRESSES[A], B: "192.0.2.99:5060"}
    one.adopt(renamed, {}, 6.0)
    one.keep(renamed)
    assert one.records[("q", "x")].state is State.DOWN
    assert one.records[B].state is State.UNKNOWN, "another machine by the same name"
    assert one.standings([B], 7.0)[B].state is State.DRAINING
    assert A not in one.records


def test_of_one_that_is_gone_nothing_is_heard_any_more() -> None:
    one = statuses()
    one.keep([A])
    assert not one.heard(B, State.DOWN, "late", 1.0)


# -- from one supervisor to the next


def test_what_is_known_of_health_can_be_handed_on(tmp_path: Path) -> None:
    one = statuses(warmup=10.0)
    one.heard(A, State.DOWN, "ICMP: connection refused", 5.0)
    one.heard(A, State.UP, "", 8.0)
    backends_status.save(tmp_path, one.records)
    assert backends_status.load(tmp_path) == one.records
    assert [path.name for path in tmp_path.iterdir()] == [backends_status.FILE_NAME]
    backends_status.remove(tmp_path)
    assert backends_status.load(tmp_path) == {}


@pytest.mark.parametrize(
    "text", ["", "null", "{}", "[1]", '[{"pool": "p"}]', '[{"pool":"p","backend":"a","x":1}]', "[" * 9999]
)
def test_what_cannot_be_read_is_found_out_again(tmp_path: Path, text: str) -> None:
    (tmp_path / backends_status.FILE_NAME).write_text(text)
    assert backends_status.load(tmp_path) == {}


def test_a_record_in_doubt_is_worth_nothing(tmp_path: Path) -> None:
    backends_status.save(tmp_path, {A: Record("192.0.2.1:5060")})
    text = (tmp_path / backends_status.FILE_NAME).read_text().replace('"state": 0', '"state": 77')
    (tmp_path / backends_status.FILE_NAME).write_text(text)
    assert backends_status.load(tmp_path) == {}


# -- orders in their file


def test_orders_are_read_as_they_were_written(tmp_path: Path) -> None:
    said = {A: Override(State.DRAINING, 1.5), B: Override(State.DISABLED, 2.5, 99.5)}
    state_dir = tmp_path / "made" / "for it"
    overrides.write(state_dir, said)
    assert overrides.read(state_dir) == said
    overrides.write(state_dir, {})
    assert overrides.read(state_dir) == {}
    assert [path.name for path in state_dir.iterdir()] == [overrides.FILE_NAME]


def test_where_there_is_no_file_nobody_has_said_anything(tmp_path: Path) -> None:
    assert overrides.read(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"orders": 3}', '{"orders": [{"pool": "p", "backend": "a", "order": "x"}]}']
)
def test_a_file_that_is_none_of_ours_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / overrides.FILE_NAME).write_text(text)
    with pytest.raises(OverridesError, match=r"backends\.json is not what this program writes"):
        overrides.read(tmp_path)


def test_a_file_that_cannot_be_written_says_what_follows(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OverridesError, match="a restart will forget it"):
        overrides.write(tmp_path / "file", {A: Override(State.DRAINING, 1.0)})
