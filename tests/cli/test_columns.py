"""Every table of every command on a narrow terminal and on a wide one, with long names, IPv6 addresses, 200 backends
and 64 workers: no line is wider than the terminal, and no name or address is broken or cut."""

import importlib
import pkgutil
import re
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from boardcase import Gateway
from click.testing import CliRunner
from crowd import BEGINNINGS, Crowd
from pcap_files import EPOCH, Stored, write_pcap
from rich.cells import cell_len
from sipcase import KEY, endpoint, request, wire
from test_cli import found

import nfqlb
from nfqlb import cli, layout
from nfqlb.cli import _outcomes as outcomes
from nfqlb.cli import _screen as screen
from nfqlb.cli import backends as listing
from nfqlb.cli import bans, check, ha, lab, main, reload, rules, stats, status
from nfqlb.config.build import load
from nfqlb.config.problems import Problem
from nfqlb.gateway.netfilter import ipset
from nfqlb.gateway.netfilter.ruleset import Difference
from nfqlb.gateway.shm.board import BACKENDS, REASONS, Cell
from nfqlb.lab.demo import Shown
from nfqlb.lab.ladder import messages, passages
from nfqlb.lab.topology import Plan
from nfqlb.lab.wire import Seen
from nfqlb.layout import Shape, fit
from nfqlb.net import datagram
from nfqlb.proxy.verdict import Reason

SIZES = [(80, 24), (120, 40)]
CROWDS = {"long names": Crowd(64), "usual names": Crowd(16)}


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    columns, lines = request.param
    monkeypatch.setattr(screen, "room", lambda *_: columns)
    monkeypatch.setenv("COLUMNS", str(columns))
    return columns, lines


@pytest.fixture(params=CROWDS)
def crowd(request: pytest.FixtureRequest) -> Crowd:
    return CROWDS[request.param]


@pytest.fixture
def laid(monkeypatch: pytest.MonkeyPatch) -> set[Shape]:
    """The tables that are laid out meanwhile."""
    shapes: set[Shape] = set()
    real = layout.arranged

    def noted(shape: Shape, *rest: Any) -> Any:
        shapes.add(shape)
        return real(shape, *rest)

    for module in (layout, outcomes):
        monkeypatch.setattr(module, "arranged", noted)
    return shapes


def whole(text: str, crowd: Crowd, room: int) -> set[str]:
    """The names and addresses in it, of which none is broken; no line is too wide."""
    assert text
    for line in text.splitlines():
        assert cell_len(line) <= room, line
    there = set(BEGINNINGS.findall(text))
    assert there <= crowd.names, sorted(there - crowd.names)[:5]
    return there


def run(*arguments: str, exit_code: int = 0) -> str:
    """What the command prints, on both streams."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == exit_code, result.output
    return result.output


# ---- of a gateway that runs


@pytest.fixture
def board(crowd: Crowd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """With 64 workers and every reason there is; one worker is dead, one is slow."""
    labels = [f"{pool}/{name}" if number % 2 else name for number, (pool, name, _) in enumerate(crowd.backends)]
    labels[8] = f"{labels[8]}@[{crowd.host(8)}]"
    gateway = Gateway(tmp_path, tuple(range(5000, 5064)), tuple(labels))
    for worker, slot in enumerate(gateway.slots):
        for reason in Reason:
            slot[REASONS + reason] = 10**6 + worker
        slot[Cell.TIMED], slot[Cell.ENGINE_NS] = 10, 10**6
        slot[BACKENDS] = 10**9
    gateway.slots[40][Cell.PID] = 2**22 + 1
    gateway.slots[41][Cell.SHEDDING] = 1
    monkeypatch.setattr(stats, "load_config", lambda _: None)
    monkeypatch.setattr(stats, "current", lambda _: gateway.report())
    return gateway


def answers(monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]) -> None:
    """Let the gateway answer so, whatever it is asked."""
    for module in (listing, ha, reload, status):
        monkeypatch.setattr(module, "ask", lambda *_, **__: {"ok": True, **fields})


@pytest.mark.slow
@pytest.mark.usefixtures("board")
def test_stats(crowd: Crowd, terminal: tuple[int, int], laid: set[Shape]) -> None:
    text = run("stats", exit_code=1)
    names = whole(text, crowd, terminal[0])
    assert {name for _, name, _ in crowd.backends} <= names
    assert all(f"\n{worker} " in text for worker in range(64))
    assert laid >= {stats.QUEUES, stats.WORKERS, stats.REASONS, stats.BACKENDS}


def test_stats_of_a_few_workers(tmp_path: Path, crowd: Crowd, terminal: tuple[int, int]) -> None:
    gateway = Gateway(tmp_path, (5060, 5061), tuple(name for _, name, _ in crowd.backends))
    for reason in Reason:
        gateway.count(1, reason, 10**6)
    lines = [line.text for line in layout.lay(stats.shown(gateway.report()), terminal[0])]
    whole("\n".join(lines), crowd, terminal[0])
    assert any(line.split()[:5] == ["Reason", "Worker", "0", "Worker", "1"] for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_stats_on_the_screen(board: Gateway, crowd: Crowd, terminal: tuple[int, int], first: bool) -> None:
    """What is not well comes first, also where there is no room for all."""
    report = board.report()
    lines = [line.text for line in fit(stats.watched(report, None if first else stats.all_counts(report)), *terminal)]
    whole("\n".join(lines), crowd, terminal[0])
    assert len(lines) == terminal[1]
    assert lines[0].startswith("lb: running")
    assert lines[1].startswith("OVERLOAD of worker 41")
    dead = next(line.split() for line in lines if " dead " in line)
    assert dead[0] == "40"
    slow = lines[next(at for at, line in enumerate(lines) if line.startswith("Queue")) + 1]
    assert slow.split()[:2] == ["5041", "41"]
    assert lines[-1].startswith("… ")
    assert lines[-1].endswith(" more backends")


@pytest.mark.slow
def test_backends(crowd: Crowd, terminal: tuple[int, int], laid: set[Shape], monkeypatch: pytest.MonkeyPatch) -> None:
    alarm = {crowd.name("pool", 0): "5 backends take requests, and min_up is 6"}
    answers(monkeypatch, {"backends": crowd.rows(), "alarms": alarm})
    for words in (["backends"], ["backends", "list"]):
        text = run(*words, exit_code=1)
        names = whole(text, crowd, terminal[0])
        assert {name for each in crowd.backends for name in each} <= names
        told = " ".join(text.split())
        assert told.count("no answer to OPTIONS") == 4, "of those that are not up"
        assert all(state in told for state in ("down", "draining for ", "disabled (leaving)", "(at 10%)"))
    assert laid == {listing.BACKENDS}


@pytest.mark.slow
def test_backends_on_the_screen(crowd: Crowd, terminal: tuple[int, int]) -> None:
    page = listing.shown({"backends": crowd.rows(), "alarms": {}}, time.time(), worst_first=True)
    lines = [line.text for line in fit(page, *terminal)]
    whole("\n".join(lines), crowd, terminal[0])
    assert len(lines) == terminal[1]
    text = "\n".join(lines)
    places = [text.index(crowd.name("backend", number)) for number in (3, 7, 5, 4)]
    assert places == sorted(places), "down, disabled, draining"
    assert lines[-1].endswith(" more backends")


@pytest.mark.slow
def test_wide_shows_all_columns_and_all_errors(
    crowd: Crowd, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, {"backends": crowd.rows(), "alarms": {}})
    text = run("backends", "--wide")
    assert text.splitlines()[0].split() == list(listing.BACKENDS.titles)
    assert text.count("no answer to OPTIONS") == 200
    assert all(f"{pool}/{name}  " in text for pool, name, _ in crowd.backends[8:])
    monkeypatch.setattr(screen, "room", lambda *_: None)
    assert run("backends") != text, "watch(1) says how wide it is"
    monkeypatch.delenv("COLUMNS")  # into a pipe, the same columns
    assert run("backends").splitlines()[0] == text.splitlines()[0]
    assert terminal


def test_an_error_that_is_over_is_not_told(crowd: Crowd) -> None:
    row, now = crowd.row(0), crowd.row(0)["error_at"]
    assert not listing.matters(row, now + listing.RECENT + 1)
    assert listing.matters(row, now + 1)
    assert listing.matters(row | {"health": "down"}, now + 1e6)
    assert listing.matters(row | {"state": "draining"}, now + 1e6)
    assert not listing.matters(row | {"error": None, "error_at": None}, now)


def test_status(crowd: Crowd, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    workers = [{"pid": 4_000_000 + number, "ready": bool(number % 9)} for number in range(64)]
    answers(
        monkeypatch,
        {
            "version": "0.1.0",
            "state": "running",
            "started": 1.7e9,
            "pid": 4711,
            "generation": 3,
            "changing": "",
            "config": "/etc/nfqlb/nfqlb.toml",
            "workers": workers,
            "queues": list(range(64)),
            "backends": [name for _, name, _ in crowd.backends],
            "alarms": {pool: "nobody takes requests, and all of it is lost" for pool, _, _ in crowd.backends},
        },
    )
    assert {name for _, name, _ in crowd.backends} <= whole(run("status", exit_code=1), crowd, terminal[0])


def test_reload(crowd: Crowd, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [f"pool {pool}: backend {name}: added ({at})" for pool, name, at in crowd.backends]
    answers(monkeypatch, {"changes": changes})
    assert {name for each in crowd.backends for name in each} <= whole(run("reload"), crowd, terminal[0])


@pytest.mark.slow
def test_bans(crowd: Crowd, terminal: tuple[int, int], laid: set[Shape], monkeypatch: pytest.MonkeyPatch) -> None:
    why = ["", "scans every night, and has been told so by letter and by telephone", "走査 " * 60]
    entries = [
        ipset.Entry(
            "ban" if number % 2 else "deny", network, 86_400 * (number % 3) or None, number * 10**9, 0, why[number % 3]
        )
        for number in range(200)
        for network in (ip_network(crowd.host(number)), ip_network(f"2001:db8:{number:x}::/48"))
    ]
    monkeypatch.setattr(ipset, "entries", lambda: entries)
    text = run("bans")
    nets = {each.source for each in entries}
    there = set(BEGINNINGS.findall(text))
    assert there == nets
    assert all(cell_len(line) <= terminal[0] for line in text.splitlines())
    assert laid == {bans.BANS}


# ---- of the pair


def test_the_pair(crowd: Crowd, terminal: tuple[int, int], laid: set[Shape], monkeypatch: pytest.MonkeyPatch) -> None:
    group = crowd.name("group", 0)
    addresses = [crowd.host(number) for number in range(9)]
    answers(
        monkeypatch,
        {
            "groups": [{"name": group, "role": "active", "since": 1.7e9, "addresses": addresses}],
            "transitions": [{"at": 1.7e9, "group": group, "role": "standby"}] * 9,
            "address": crowd.host(2, "1111"),
            "peer": crowd.host(3, "1111"),
            "weight": -100,
            "yielding": True,
            "keepalived": False,
            "interfaces_down": ["eth1"],
            "lifeline": False,
            "unwell": [],
        },
    )
    stale = f"keepalived.conf has the address {crowd.host(1)}, which is not ours"
    monkeypatch.setattr(ha, "keepalived_problems", lambda _: (stale, ""))
    for word in ("status", "resume"):
        assert group in whole(run("ha", word), crowd, terminal[0])
    assert laid == {ha.GROUPS, ha.MOVES}


def test_what_is_wrong_with_the_pair(crowd: Crowd, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ha, "paired", lambda _: SimpleNamespace(gateway=SimpleNamespace(run_dir=Path("/nowhere"))))
    monkeypatch.setattr(ha, "pair_in", lambda _: type("Pair", (), {"check_port": 5059}))
    monkeypatch.setattr("nfqlb.gateway.ha.watch.unwatched", lambda _: "")
    monkeypatch.setattr(ha, "report_of", lambda *_: {})
    monkeypatch.setattr("nfqlb.gateway.ha.keepalived.outdated", lambda *_: "")
    monkeypatch.setattr("nfqlb.gateway.ha.compare.ask_peer", lambda _: {})
    texts = [
        f"{name} of {pool} is down here, and on the other node its address {at} is up"
        for pool, name, at in crowd.backends
    ]
    monkeypatch.setattr("nfqlb.gateway.ha.compare.problems", lambda *_: texts)
    assert {name for each in crowd.backends for name in each} == whole(
        run("ha", "check", exit_code=1), crowd, terminal[0]
    )


# ---- of the configuration


@pytest.fixture
def place(crowd: Crowd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory, the current one, with nfqlb.toml and in.pcap."""
    (tmp_path / "secret").write_bytes(KEY + b"\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "nfqlb.toml").write_text(crowd.toml(tmp_path, tmp_path / "secret"))
    phone, outside = crowd.address(0, "9999"), crowd.address(0, "eeee", 5060)
    packets = [
        datagram.build(endpoint(phone), endpoint(outside), wire(text))
        for text in (
            request("INVITE", "sip:bob@example.org", Call_ID="0123456789-abcdef@198.51.100.20"),
            request("OPTIONS", f"sip:[{crowd.host(0, 'eeee')}]"),
            request("MESSAGE", "sip:bob@example-3-1.org", Call_ID="x" * 200),
            request("REGISTER", "sip:example.org"),
        )
    ]
    write_pcap(tmp_path / "in.pcap", [Stored(data, EPOCH * 10**9 + number) for number, data in enumerate(packets)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("place")
def test_check(crowd: Crowd, terminal: tuple[int, int], laid: set[Shape]) -> None:
    text = run("check", "-c", "nfqlb.toml")
    names = whole(text, crowd, terminal[0])
    assert {name for each in crowd.backends for name in each} <= names
    assert {crowd.name("listener", 0), crowd.name("group", 0), crowd.host(2, "1111")} <= names
    assert laid == {check.LISTENERS, check.POOLS, check.ROUTES, check.GROUPS}


@pytest.mark.usefixtures("place")
def test_check_live(crowd: Crowd, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [
        Problem(f"backend {pool}/{name}", "nothing answers there (ICMP: connection refused)", "warning", f'"{at}"')
        for pool, name, at in crowd.backends
    ]
    monkeypatch.setattr(check, "examine", lambda *_: (load(Path("nfqlb.toml")), problems))
    assert {name for each in crowd.backends for name in each} <= whole(
        run("check", "-c", "nfqlb.toml", "--live"), crowd, terminal[0]
    )


@pytest.mark.slow
def test_plan(crowd: Crowd, terminal: tuple[int, int], place: Path) -> None:
    text = (place / "nfqlb.toml").read_text()
    for number in range(crowd.pools):
        name = crowd.name("backend", crowd.per_pool * number)
        text = text.replace(f'name = "{name}"', f'name = "{name}"\nweight = 9')
    last = f'[[route]]\npool = "{crowd.name("pool", 0)}"'
    assert last in text
    (place / "new.toml").write_text(text.replace(last, f'[[route]]\npool = "{crowd.name("pool", 1)}"'))
    told = run("plan", "-c", "nfqlb.toml", "new.toml", "--pcap", "in.pcap")
    assert crowd.name("pool", 9) in whole(told, crowd, terminal[0])
    assert "frame 1: INVITE" in told


def test_rules_that_differ(crowd: Crowd, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Difference(
            "IPv6 raw", "add", f"-A NFQLB-IN -d {crowd.host(number)}/64 -p udp -m udp --dport 5060 -j NFQLB-QUEUE"
        )
        for number in range(40)
    ]
    monkeypatch.setattr(rules, "load_settled", lambda _: None)
    for name in ("live_queues", "differences", "apply_live"):
        monkeypatch.setattr(f"nfqlb.gateway.netfilter.ruleset.{name}", lambda *_: found)
    whole(run("rules", "diff", exit_code=1), crowd, terminal[0])
    whole(run("rules", "apply"), crowd, terminal[0])


# ---- of stored packets


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--diff"], ["-o", "out.pcap"]], ids=str)
@pytest.mark.usefixtures("place")
def test_replay(crowd: Crowd, terminal: tuple[int, int], laid: set[Shape], options: list[str]) -> None:
    text = run("replay", "-c", "nfqlb.toml", "in.pcap", *options)
    there = whole(text, crowd, terminal[0])
    assert there & {address for _, _, address in crowd.backends}, "where it was sent"
    assert laid == {outcomes.FRAMES, outcomes.SUMMARY}


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_titles_come_again_where_columns_go(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are printed as they come, so the first ones may have columns that there is no room for later."""
    room = 254 + crowd.length
    monkeypatch.setattr(screen, "room", lambda *_: room)
    lines = run("replay", "-c", "nfqlb.toml", "in.pcap").splitlines()
    titles = [line.split() for line in lines if line.startswith("FRAME")]
    assert len(titles) > 1
    assert titles[0][-1] == "CALL-ID"
    assert set(titles[-1]) < set(titles[0])
    whole("\n".join(lines), crowd, room)


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_explain(crowd: Crowd, terminal: tuple[int, int]) -> None:
    text = run("explain", "-c", "nfqlb.toml", "in.pcap", "--all")
    lines = [
        line for line in text.splitlines() if "x" * 200 not in line
    ]  # a Call-ID of 200 letters stands over the edge
    whole("\n".join(lines), crowd, terminal[0])
    assert "Rules that decided" in text


# ---- of the lab


@pytest.mark.slow
def test_the_ladder(crowd: Crowd, terminal: tuple[int, int], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also with ends that nobody has named."""
    run("replay", "-c", "nfqlb.toml", "in.pcap", "-o", "out.pcap")
    seen = passages(messages(frames(place)))
    assert any(passage.came and passage.left for passage in seen)
    inside = {endpoint(address): name for _, name, address in crowd.backends[:1]}
    backends = {endpoint(address) for _, _, address in crowd.backends}
    for names in ({}, inside | {endpoint(crowd.address(0, "9999")): "alice"}):
        shown = Shown(seen, dict.fromkeys(backends, ""), names, "")
        lab.show_demo(shown, headers=True)
        text = capsys.readouterr().out
        lines = [line for line in text.splitlines() if "x" * 200 not in line]
        whole("\n".join(lines), crowd, terminal[0])
        assert " INVITE " in text


def frames(place: Path) -> Iterator[Seen]:
    """What came and what left, in turn."""
    from nfqlb.capture.packets import PacketReader
    from nfqlb.capture.source import Source

    both = []
    for name, outgoing in (("in.pcap", False), ("out.pcap", True)):
        with Source(place / name) as source:
            both += [(packet.frame.time_ns or 0, outgoing, packet.frame.data) for packet in PacketReader(source)]
    for time_ns, outgoing, data in sorted(both):
        yield Seen(time_ns, "outside", outgoing, data)


@pytest.mark.parametrize(
    "plan", [Plan(family=family, pair=pair) for family in (4, 6) for pair in (False, True)], ids=str
)
def test_what_a_lab_has(plan: Plan, terminal: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    made: Any = SimpleNamespace(plan=plan, dir=Path("/run/nfqlb-lab"), config=Path("/run/nfqlb-lab/c.toml"))
    lab.show_lab(made)
    lines, _, to_type = capsys.readouterr().out.partition("Look into the gateway")
    assert all(len(line) <= terminal[0] for line in lines.splitlines())
    assert all(node.ip in lines for node in (*plan.home, *plan.phones, *plan.backends))
    assert to_type


# ---- and nothing was forgotten


def shapes() -> dict[str, Shape]:
    """Every table there is in the commands, by where it is made."""
    found: dict[Shape, str] = {}
    for info in pkgutil.iter_modules(cli.__path__):
        for name, each in vars(importlib.import_module(f"nfqlb.cli.{info.name}")).items():
            if isinstance(each, Shape):
                found.setdefault(each, f"{info.name}.{name}")
    return {name: each for each, name in found.items()}


def test_every_table_is_among_those_above() -> None:
    source = Path(__file__).read_text().replace("listing.", "backends.").replace("outcomes.", "_outcomes.")
    assert shapes()
    assert [name for name in shapes() if name not in source] == []


def test_nobody_makes_tables_of_another_kind() -> None:
    root = Path(nfqlb.__file__).parent
    assert [str(path) for path in root.rglob("*.py") if "rich.table" in path.read_text()] == []


def test_columns_that_go_are_those_there_are() -> None:
    for name, shape in shapes().items():
        dropped = [title for group in shape.drop for title in group]
        assert set(dropped) < set(shape.titles), name
        assert len(dropped) == len(set(dropped)), name
        assert shape.titles[0] not in dropped, name
        assert set(shape.left) < set(shape.titles), name
        assert shape.prose in ("", shape.titles[-1]), name


def test_help_tells_the_order() -> None:
    for name, shape in shapes().items():
        if shape.drop:
            text = CliRunner().invoke(main, [name.partition(".")[0].replace("_outcomes", "replay"), "--help"]).output
            assert shape.order in " ".join(text.split()), name


def test_the_page_tells_the_order() -> None:
    page = (Path(__file__).parents[2] / "docs" / "output.md").read_text()
    told = {tuple(line.split(" | ")) for line in re.findall(r"^\| `nfqlb (.*) \|$", page, re.MULTILINE)}
    there = {
        (f"{name.partition('.')[0].replace('_outcomes', 'replay')}`", shape.name, shape.order)
        for name, shape in shapes().items()
        if shape.drop
    }
    assert told == there


COMMANDS = [(path, command) for path, command in found()]


@pytest.mark.parametrize(
    ("path", "command"), COMMANDS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_help_fits_80_columns(path: tuple[str, ...], command: click.Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert command
    for line in CliRunner().invoke(main, [*path, "--help"]).output.splitlines():
        assert cell_len(line) <= 80, line
