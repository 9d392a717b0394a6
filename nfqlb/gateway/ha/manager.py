"""One node's part in a pair: tells keepalived how this node is, and knows which addresses are here.

keepalived moves the addresses; it weighs what stands in the track file, and whether the lifeline is there. Knows these
two, the roles of the groups, and what makes a node unwell. Does not speak VRRP, nor know keepalived's configuration
(`ha.keepalived` writes it).

A node that is unwell keeps the addresses when the other is no better: what is told is a weight, never "fault". To be
well has to be said: of a file that is not there, or that it does not see, keepalived takes 0.
"""

import json
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from selectors import EVENT_READ
from typing import Any

from nfqlb.files import replace_file
from nfqlb.gateway.ha.liveness import Lifeline
from nfqlb.gateway.ha.plan import HaPlan
from nfqlb.gateway.ha.protocol import DEAD, TRACK_FILE, UNWELL, YIELDING
from nfqlb.gateway.host.network import is_here, is_running
from nfqlb.gateway.host.procfs import IPPROTO_VRRP, raw_sockets
from nfqlb.gateway.host.sockets import bind_ahead
from nfqlb.gateway.runtime.control_socket import Conversation
from nfqlb.gateway.runtime.event_loop import Loop, Task
from nfqlb.gateway.runtime.job import Refused
from nfqlb.gateway.runtime.log import about

STATE_FILE = "ha.json"


NO_FILE = 0, 0

WELL = -UNWELL
"""What the track file says of a node that is well; any of the above is added to that. So 0 is for unwell."""

RULES_INTERVAL = 5.0
"""Seconds between two looks whether our rules are in place."""

HESITATE = 5.0
"""Seconds for which the active node waits before it is unwell for its backends: those that neither node reaches are no
reason to move, and the other may find out a moment later.
"""

REPLACED_WITHIN = 1.0
"""Seconds that a worker which died may be missing: no packet waits as long as a move of the addresses takes."""

YIELD_WITHIN = 3.0
"""Seconds that the other node has to take over."""

MOVE_WITHIN = 0.5
"""Seconds for which a group may be here in part: its addresses come and go one after the other."""

STEP_DOWN_WITHIN = 2.0
"""The same when the service stops: until then its workers go on."""

TRANSITIONS = 20

REQUESTS = ("ha-status", "ha-yield", "ha-resume")
"""By the control socket."""

Alarms = Callable[[], Mapping[str, str]]
"""Name of a pool → what is wrong with it."""

# linux/rtnetlink.h: constants that Python's socket module does not have.
_NEWS_OF_ADDRESSES = 0x10 | 0x100

logger = logging.getLogger("nfqlb")


class HaManager:
    """For one supervisor. Does nothing while the plan has no pair."""

    def __init__(self, loop: Loop, run_dir: Path, tables: Callable[[], str]) -> None:
        """`tables`: a digest of the tables that workers use now."""
        self._loop, self._run_dir, self._tables = loop, run_dir, tables
        self.lifeline = Lifeline()
        self._ha_plan: HaPlan | None = None
        self._news: socket.socket | None = None
        self._port: socket.socket | None = None
        self._written: int | None = None
        self._file = NO_FILE
        """What we wrote that into, as of `_identity`."""
        self._unwritable = ""
        """Why we could not; once told."""
        self._reasons: tuple[str, ...] = ()
        self._misplaced = ""
        self._looking = False
        self._next_look = 0.0
        self._alarmed_since = 0.0
        self._alive_at = 0.0
        """Times of time.monotonic()."""
        self._yielding = False
        self._moving: dict[str, float] = {}
        """Groups of which a part is here, and since when (time.monotonic())."""
        self._roles: dict[str, tuple[str, float]] = {}
        """Group → role, and since when (seconds since 1970)."""
        self._transitions: deque[dict[str, Any]] = deque(maxlen=TRANSITIONS)

    def prepare(self, ha_plan: HaPlan | None, *, fresh: bool = False) -> None:
        """Before a worker pool is forked: it shall have hold of the lifeline. `fresh`: nobody serves packets yet."""
        if ha_plan is not None:
            if fresh:
                self._write(UNWELL)
            try:
                self.lifeline.take()
            except OSError as error:
                logger.error(
                    "the pair: no lifeline, because /dev/net/tun cannot be used (%s): if all processes of this "
                    "gateway are killed, the other node will not take over",
                    error.strerror,
                )

    def apply_plan(self, ha_plan: HaPlan | None) -> None:
        """That worker pool is in force."""
        if ha_plan == self._ha_plan:
            return
        before, self._ha_plan = self._ha_plan, ha_plan
        if ha_plan is None:
            self._close()
            return
        if before is None:
            self._load()
            self._news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            self._news.bind((0, _NEWS_OF_ADDRESSES))
            self._loop.selector.register(self._news, EVENT_READ, self._addresses_change)
        self._roles = {name: role for name, role in self._roles.items() if name in ha_plan.groups}
        for name in ha_plan.groups:
            self._roles.setdefault(name, ("standby", time.time()))
        self._open_port(ha_plan)
        self._next_look = 0.0
        self._look_at_addresses()

    def tick(self, now: float, *, alive: bool, ask_alarms: Alarms, queues: range, changing: bool) -> float:
        """Tell keepalived how we are; seconds until there is something to do again."""
        ha_plan = self._ha_plan
        if ha_plan is None:
            return 60.0
        if self._moving:
            self._look_at_addresses()
        alarms = ask_alarms()
        if now >= self._next_look and not self._looking and not changing:
            self._looking = True
            self._loop.begin(self._look_at_rules(ha_plan, queues))
        if not alarms:
            self._alarmed_since = 0.0
        elif not self._alarmed_since:
            self._alarmed_since = now
        patience = HESITATE if self.active else 0.0
        if alive:
            self._alive_at = now
        replaced = now - self._alive_at < REPLACED_WITHIN
        reasons = [] if replaced else ["a worker stands still or is missing"]
        if self._misplaced:
            reasons.append(self._misplaced)
        if alarms and now - self._alarmed_since >= patience:
            reasons += [f"pool {pool}: {text}" for pool, text in alarms.items()]
        if tuple(reasons) != self._reasons:
            self._reasons = tuple(reasons)
            logger.log(
                logging.ERROR if reasons else logging.INFO,
                "the pair: this node is %s",
                f"unwell ({'; '.join(reasons)})" if reasons else "well",
                extra=about(reasons=reasons),
            )
        self._write((UNWELL if reasons else 0) + (YIELDING if self._yielding else 0))
        return 0.2 if not alive or self._moving else max(0.05, self._next_look - now)

    @property
    def active(self) -> bool:
        """Whether any group is here."""
        return any(role != "standby" for role, _ in self._roles.values())

    def end(self, *, others_go_on: bool) -> None:
        """Give the addresses away, if somebody takes them, and the lifeline up."""
        if self._ha_plan is not None and not others_go_on:
            self._write(DEAD)
            deadline = time.monotonic() + STEP_DOWN_WITHIN
            while self.active and time.monotonic() < deadline:
                self._loop.turn(0.02)
                self._look_at_addresses()
        self._close()

    # -- commands

    def asked(self, request: Mapping[str, Any], conversation: Conversation) -> bool:
        """Whether the request was one for us."""
        what = request["do"]
        if what not in REQUESTS:
            return False
        if self._ha_plan is None:
            conversation.refuse("This gateway stands alone: its configuration has no [ha].")
        elif what == "ha-yield":
            self._loop.begin(self._yield(conversation))
        else:
            if what == "ha-resume" and self._yielding:
                self._set_yielding(False)
            conversation.end(True, **self.report())
        return True

    def report(self) -> dict[str, Any]:
        """As `nfqlb ha status --json` shows it, and the check port tells it."""
        ha_plan = self._ha_plan
        assert ha_plan is not None
        return {
            "address": ha_plan.address,
            "peer": ha_plan.peer,
            "groups": [
                {
                    "name": name,
                    "role": self._roles[name][0],
                    "since": self._roles[name][1],
                    "addresses": list(addresses),
                    "priority": ha_plan.priorities[name],
                }
                for name, addresses in ha_plan.groups.items()
            ],
            "weight": self._written,
            "unwell": list(self._reasons),
            "yielding": self._yielding,
            "lifeline": self.lifeline.held,
            "keepalived": bool(raw_sockets(IPPROTO_VRRP)),
            "interfaces_down": [name for name in ha_plan.interfaces if not is_running(name)],
            "transitions": list(self._transitions),
            "digests": {**ha_plan.digests, "tables": self._tables()},
        }

    def _yield(self, conversation: Conversation) -> Task[None]:
        self._set_yielding(True)
        if (yield from self._loop.until(lambda: not self.active, YIELD_WITHIN)):
            conversation.end(True, **self.report())
            return
        self._set_yielding(False)
        conversation.refuse(
            f"The other node has not taken over within {YIELD_WITHIN:.0f} s, so this one goes on as before. "
            "Look at 'nfqlb ha check'."
        )

    def _set_yielding(self, on: bool) -> None:
        self._yielding = on
        logger.info("the pair: this node %s", "yields" if on else "is a candidate again")
        self._write((UNWELL if self._reasons else 0) + (YIELDING if on else 0))
        self._save()

    # -- what is told to keepalived

    def _write(self, weight: int) -> None:
        """Unless it stands there already. Whoever else has written there, or taken the file away, is overruled."""
        path = self._run_dir / TRACK_FILE
        if weight == self._written and self._file == _identity(path) != NO_FILE:
            return
        try:
            # A new file in the place of the old one, which keepalived sees as well: the old one may be root's. After a
            # boot it means nothing, and no slow disk may hold up what it says.
            replace_file(path, f"{WELL + weight}\n", 0o644, durable=False)
            self._file, self._unwritable = _identity(path), ""
        except OSError as error:
            self._file = NO_FILE
            if self._unwritable != error.strerror:
                self._unwritable = str(error.strerror)
                text = "the pair: keepalived cannot be told how this node is: %s cannot be written (%s)"
                logger.error(text, path, error.strerror)
        self._written = weight

    def _look_at_rules(self, ha_plan: HaPlan, queues: range) -> Task[None]:
        try:
            self._misplaced = yield from self._loop.work(lambda: ha_plan.misplaced(queues), 30.0)
        except Refused as error:
            self._misplaced = str(error)
        finally:
            self._looking = False
            self._next_look = time.monotonic() + RULES_INTERVAL

    # -- which addresses are here

    def _addresses_change(self) -> None:
        assert self._news is not None
        with suppress(BlockingIOError, OSError):
            while self._news.recv(1 << 16):
                pass
        self._look_at_addresses()

    def _look_at_addresses(self) -> None:
        if self._ha_plan is None:
            return
        changed = False
        for name, addresses in self._ha_plan.groups.items():
            here = sum(map(is_here, addresses))
            role = "active" if here == len(addresses) else "partly" if here else "standby"
            if role != "partly":
                self._moving.pop(name, None)
            elif time.monotonic() - self._moving.setdefault(name, time.monotonic()) < MOVE_WITHIN:
                continue
            if self._roles[name][0] == role:
                continue
            now = time.time()
            self._transitions.append({"at": now, "group": name, "role": role})
            logger.warning("the pair: group %s is %s here", name, role, extra=about(group=name, role=role))
            self._roles[name] = role, now
            changed = True
        if changed:
            self._save()

    def _load(self) -> None:
        """What the supervisor before us knew."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads((self._run_dir / STATE_FILE).read_text())
            self._yielding = bool(known["yielding"])
            self._roles = {name: (role, since) for name, (role, since) in known["roles"].items()}
            self._transitions.extend(known["transitions"])

    def _save(self) -> None:
        state = {"yielding": self._yielding, "roles": self._roles, "transitions": list(self._transitions)}
        with suppress(OSError):  # for the supervisor after us, not for one after a boot
            replace_file(self._run_dir / STATE_FILE, json.dumps(state), durable=False)

    # -- who may compare

    def _open_port(self, ha_plan: HaPlan) -> None:
        self._close_port()
        if not ha_plan.check_port:
            return
        family = socket.AF_INET6 if ":" in ha_plan.address else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            opened.setblocking(False)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # for the one that relieves us
            bind_ahead(opened)
            opened.bind((ha_plan.address, ha_plan.check_port))
            opened.listen(4)
        except OSError as error:
            opened.close()
            logger.error(
                "the pair: the other node cannot compare its configuration with this one: %s port %d cannot be opened "
                "(%s)",
                ha_plan.address,
                ha_plan.check_port,
                error.strerror,
            )
            return
        self._port = opened
        self._loop.selector.register(opened, EVENT_READ, self._compare)

    def _compare(self) -> None:
        """Somebody asks. Only the peer gets an answer, which it need not ask for: nothing is read."""
        assert self._port is not None
        assert self._ha_plan is not None
        try:
            connection, whence = self._port.accept()
        except OSError:
            return
        with connection:
            if whence[0] == self._ha_plan.peer:
                connection.setblocking(False)
                with suppress(OSError):  # a fresh socket's buffer takes some kilobytes at once
                    connection.sendall(json.dumps(self.report()).encode() + b"\n")

    def _close_port(self) -> None:
        if self._port is not None:
            self._loop.selector.unregister(self._port)
            self._port.close()
            self._port = None

    def _close(self) -> None:
        self._close_port()
        if self._news is not None:
            self._loop.selector.unregister(self._news)
            self._news.close()
            self._news = None
        self.lifeline.release()
        self._ha_plan = None
        self._written = None


def _identity(path: Path) -> tuple[int, int]:
    """Of a file as it is: others have another one, and it has another one when it has been written to."""
    try:
        found = path.stat()
    except OSError:
        return NO_FILE
    return found.st_ino, found.st_mtime_ns
