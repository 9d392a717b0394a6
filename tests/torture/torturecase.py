"""The torture messages: how their files are read, and what PROTOCOL says leaves for each of them.

A file holds messages and variants of one message. In its texts a line ends with CRLF, `⟨0d⟩` is the byte of that
number and `⟨text×70⟩` that text seventy times. `out` names the outcome: `entering`, `leaving` or `response-leaving` for
what is forwarded, else the status of the reply (or `drop`) with the name of the reason.

What leaves is said by difference, as rule P1 does: the message as it came, with `changes` made (Max-Forwards 70 becomes
69 unless said otherwise), our own rows on top, and nothing else. Keyed values stand as ⟨branch⟩ and ⟨sig⟩.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sipcase import EXT, INT, OTHER, PHONE, PROXY1, REG1, Gateway, endpoint, request, setup

from nfqlb.proxy.setup import Backend, Listener, Pool

FOLDER = Path(__file__).parent
PHONE6, EXT6, INT6 = "[2001:db8::9:1]:5060", "[2001:db8::5]:5060", "[2001:db8:1::5]:5060"
REG6, PROXY6 = "[2001:db8:1::11]:5060", "[2001:db8:1::21]:5060"
FORWARDED = ("entering", "leaving", "response-leaving")
HOPS = ("Max-Forwards: 70", "Max-Forwards: 69")
NEVER_RECORDED = {"REGISTER", "ACK", "CANCEL", "BYE", "PRACK", "OPTIONS", "MESSAGE", "INFO", "PUBLISH"}
"""Methods without Record-Route (P26)."""


@dataclass(frozen=True)
class Torture:
    """One message and its outcome."""

    name: str
    text: str
    out: str
    rules: str
    changes: tuple[tuple[str, str], ...] = (HOPS,)
    like: str = ""
    """The message of an RFC that it stands beside."""
    side: str = "outside"
    to: str = ""
    """Who gets it; for what enters, the only proxy or registrar unless given."""
    version: int = 4
    nat: bool = False
    """Whether Record-Route says that the peer cannot be reached at its Contact."""
    adds_hops: bool = False
    kept_until: str = ""
    """Where the message ends that is followed by something else (P4)."""
    more: str = ""
    """A further row of the reply."""
    unechoed: str = ""
    """The row that the reply must do without, as it cannot be read."""
    via: str = ""
    """The Via of the reply, unless it is that of the request."""

    def __str__(self) -> str:
        return self.name

    @property
    def is_forwarded(self) -> bool:
        return self.out in FORWARDED

    @property
    def method(self) -> str:
        return self.text.lstrip("⟨0da⟩").partition(" ")[0]

    @property
    def sockets(self) -> tuple[str, str]:
        """Source and destination of the packet."""
        if self.version == 6:
            return PHONE6, EXT6
        return (PHONE, EXT) if self.side == "outside" else (REG1, INT)

    @property
    def backend(self) -> str:
        registers = self.method == "REGISTER"
        if self.version == 6:
            return REG6 if registers else PROXY6
        return REG1 if registers else PROXY1


def gateway() -> Gateway:
    """Two listeners, and one backend in each pool for each IP version, so that there is one answer to `where to`."""
    return Gateway(
        setup(
            listeners=(
                Listener("main", endpoint(EXT), endpoint(INT)),
                Listener("six", endpoint(EXT6), endpoint(INT6)),
            ),
            pools=(
                Pool("registrars", (Backend("reg4", endpoint(REG1)), Backend("reg6", endpoint(REG6)))),
                Pool("proxies", (Backend("proxy4", endpoint(PROXY1)), Backend("proxy6", endpoint(PROXY6)))),
            ),
        )
    )


@cache
def signed() -> dict[str, str]:
    """What the gateway has signed for a phone behind NAT, by the names that the files use."""
    at = gateway()
    path = at.from_phone(request("REGISTER", "sip:example.org"), OTHER).header("Path")
    call = at.from_phone(request(Via="SIP/2.0/UDP 10.9.9.9;branch=z9hG4bK-1"), OTHER)
    via, below = call.headers("Via")
    return {"path": path, "via": via, "below": below, "record": call.headers("Record-Route")[0]}


def on_the_wire(text: str) -> bytes:
    """The bytes that a text of the files stands for."""
    for name, value in signed().items():
        text = text.replace(f"⟨{name}⟩", value)
    data = text.replace("\n", "\r\n").encode()
    data = re.sub("⟨([0-9a-f]{2})⟩".encode(), lambda found: bytes.fromhex(found[1].decode()), data)
    return re.sub("⟨([^⟨⟩]*)×([0-9]+)⟩".encode(), lambda found: found[1] * int(found[2]), data, flags=re.DOTALL)


def all_messages() -> list[Torture]:
    found: list[Torture] = []
    for path in sorted(FOLDER.glob("*.toml")):
        content = tomllib.loads(path.read_text())
        found += [_message(each) for each in content.get("message", ())]
        found += _variants(content, "outside")
        found += _variants(content.get("response", {}), "inside")
    return found


def _message(table: dict[str, Any]) -> Torture:
    table = dict(table)
    if "changes" in table:
        table["changes"] = tuple((old, new) for old, new in table["changes"])
    if "from" in table:
        table["side"] = table.pop("from")
    return Torture(**table)


def _variants(table: dict[str, Any], side: str) -> list[Torture]:
    found = []
    for title, variant in table.get("variants", {}).items():
        rules, _, text = title.partition(": ")
        for number, swap in enumerate(variant["swap"], 1):
            message = table["base"].replace("MESSAGE", variant.get("method", "MESSAGE"))
            for old, new in zip(swap[::2], swap[1::2], strict=True):
                old, new = (each.replace("MESSAGE", variant.get("method", "MESSAGE")) for each in (old, new))
                assert message.count(old) == 1, (title, old)
                message = message.replace(old, new)
            adds_hops = variant.get("adds_hops", False)
            more = {key: variant[key] for key in ("more",) if key in variant}
            changes = () if adds_hops or HOPS[0] not in message else (HOPS,)
            name = f"{text} ({number})"
            found.append(
                Torture(name, message, variant["out"], rules, changes=changes, side=side, adds_hops=adds_hops, **more)
            )
    return found


# -- what leaves -----------------------------------------------------------------------------------------------------


def forwarded(case: Torture) -> "re.Pattern[bytes]":
    """The exact bytes of what leaves, but for the keyed values."""
    text = case.text
    if case.kept_until:
        kept = on_the_wire(case.kept_until)
        whole = on_the_wire(text)
        assert whole.count(kept) >= 1
        cut = whole[: whole.index(kept) + len(kept)]
    else:
        cut = on_the_wire(text)
    for old, new in case.changes:
        before, after = on_the_wire(old), on_the_wire(new)
        assert cut.count(before) == 1 or (old, new) == HOPS, (case.name, old, cut.count(before))
        cut = cut.replace(before, after, 1)
    first, _, rest = cut.partition(b"\r\n")
    whole = first + b"\r\n" + own_rows(case).replace("\n", "\r\n").encode() + rest
    pattern = re.escape(whole)
    for name, form in (("branch", rb"z9hG4bKnfq[0-9a-f]{16}\.[0-9a-f]{8}"), ("sig", rb"[0-9a-f]{20}")):
        pattern = pattern.replace(re.escape(f"⟨{name}⟩".encode()), form)
    return re.compile(pattern, re.DOTALL)


def own_rows(case: Torture) -> str:
    """Via, and Path or Record-Route, and Max-Forwards where there was none (P10, P23, P25, P26)."""
    if case.out == "response-leaving":
        return ""
    six = case.version == 6
    outer, inner = (EXT6, INT6) if six else (EXT, INT)
    outer, inner = outer.removesuffix(":5060"), inner.removesuffix(":5060")
    peer = case.to if case.out == "leaving" else case.sockets[0]
    flow = f"received=sip:{peer};sig=⟨sig⟩"
    near = inner if case.out == "entering" else outer
    rows = f"Via: SIP/2.0/UDP {near};branch=⟨branch⟩\n"
    if case.method == "REGISTER":
        rows += f"Path: <sip:lb@{inner};lr;{flow}>\n"
    elif case.method not in NEVER_RECORDED:
        facing_in = f"Record-Route: <sip:lb@{inner};lr;r2=on;{flow}{';nat=yes' if case.nat else ''}>\n"
        facing_out = f"Record-Route: <sip:lb@{outer};lr;r2=on>\n"
        rows += facing_in + facing_out if case.out == "entering" else facing_out + facing_in
    return rows + ("Max-Forwards: 70\n" if case.adds_hops else "")


NAMES = {"via": "Via", "v": "Via", "from": "From", "f": "From", "to": "To", "t": "To", "call-id": "Call-ID",
         "i": "Call-ID", "cseq": "CSeq"}  # fmt: skip


def reply(case: Torture, phrase: str) -> "re.Pattern[bytes]":
    """Our reply, without its Warning: the identifying rows as they came, To with a tag of ours, and what
    the status asks for (P14) [RFC 3261 8.2.6].
    """
    rows: dict[str, list[bytes]] = {name: [] for name in ("Via", "From", "To", "Call-ID", "CSeq")}
    for line in re.split(rb"\r\n(?![ \t])", on_the_wire(case.text).partition(b"\n")[2]):
        if not line:
            break
        name, colon, value = line.partition(b":")
        spelled = NAMES.get(name.strip(b" \t").lower().decode("latin-1"))
        if colon and spelled and spelled != case.unechoed and (spelled == "Via" or not rows[spelled]):
            rows[spelled].append(value.strip())
    if case.via:
        rows["Via"] = [case.via.encode()]
    lines = [re.escape(f"SIP/2.0 {case.out.partition(' ')[0]} {phrase}".encode())]
    for name, values in rows.items():
        tag = rb";tag=nfq[0-9a-f]{16}" if name == "To" and b";tag" not in b"".join(values) else b""
        lines += [re.escape(name.encode() + b": " + value) + tag for value in values]
    lines += [re.escape(case.more.encode())] * bool(case.more)
    return re.compile(b"\r\n".join((*lines, b"Content-Length: 0", b"", b"")), re.DOTALL)
