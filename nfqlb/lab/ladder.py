"""What passed the gateway, as a ladder: each message as it came, where it went, and the lines that were rewritten.

Made of frames seen on both links, not of anything the gateway says of itself. Knows that a message keeps its Call-ID,
CSeq and method or status on the way through, and so which packet that left is which that came.
"""

import itertools
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from nfqlb.capture import ip
from nfqlb.capture.reassembly import Reassembler
from nfqlb.lab.wire import Seen
from nfqlb.layout import HEADER, wrapped
from nfqlb.net.datagram import DatagramError, parse
from nfqlb.net.endpoint import Endpoint
from nfqlb.offline.header_diff import header_changes, header_lines

if TYPE_CHECKING:
    from rich.text import Text

Key = tuple[bytes, bytes, bytes]
"""Call-ID, CSeq, and the method or status."""


class Message(NamedTuple):
    """One whole SIP message on one link."""

    time_ns: int
    outgoing: bool
    source: Endpoint
    target: Endpoint
    payload: bytes
    fragments: int
    """Packets it came in."""

    @property
    def other(self) -> Endpoint:
        """The end that is not the gateway."""
        return self.target if self.outgoing else self.source


class Passage(NamedTuple):
    """A message's way through the gateway. One half is missing when the gateway answered or dropped it."""

    title: str
    """`REGISTER`, `200 REGISTER`."""
    came: Message | None
    left: Message | None

    @property
    def first(self) -> Message:
        message = self.came or self.left
        assert message is not None
        return message

    @property
    def removed(self) -> list[str]:
        return self._lines("-")

    @property
    def added(self) -> list[str]:
        return self._lines("+")

    def _lines(self, mark: str) -> list[str]:
        return [line.text for line in self.changes() if line.mark == mark]

    def changes(self) -> list["Change"]:
        """Removed and added header lines, in the order of the message; none when one half is missing."""
        if not (self.came and self.left):
            return []
        return [
            Change(line.mark, line.text)
            for line in header_changes(self.came.payload, self.left.payload)
            if line.mark != " "
        ]


class Change(NamedTuple):
    mark: str
    """`-` or `+`."""
    text: str


def messages(frames: Iterable[Seen]) -> list[Message]:
    """The SIP messages in the frames, fragments put together; anything else is left out."""
    reassemblers: dict[tuple[str, bool], Reassembler] = defaultdict(Reassembler)
    found = []
    for number, frame in enumerate(frames, 1):
        packet, count = frame.packet, 1
        piece = ip.fragment(packet)
        if piece is not None:
            whole = reassemblers[frame.link, frame.outgoing].feed(piece, number, frame.time_ns)
            if whole is None:
                continue
            packet, count = whole.packet, len(whole.frames)
        try:
            datagram = parse(packet, verify=False)
        except DatagramError:
            continue
        if b"SIP/2.0" in datagram.payload.partition(b"\r\n")[0]:
            found.append(Message(frame.time_ns, frame.outgoing, datagram.src, datagram.dst, datagram.payload, count))
    return found


def passages(found: Iterable[Message]) -> list[Passage]:
    """Messages that came joined with what left, in the order of coming."""
    waiting: dict[Key, deque[int]] = defaultdict(deque)
    result: list[Passage] = []
    for message in found:
        key, title = _key(message.payload)
        if not message.outgoing:
            waiting[key].append(len(result))
            result.append(Passage(title, message, None))
        elif waiting[key]:
            index = waiting[key].popleft()
            result[index] = result[index]._replace(left=message)
        else:
            result.append(Passage(title, None, message))
    return result


def header(payload: bytes, name: str) -> str | None:
    """The first header of that name, read as simply as can be: this is no part of the gateway."""
    wanted = name.lower().encode()
    for line in header_lines(payload)[1:]:
        word, colon, value = line.partition(b":")
        if colon and word.strip().lower() == wanted:
            return value.strip().decode(errors="replace")
    return None


def _key(payload: bytes) -> tuple[Key, str]:
    first = header_lines(payload)[0].split(b" ")
    response = first[0] == b"SIP/2.0"
    cseq = header(payload, "cseq") or ""
    what = first[1] if response else first[0]
    title = f"{what.decode()} {cseq.split()[-1] if cseq else '?'}" if response else what.decode()
    return ((header(payload, "call-id") or "").encode(), cseq.encode(), what), title


ARROW = 18
"""Characters of each arrow: the longest title fits."""


def draw(
    found: Iterable[Passage],
    inside: Collection[Endpoint],
    names: Mapping[Endpoint, str],
    *,
    headers: bool = True,
    room: int | None = None,
) -> list["Text"]:
    """Lines for a terminal: seconds, outside, gateway, inside; below each passage what was rewritten in it.

    `inside` are the backends, `names` what people call an end. Where `room` columns are too few for both addresses, the
    ends have names only, also those that nobody has named, and the first lines tell whose they are.
    """
    from rich.text import Text

    def row(time: str, *cells: str) -> Text:
        outside, left, gateway, right, backend = cells
        text = Text(f"{time:>7} ", style="dim", no_wrap=True)
        text.append(f"{outside:<{column}} ", style="not dim")
        text.append(f"{left:{ARROW}}", style="not dim cyan")
        text.append(f"{gateway:^7}", style="not dim bold")
        text.append(f"{right:{ARROW}} ", style="not dim cyan")
        text.append(backend, style="not dim")
        text.rstrip()
        return text

    def label(message: Message) -> str:
        return labels[message.other]

    def half(message: Message, title: str) -> Text:
        """A row for one message on one side."""
        at_backend = message.other in inside
        arrow = _arrow(title, right=message.outgoing == at_backend)
        if at_backend:
            return row(clock(message), "", "", "▪", arrow, label(message))
        return row(clock(message), label(message), arrow, "▪", "", "")

    def clock(message: Message) -> str:
        return f"{(message.time_ns - start) / 1e9:.3f}"

    found = list(found)
    ends = dict.fromkeys(m.other for passage in found for m in (passage.came, passage.left) if m)
    labels = {end: f"{end} {names.get(end, '')}".rstrip() for end in ends}
    start = found[0].first.time_ns if found else 0
    lines = []
    if room is not None and _width(labels, inside) > room:
        strangers = (f"#{number}" for number in itertools.count(1))
        labels = {end: names.get(end) or next(strangers) for end in ends}
        longest = max(map(len, labels.values()))
        lines = [Text(f"{'':8}{name:{longest}} {end}", no_wrap=True) for end, name in labels.items()]
    column = max((len(name) for end, name in labels.items() if end not in inside), default=0)
    lines.append(row("s", "outside", "", "gateway", "", "inside"))
    for passage in found:
        came, left = passage.came, passage.left
        if came and left and (came.other in inside) != (left.other in inside):
            enters = left.other in inside
            outer, inner = (came, left) if enters else (left, came)
            arrows = _arrow(passage.title, right=enters), _arrow("", right=enters)
            arrows = arrows if enters else arrows[::-1]
            lines.append(row(clock(came), label(outer), arrows[0], "▪", arrows[1], label(inner)))
        else:
            lines += [half(message, passage.title) for message in (came, left) if message]
        if headers:
            lines += [
                Text(line, style="red" if change.mark == "-" else "green")
                for change in passage.changes()
                for line in wrapped(f"{change.mark} {change.text}", room, indent=10, hang=14, breaks=HEADER)
            ]
    return lines


def _width(labels: Mapping[Endpoint, str], inside: Collection[Endpoint]) -> int:
    """Columns of a row with the longest of the labels."""
    outer = max((len(name) for end, name in labels.items() if end not in inside), default=0)
    inner = max((len(name) for end, name in labels.items() if end in inside), default=0)
    return 8 + outer + 1 + ARROW + 7 + ARROW + 1 + inner


def _arrow(title: str, *, right: bool) -> str:
    shaft = f" {title} " if title else ""
    return f"{shaft:─^{ARROW - 1}}▶" if right else f"◀{shaft:─^{ARROW - 1}}"
