"""When overload begins and ends, by the fullness of a queue and the age of what waits in it."""

from nfqlb.gateway.worker.overload import LASTING, QUIET, Load, Overload


def looks(overload: Overload, *loads: tuple[float, float, float]) -> list[bool]:
    """(seconds, fill, age) one after the other."""
    return [overload.look(Load(fill, age), now) for now, fill, age in loads]


def test_it_begins_full_and_ends_half_as_full() -> None:
    overload = Overload(0.5, 0.4)
    fills = [0.0, 0.49, 0.5, 0.6, 0.3, 0.25, 0.24, 0.3, 0.49]
    assert looks(overload, *((0.01 * at, fill, 0.0) for at, fill in enumerate(fills))) == [
        *(False, False, True, True, True, True),
        *(False, False, False),
    ]
    assert overload.episodes == 1


def test_age_counts_when_it_lasts() -> None:
    overload = Overload(0.5, 0.4)
    assert looks(overload, (0, 0.1, 0.5), (LASTING / 2, 0.1, 0.5), (LASTING * 0.9, 0.1, 0.3)) == [False] * 3
    assert looks(overload, (1, 0.1, 0.5), (1.01 + LASTING, 0.1, 0.5)) == [False, True]
    assert looks(overload, (1.5, 0.1, 0.21), (1.6, 0.1, 0.19)) == [True, False]


def test_it_does_not_end_while_one_of_both_is_high() -> None:
    overload = Overload(0.5, 0.4)
    assert looks(overload, (0, 0.9, 0.0), (1, 0.1, 0.3), (2, 0.4, 0.1), (3, 0.1, 0.1)) == [True, True, True, False]


def test_what_comes_and_goes_is_one_episode() -> None:
    overload = Overload(0.5, 0.4)
    looks(overload, *((0.1 * at, 0.9 * (at % 2), 0.0) for at in range(100)))
    assert overload.episodes == 1
    looks(overload, (10, 0.0, 0.0), (11 + QUIET, 0.9, 0.0))
    assert overload.episodes == 2
