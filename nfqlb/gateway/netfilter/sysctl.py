"""Which sysctls the packet path needs, setting them, and putting back what stood there before.

A rewritten packet has one of our own addresses as its source and goes on as if it had come in by the interface it came
by. IPv4 takes that for forged unless the interface has accept_local=1 and a reverse path filter that is not strict; and
forwarding has to be on. Knows /proc/sys and the record of what was changed; which interfaces matter is in Arrivals.

The record is one JSON file: key → value before, value of ours. It is written before anything is changed, so that a
crash between leaves at worst an entry whose value never became ours; and only values that are still ours are put back.
Its directory may be that of a user who is not root, so root neither follows a link there nor sets any key but ours.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from nfqlb.errors import HostError
from nfqlb.files import replace_file
from nfqlb.gateway.netfilter.ingress import Ingress

ROOT = Path("/proc/sys")

RECORD = "sysctls.json"
"""Name of the record in the run directory. It must live as long as the kernel does, so /run is the place."""

OFF, STRICT, LOOSE = 0, 1, 2
"""rp_filter: no check; the source's route must lead back by this very interface; by any [RFC 3704]."""

IPV6_FORWARDING = "net/ipv6/conf/all/forwarding"

HEED_THOUGH_FORWARDING = "2"
"""accept_ra of an interface that heeds router advertisements even while it forwards [ip-sysctl.rst]."""


OURS = re.compile(
    r"net/ipv4/conf/(?!\.\.?/)[^/]+/(forwarding|accept_local|rp_filter|send_redirects)|" + re.escape(IPV6_FORWARDING)
)
"""Every key that a record of ours can have."""


WHY = {
    "net/ipv4/conf/*/forwarding": "Rewritten packets are forwarded.",
    "net/ipv4/conf/*/accept_local": "A rewritten packet has an address of this host as its source.",
    "net/ipv4/conf/*/rp_filter": "The strict form would refuse that source. Elsewhere what counts stays as it is.",
    "net/ipv4/conf/*/send_redirects": "Packets that turn round here are on purpose not on the shortest way.",
    IPV6_FORWARDING: "Rewritten packets are forwarded.",
}
"""Key, whatever the interface → a line for people."""


class Entry(NamedTuple):
    before: str
    ours: str


class Difference(NamedTuple):
    key: str
    """A path below /proc/sys; interface names may have dots in them."""
    now: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.key}: {self.now} → {self.wanted}"


Record = dict[str, Entry]


class Sysctls:
    """The sysctls of the calling thread's network namespace, and the record of our changes in `run_dir`."""

    def __init__(self, run_dir: Path, root: Path = ROOT) -> None:
        self._file = run_dir / RECORD
        self._root = root

    def apply(self, arrivals: Ingress) -> list[Difference]:
        """Set what has to be set; what it no longer has to be, because interfaces changed, is put back. The changes."""
        record = self._recorded()
        wanted = {key: Entry(self._before(key, record), value) for key, value in self._wanted(arrivals, record).items()}
        stale = {key: entry for key, entry in record.items() if key not in wanted}
        if not wanted and not stale:
            return []
        self._write_record({**stale, **wanted})
        changes = self._put_back(stale)
        changes += [Difference(key, self._value(key), entry.ours) for key, entry in wanted.items()]
        changes = [change for change in changes if change.now != change.wanted]
        for change in changes:
            self._write(change.key, change.wanted)
        self._write_record(wanted)
        return changes

    def remove(self) -> list[Difference]:
        """Put back every value that is still ours. The changes."""
        changes = self._put_back(self._recorded())
        for change in changes:
            self._write(change.key, change.wanted)
        self._write_record({})
        return changes

    def wanted(self, arrivals: Ingress) -> dict[str, str]:
        """Key → value, for all that is not so by itself: what `apply` would set on a host that it has never changed."""
        return self._wanted(arrivals, self._recorded())

    def differences(self, arrivals: Ingress) -> list[Difference]:
        """What `apply` would set."""
        record = self._recorded()
        wanted = self._wanted(arrivals, record)
        found = [Difference(key, self._value(key), value) for key, value in wanted.items()]
        return [difference for difference in found if difference.now != difference.wanted]

    def _put_back(self, record: Record) -> list[Difference]:
        """A value that is not ours any more is somebody's later wish, and so is forwarding that has meanwhile been
        switched on for the whole host (Docker does, and needs it on our interfaces, too).
        """
        changes = []
        for key, entry in record.items():
            host_wide = key.startswith("net/ipv4/") and key.endswith("/forwarding") and self._forwards_everywhere()
            if self._read(key) == entry.ours and not host_wide:
                changes.append(Difference(key, entry.ours, entry.before))
        return changes

    def _forwards_everywhere(self) -> bool:
        return self._read("net/ipv4/conf/all/forwarding") == "1"

    def _wanted(self, arrivals: Ingress, record: Record) -> dict[str, str]:
        """Key → value, for each key that must differ from what stood there before us."""
        wanted: dict[str, int] = {}
        for name in ("forwarding", "accept_local"):
            wanted |= {f"net/ipv4/conf/{link}/{name}": 1 for link in sorted(arrivals.ipv4)}
        if arrivals.ipv4:
            own = self._by_interface("rp_filter", record)
            filters = {link: max(own["all"], own.get(link, 0)) for link in arrivals.ipv4}
            for link, effective in filters.items():
                if link in arrivals.unnumbered:
                    filters[link] = OFF
                elif effective == STRICT:
                    filters[link] = LOOSE
            wanted |= {f"net/ipv4/conf/{link}/rp_filter": value for link, value in lowered(own, filters).items()}
        if arrivals.turning:
            own = self._by_interface("send_redirects", record)
            none = dict.fromkeys(arrivals.turning, 0)
            wanted |= {f"net/ipv4/conf/{link}/send_redirects": value for link, value in lowered(own, none).items()}
        if arrivals.ipv6:
            wanted[IPV6_FORWARDING] = 1
        return {key: str(value) for key, value in wanted.items() if self._before(key, record) != str(value)}

    def _by_interface(self, name: str, record: Record) -> dict[str, int]:
        """Interface (or "all", "default") → value before us."""
        links = sorted(path.name for path in (self._root / "net/ipv4/conf").iterdir())
        return {link: int(self._before(f"net/ipv4/conf/{link}/{name}", record) or 0) for link in links}

    def _before(self, key: str, record: Record) -> str:
        """The value before us: of the record, unless somebody else has changed it since."""
        now = self._value(key)
        entry = record.get(key)
        return entry.before if entry is not None and entry.ours == now else now

    def _value(self, key: str) -> str:
        return self._read(key) or ""

    def _read(self, key: str) -> str | None:
        try:
            return (self._root / key).read_text("ascii").strip()
        except FileNotFoundError:  # the interface has gone
            return None
        except OSError as error:
            raise HostError(f"/proc/sys/{key} cannot be read ({error.strerror}).") from None

    def _write(self, key: str, value: str) -> None:
        if key != IPV6_FORWARDING:
            self._write_one(key, value)
            return
        # Linux now sets every interface to the same value, with which it would stop heeding router advertisements
        # there. `all` alone decides whether packets are forwarded, so each interface gets its own value back.
        interfaces = sorted((self._root / "net/ipv6/conf").glob("*/forwarding"))
        keys = [str(path.relative_to(self._root)) for path in interfaces if path.parent.name != "all"]
        values = {each: self._value(each) for each in keys}
        with self._routes_kept([each for each, own in values.items() if own == "0"]):
            self._write_one(key, value)
            for each, own in values.items():
                if own and self._read(each) not in (None, own):
                    self._write_one(each, own)

    @contextmanager
    def _routes_kept(self, keys: Iterable[str]) -> Iterator[None]:
        """Keep the routes that router advertisements brought; `keys`: `forwarding` of each interface that heeds them.

        Whenever 1 is written to any `forwarding`, Linux forgets those routes, the default route among them, on each
        interface of the host whose accept_ra is not 2 (heed them although we forward). So it is 2 for that moment. The
        value matters when something is written or heard, so it may go back once forwarding is as it shall be.
        """
        own = {key: self._value(key) for key in (re.sub(r"forwarding$", "accept_ra", each) for each in keys)}
        own = {key: value for key, value in own.items() if value not in ("", "0", HEED_THOUGH_FORWARDING)}
        try:
            for key in own:
                self._write_one(key, HEED_THOUGH_FORWARDING)
            yield
        finally:
            for key, value in own.items():
                if self._read(key) == HEED_THOUGH_FORWARDING:
                    self._write_one(key, value)

    def _write_one(self, key: str, value: str) -> None:
        try:
            (self._root / key).write_text(value, "ascii")
        except FileNotFoundError:
            return  # the interface has gone, and its sysctls with it
        except PermissionError:
            raise HostError(f"/proc/sys/{key} cannot be set: run this as root (CAP_NET_ADMIN).") from None
        except OSError as error:
            raise HostError(f"/proc/sys/{key} cannot be set to {value} ({error.strerror}).") from None

    def _recorded(self) -> Record:
        try:
            content = json.loads(self._file.read_text("utf-8"))
            record = {key: Entry(entry["before"], entry["ours"]) for key, entry in content.items()}
            for key, entry in record.items():
                if not OURS.fullmatch(key) or not all(re.fullmatch(r"\d*", value) for value in entry):
                    raise ValueError(key)
            return record
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise HostError(f"{self._file} cannot be read ({error.strerror}).") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise HostError(
                f"{self._file} is not the record of sysctls that nfqlb wrote; look what it is, and move it away."
            ) from None

    def _write_record(self, record: Mapping[str, Entry]) -> None:
        """The new record or the old one, never half of one; without entries no file."""
        try:
            if not record:
                self._file.unlink(missing_ok=True)
                return
            self._file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            rows = {key: entry._asdict() for key, entry in record.items()}
            replace_file(self._file, json.dumps(rows, indent=1), 0o644)
        except OSError as error:
            raise HostError(f"{self._file} cannot be written ({error.strerror}).") from None


def written(values: Mapping[str, str]) -> str:
    """Keys and values as `sysctl -p` takes them, each kind below a comment that says why."""
    lines: list[str] = []
    for kind, group in groupby(values, key=kind_of):
        lines += [f"# {WHY[kind]}", *(f"{key} = {values[key]}" for key in group)]
    return "".join(f"{line}\n" for line in lines)


def kind_of(key: str) -> str:
    """The key of WHY that it falls under."""
    return key if key in WHY else re.sub(r"(?<=/conf/)[^/]+", "*", key)


def lowered(own: Mapping[str, int], wanted: Mapping[str, int]) -> dict[str, int]:
    """New values for a sysctl of which the larger of an interface's own value and that of "all" counts.

    `own`: interface, "all" or "default" → value. `wanted`: interface → the value that shall count there. What counts on
    every other interface, and on those to come ("default"), stays.
    """
    everywhere = min([own["all"], *wanted.values()])
    found = {"all": everywhere}
    for link, value in own.items():
        if link != "all":
            counts = wanted.get(link, max(own["all"], value))
            found[link] = value if max(everywhere, value) == counts else counts
    return found
