"""For all tests: what is left out without root, and how hard hypothesis tries.

Profiles: `gate` (the default) always tries the same examples, so that a red run says something about the change at
hand; `pytest --hypothesis-profile hunt` draws new ones, many more, and is for looking for trouble on purpose.
"""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline in either: a shared machine may stall at any moment, and no test of ours asserts speed.
settings.register_profile("gate", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "hunt", parent=settings.get_profile("gate"), derandomize=False, max_examples=5000, print_blob=True
)
settings.load_profile("gate")

# readline puts them there, and with it the processes of pytest-xdist; a test that is about room says how much there is.
for each in ("COLUMNS", "LINES"):
    os.environ.pop(each, None)

# Programs that tests start find the developers' tools as tools/chaos and the others do.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(__file__).parents[1] / "tools"), os.environ.get("PYTHONPATH", "")))
)

# A shell ignores Ctrl-C for what it starts with & or nohup, and children inherit that: tests of Ctrl-C would fail.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests marked `root` when we are not; otherwise their files come first.

    They wait for processes and clocks, and their files take longest: begun last, they would run on alone at the end.
    """
    marked = [item for item in items if item.get_closest_marker("root")]
    if os.geteuid() == 0:
        slow = {item.path for item in marked}
        items.sort(key=lambda item: item.path not in slow)
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="needs root"))
    config.stash[LEFT_OUT] = len(marked)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out, so that a green line is not taken for more than it is."""
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.section("LEFT OUT", sep="!", red=True, bold=True)
        terminalreporter.line(f"{count} tests need root and were NOT run. All of them: sudo tools/test")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """A command that is called here, and handles signals, leaves its handlers to no other test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return (yield)
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
