"""A backend as it is shown to others: whatever is missing or has gone wrong, the row has all its fields, and JSON can
say it.
"""

import json
from typing import Any

import pytest

from nfqlb.balance.states import Place, State
from nfqlb.gateway.backends.activity import Seen
from nfqlb.gateway.backends.overrides import Override
from nfqlb.gateway.backends.rows import row, without_address
from nfqlb.gateway.backends.status import BackendStatuses
from nfqlb.gateway.shm.probe_results import ProbeResult
from nfqlb.gateway.stats import traffic

NOW = 1_800_000_000.0
REG1: Place = ("regs", "reg1")
ADDRESS = "192.0.2.1:5060"


@pytest.fixture
def statuses() -> BackendStatuses:
    made = BackendStatuses({}, {})
    made.adopt({REG1: ADDRESS}, {REG1: 100.0}, NOW - 500.0)
    return made


def shown(statuses: BackendStatuses, place: Place = REG1, now: float = NOW, **more: Any) -> dict[str, Any]:
    """As JSON has it."""
    values = {"share": 0.5, "rate": None, "counts": traffic((), 0), "seen": Seen(0, 0), "result": None, **more}
    made = row(place, ADDRESS, statuses, now, **values)
    again: dict[str, Any] = json.loads(json.dumps(made, allow_nan=False))
    assert again == made
    return made


def test_of_one_that_nobody_has_asked_or_used_nothing_is_claimed(statuses: BackendStatuses) -> None:
    made = shown(statuses)
    assert (made["state"], made["health"]) == ("unknown", "unknown")
    assert made["since"] == NOW - 500.0
    missing = ("until", "requests_per_second", "last_request", "last_response", "probe", "error", "error_at")
    assert [name for name in missing if made[name] is not None] == []
    assert made["warming"] == 1.0, "it has been there all the time"


@pytest.mark.parametrize("result", [ProbeResult(0.0, 0.0, 0), ProbeResult(0.0, 0.02, 200)], ids=["none", "half"])
def test_a_prober_that_died_before_it_had_written_all_has_no_answer_to_show(
    statuses: BackendStatuses, result: ProbeResult
) -> None:
    assert shown(statuses, result=result)["probe"] is None


def test_an_answer_is_shown_beside_the_error_before_it(statuses: BackendStatuses) -> None:
    statuses.heard(REG1, State.DOWN, "no answer", NOW - 60.0)
    statuses.heard(REG1, State.UP, "", NOW - 20.0)
    made = shown(statuses, result=ProbeResult(NOW - 1.0, 0.0125, 200), rate=0.0)
    assert made["probe"] == {"round_trip": 0.0125, "status": 200, "at": NOW - 1.0}
    assert (made["state"], made["since"]) == ("up", NOW - 20.0)
    assert (made["error"], made["error_at"]) == ("no answer", NOW - 60.0), "what was last wrong, also when it is over"
    assert made["warming"] == 0.3
    assert made["requests_per_second"] == 0.0, "none, which is not the same as not known"


def test_an_order_stands_before_health_until_the_moment_it_runs_out(statuses: BackendStatuses) -> None:
    statuses.heard(REG1, State.DOWN, "no answer", NOW - 60.0)
    statuses.say(REG1, Override(State.DISABLED, NOW - 5.0, NOW + 5.0), NOW - 5.0)
    made = shown(statuses, now=NOW + 4.9)
    assert (made["state"], made["health"]) == ("disabled", "down")
    assert (made["since"], made["until"]) == (NOW - 5.0, NOW + 5.0)
    made = shown(statuses, now=NOW + 5.0)  # nobody has looked at the orders since
    assert (made["state"], made["since"], made["until"]) == ("down", NOW - 60.0, None)


def test_an_order_for_a_name_is_shown_with_each_of_its_addresses() -> None:
    statuses = BackendStatuses({REG1: Override(State.DRAINING, NOW)}, {})
    at: Place = ("regs", "reg1@192.0.2.1")
    statuses.adopt({at: ADDRESS}, {}, NOW)
    made = shown(statuses, at)
    assert (made["name"], made["state"], made["until"]) == ("reg1@192.0.2.1", "draining", None)


def test_one_that_a_reload_has_removed_is_leaving() -> None:
    statuses = BackendStatuses({}, {})
    place: Place = ("", "reg9")
    statuses.adopt({place: ADDRESS}, {}, NOW)
    assert shown(statuses, place, share=0.0)["leaving"] is True


def test_one_whose_name_has_no_address_has_the_same_fields_and_is_down(statuses: BackendStatuses) -> None:
    made = without_address(("regs", "reg"), "reg.example.org:5060", "no server answers")
    assert list(made) == list(shown(statuses))
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert (made["state"], made["health"], made["share"]) == ("down", "down", 0.0)
    assert (made["address"], made["error"]) == ("reg.example.org:5060", "no server answers")
    assert list(made["counts"]) == list(shown(statuses)["counts"])
    assert not any(made["counts"].values())
