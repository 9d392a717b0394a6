"""The table of signs and phases: what makes a backend up or down, and what does not."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfqlb.balance.health import ACCEPTED, CONFIRM, TRANSITIONS, Check, Health, Phase, Sign
from nfqlb.balance.states import State

BAD = (Sign.SILENCE, Sign.REFUSAL)


def health(state: State = State.UP, rise: int = 2, fall: int = 3) -> Health:
    return Health(rise, fall, state)


def hear(one: Health, *signs: Sign) -> State:
    for sign in signs:
        one.hear(sign)
    return one.state


def test_the_table_has_an_answer_to_every_sign_in_every_phase() -> None:
    assert {(phase, sign) for phase, row in TRANSITIONS.items() for sign in row} == set(product(Phase, Sign))


def test_what_was_known_before_is_where_it_begins() -> None:
    for state in (State.UNKNOWN, State.UP, State.DOWN):
        assert health(state).state is state


@pytest.mark.parametrize("bad", BAD)
def test_it_falls_after_so_many_bad_signs_in_a_row(bad: Sign) -> None:
    one = health(fall=3)
    assert [one.hear(bad) for _ in range(4)] == [False, False, True, False]
    assert one.state is State.DOWN


@pytest.mark.parametrize("good", [Sign.ANSWER, Sign.TRAFFIC])
@pytest.mark.parametrize("bad", BAD)
def test_a_good_sign_between_bad_ones_begins_the_count_anew(bad: Sign, good: Sign) -> None:
    assert hear(health(), bad, bad, good, bad, bad, good, bad, bad) is State.UP


def test_it_rises_after_so_many_answers_in_a_row() -> None:
    one = health(State.DOWN, rise=2)
    assert hear(one, Sign.ANSWER, Sign.SILENCE, Sign.ANSWER) is State.DOWN
    assert hear(one, Sign.ANSWER) is State.UP


def test_whom_nothing_is_known_of_is_up_with_the_first_answer() -> None:
    assert hear(health(State.UNKNOWN, rise=5), Sign.ANSWER) is State.UP


def test_whom_nothing_is_known_of_is_not_down_with_the_first_silence() -> None:
    one = health(State.UNKNOWN, fall=2)
    assert hear(one, Sign.SILENCE) is State.UNKNOWN
    assert hear(one, Sign.SILENCE) is State.DOWN


@pytest.mark.parametrize("sign", [Sign.UNREACHABLE, Sign.PROBE_UNREACHABLE])
def test_an_icmp_error_is_a_reason_to_ask_at_once_and_not_yet_to_go_down(sign: Sign) -> None:
    one = health(fall=100)
    assert hear(one, sign) is State.UP
    assert one.phase.urgent


@pytest.mark.parametrize("sign", [Sign.UNREACHABLE, Sign.PROBE_UNREACHABLE])
def test_an_icmp_error_is_no_sign_of_life(sign: Sign) -> None:
    """Whom nothing was known of is not up because something went wrong."""
    one = health(State.UNKNOWN)
    assert not one.hear(sign)
    assert one.state is State.UNKNOWN
    assert one.phase.urgent
    assert hear(one, Sign.ANSWER) is State.UP
    assert not one.phase.urgent


@pytest.mark.parametrize("signs", [[Sign.PROBE_UNREACHABLE], [Sign.SILENCE] * CONFIRM, [Sign.REFUSAL] * CONFIRM])
def test_in_doubt_before_anything_was_known_the_next_signs_decide(signs: list[Sign]) -> None:
    one = health(State.UNKNOWN, fall=100)
    one.hear(Sign.UNREACHABLE)
    assert [one.hear(sign) for sign in signs][-1]
    assert one.state is State.DOWN


def test_in_doubt_an_error_about_the_probe_confirms() -> None:
    assert hear(health(fall=100), Sign.UNREACHABLE, Sign.PROBE_UNREACHABLE) is State.DOWN


def test_in_doubt_silence_confirms_but_not_the_first() -> None:
    one = health(fall=100)
    assert hear(one, Sign.UNREACHABLE, *[Sign.SILENCE] * (CONFIRM - 1)) is State.UP
    assert hear(one, Sign.SILENCE) is State.DOWN


def test_more_errors_about_traffic_confirm_nothing_and_hinder_nothing() -> None:
    one = health(fall=100)
    assert hear(one, *[Sign.UNREACHABLE] * 50) is State.UP
    assert hear(one, Sign.SILENCE, Sign.UNREACHABLE, Sign.SILENCE) is State.DOWN


@pytest.mark.parametrize("good", [Sign.ANSWER, Sign.TRAFFIC])
def test_in_doubt_a_good_sign_clears_it(good: Sign) -> None:
    one = health(fall=2)
    assert hear(one, Sign.UNREACHABLE, Sign.SILENCE, good, Sign.SILENCE) is State.UP
    assert not one.phase.urgent


def test_one_that_is_down_does_not_rise_by_traffic_and_keeps_its_count_when_icmp_errors_come() -> None:
    one = health(State.DOWN, rise=2)
    assert hear(one, *[Sign.TRAFFIC] * 9) is State.DOWN
    assert hear(one, Sign.ANSWER, Sign.UNREACHABLE, Sign.ANSWER) is State.UP


@given(st.lists(st.sampled_from(Sign)), st.integers(1, 5), st.integers(1, 5))
def test_the_state_changes_only_where_it_says_so(signs: list[Sign], rise: int, fall: int) -> None:
    one = health(State.UNKNOWN, rise, fall)
    for sign in signs:
        before = one.state
        assert one.hear(sign) is (before is not one.state)
        assert one.state is not State.UNKNOWN or before is State.UNKNOWN


@given(st.lists(st.sampled_from([Sign.ANSWER, Sign.SILENCE, Sign.REFUSAL, Sign.TRAFFIC])), st.integers(1, 4))
def test_without_icmp_it_is_down_just_after_fall_bad_signs_in_a_row(signs: list[Sign], fall: int) -> None:
    """The plain rule, counted in another way."""
    one = health(fall=fall, rise=1)
    up, bad = True, 0
    for sign in signs:
        one.hear(sign)
        bad = bad + 1 if sign in BAD else 0
        up = (up and bad < fall) or (not up and sign is Sign.ANSWER)
        assert (one.state is State.UP) is up


def test_what_is_a_good_answer_unless_told() -> None:
    assert {200, 302, 404, 405, 481, 603} <= ACCEPTED
    assert not ACCEPTED & {100, 180, 199, 408, 500, 503, 599}
    assert Check().timeout <= Check().interval
