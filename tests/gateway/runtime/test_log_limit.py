"""How many events of a kind pass in a period, and that the others are counted, each once."""

from nfqlb.gateway.runtime.log_limit import LogLimit, more


def test_so_many_pass_in_a_period_and_the_others_are_told_of_when_it_is_over() -> None:
    limit = LogLimit(2, 10.0)
    assert [limit.passes(now) for now in (0.0, 1.0, 2.0, 9.9)] == [True, True, False, False]
    assert limit.held(9.9) == 0
    assert limit.held(10.0) == 2
    assert limit.held(11.0) == 0
    assert limit.passes(11.0)


def test_a_period_begins_with_the_first_event_after_the_last_one() -> None:
    limit = LogLimit(1, 10.0)
    assert limit.passes(0.0)
    assert limit.passes(15.0)
    assert not limit.passes(20.0)
    assert limit.passes(25.0)


def test_what_nobody_has_asked_for_is_counted_on() -> None:
    limit = LogLimit(1, 10.0)
    assert [limit.passes(float(now)) for now in range(25)].count(True) == 3
    assert limit.held(99.0) == 22


def test_a_line_tells_of_those_before_it() -> None:
    limit = LogLimit(seconds=10.0)
    assert [limit.before(float(now)) for now in (0, 1, 9, 10, 11, 30, 50)] == [0, None, None, 2, None, 1, 0]
    assert (more(0), more(2)) == ("", " (and 2 more before)")
