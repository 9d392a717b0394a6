"""Makes hostile messages of good ones: changes of rows, of what stands in them, and of single bytes.

A function of its bytes and of the chance that is given, so a seed repeats it. Knows what SIP looks like, not what any
reader makes of it.
"""

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from random import Random

ROWS = (
    b"Via: SIP/2.0/UDP 203.0.113.5;branch=z9hG4bKnfq0011223344556677.00112233",
    b"Via: SIP/2.0/UDP 192.168.1.5;branch=z9hG4bKnfq0011223344556677.00112233",
    b"v: SIP/2.0/UDP 192.168.1.99:5060;received=192.168.1.99;rport=1;maddr=192.168.1.98, SIP/2.0/UDP 6.6.6.6",
    b'Via: SIP/2.0/UDP h;x="', b"Via : SIP / 2.0 / UDP\r\n first.example:\t4000 ;ttl=16 ;maddr=224.2.0.1 ;branch=a.1",
    b"Via: SIP/2.0/UDP [2001:db8::9:1]:6050;rport;branch=z9hG4bKas3-111, SIP/2.0/TCP a;branch=b", b"Via: ,", b"v:",
    b"Max-Forwards: 0", b"Max-Forwards: 255", b"Max-Forwards: 256", b"Max-Forwards: 00071", b"Max-Forwards: 1\r\n 2",
    b"Max-Forwards: -1", b"Max-Forwards: " + b"9" * 400, b"Content-Length: 3", b"l: 0", b"Content-Length: -1",
    b"Content-Length: 99999999999999999999", b"Call-ID: call-1", b"i: call-0", b"f: <sip:x@y>;tag=1;tag=2",
    b"From: Bell, Alexander <sip:a@b>;tag=43", b'From: "a\\"b, <c>" <sip:a@b;x=%00>;tag=1', b"t: sip:a@b;tag=nfq",
    b"To: <sip:a@b>;tag=nfq0011223344556677", b"CSeq: 1 ACK", b"CSeq: 4294967296 INVITE", b"CSeq: 0001 INVITE",
    b"Proxy-Require: privacy, \"", b"Proxy-Require: sec-agree", b"Require: path", b"Supported: path", b"k: outbound",
    b"Contact: *", b"m: <sip:a@10.0.0.1>", b'Contact: "<', b"Expires: 0", b"User-Agent: friendly-scanner",
    b"Record-Route: <sip:lb@192.168.1.5;lr;r2=on;received=sip:192.168.1.99;sig=00112233445566778899;nat=yes>",
    b"Path: <sip:lb@192.168.1.5;lr;received=sip:192.168.1.99>", b"Subject: folded\r\n \r\n\tand again",
    b"Route: <sip:203.0.113.5;lr>, <sip:lb@192.168.1.5;lr;r2=on>", b"Route: <sip:192.168.1.21>", b"Route: <",
    b"Route: <sip:192.168.1.99;lr>", b"Route: <sip:x@203.0.113.5;maddr=192.168.1.99>", b"Route: <sip:127.0.0.1;lr>",
    b"Route: <sip:192.168.1.99;maddr=203.0.113.5;lr>", b"Route: <sip:lb@[::ffff:203.0.113.5];lr>",
    b"Route: <sip:[2001:db8::5];lr>, <sip:lb@[2001:DB8:1:0::5];lr;r2=on>", b"Route: <sip:[2001:db8:1::21];lr>",
    b"Route: <sip:lb@[2001:db8:1::5];lr;received=sip:[2001:db8:9::5]:53;sig=00112233445566778899>",
    b"Via: SIP/2.0/UDP [2001:db8:1::5];branch=z9hG4bKnfq0011223344556677.00112233",
    b"v: SIP/2.0/UDP [2001:db8:9::5]:5060;received=2001:DB8:9::5;rport=1", b"m: <sip:a@[fd00::1]:5060>",
    b"Route: <sip:peer.example.net;lr>", b"Route: <sip:slow.example;lr>", b"Route: <sip:lb@sbc.example.org;lr>",
    b'Route: "<sip:203.0.113.5>" <sip:198.51.100.9;lr>', b"Route: sip:203.0.113.5;lr", b"Route: <sip:a@b@c>",
    b"Route: <sip:lb@192.168.1.5;lr;received=sip:198.51.100.200:5060>", b"Route: <tel:+1>", b"Route: ,,",
    b"Route: <sip:lb@192.168.1.5;lr;received=sip:8.8.8.8:53;sig=00112233445566778899>",
    b"Route: <sip:lb@203.0.113.5;lr;received=sip:8.8.8.8:53;sig=00112233445566778899>",
    b"Route: <sip:lb@192.168.1.5;lr;r2=on;received=sip:8.8.8.8:53;sig=00112233445566778899;nat=yes>",
    b"Route: <sip:lb@203.0.113.5;lr;r2=on>, <sip:lb@192.168.1.5;lr;r2=on>, "
    b"<sip:lb@192.168.1.5;lr;r2=on;received=sip:8.8.8.8:53;sig=00112233445566778899;nat=yes>",
    b"No colon", b" no name", b": no name", b"X: \0", b"X: \n", b"X: \r", b"X\xff: y", "Subject: ünï ☎".encode(),
    b"Authorization: Digest username=\"a, b\", realm=\"x\", nonce=\"<\"", b"Event: presence", b"",
)  # fmt: skip
STARTS = (
    b"INVITE sip:lb@203.0.113.5;lr;r2=on SIP/2.0", b"BYE sip:x@192.168.1.99 SIP/2.0", b"REGISTER sip:[::1] SIP/2.0",
    b"INVITE sip:a@b;maddr=127.0.0.1 SIP/2.0", b"SIP/2.0 200 OK", b"SIP/2.0 999 x", b"INVITE  sip:a SIP/2.0",
    b"INVITE sip:bob@198.51.100.9:5070 SIP/2.0", b"OPTIONS sip:203.0.113.5 SIP/2.0", b"ACK tel:+49 SIP/2.0",
    b"CANCEL sips:a@b SIP/2.0", b"INVITE http://a SIP/2.0", b"INVITE sip:a@b SIP/7.0", b"SIP/3.0 200 OK", b"SIP/2.0",
    b"!foo%bar sip:%61@[2001:DB8:0::5]:5060;LR SIP/2.0", b"INVITE sip:a@b SIP/2.0 ", b"\r\n\r\n", b"ACK sip:a SIP/2.0",
    b"INVITE sip:911@example.org?Route=%3Csip:x%3E SIP/2.0", b"MESSAGE sip:x@carrier.example SIP/2.0",
)  # fmt: skip
TOKENS = (
    b",", b";", b"<", b">", b'"', b"\\", b'\\"', b"\r\n", b"\r\n ", b"\r\n\t", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ",
    b"\t", b":", b"@", b"=", b"%", b"%00", b"%3B", b"%0d%0a", b"[", b"]", b"[::1]", b"::ffff:1.2.3.4", b"sip:",
    b"[::ffff:102:304]", b"[2001:db8:9::1]", b"2001:DB8:9:0::1", b"[ff02::1]", b"[fe80::1%25eth0]", b"[fe80::1]", b"::",
    b";received=[2001:db8:9::1]", b"[2001:db8:1::21]", b"[2001:db8::5]", b"[2001:db8:1::5]", b"[1.2.3.4]", b"[::]:0",
    b"sips:", b"tel:", b";lr", b";r2=on", b";nat=yes", b";maddr=192.168.1.99", b";received=", b";rport", b";rport=0",
    b";branch=", b";tag=", b";ttl=1", b"z9hG4bK", b"z9hG4bKnfq", b"SIP/2.0", b"SIP/2.0/UDP ", b"203.0.113.5",
    b"192.168.1.5", b"192.168.1.21", b"198.51.100.200", b"2001:db8::5", b":5060", b":0", b":65536", b"0", b"-1",
    b"4294967295", b"\xff",
    b"\xc3\xbc", b"\xe2\x80\xa8", b"lb@", b"%6cb@", b"x" * 300, b" SIP/2.0\r\n", b"?", b"&", b"/", b"'", b"\x7f",
)  # fmt: skip
COMPACT = {b"via": b"v", b"from": b"f", b"to": b"t", b"call-id": b"i", b"contact": b"m", b"content-length": b"l",
           b"supported": b"k", b"subject": b"s", b"content-type": b"c", b"event": b"o"}  # fmt: skip
SPELLED = {short: name for name, short in COMPACT.items()}

LONGEST = 65_535 - 28
_FOLD = re.compile(rb"[ ;,]")
_NUMBER = re.compile(rb"[0-9]+")
_IPV6 = re.compile(rb"[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]*:[0-9A-Fa-f]{0,4}")
NUMBERS = (b"0", b"1", b"2", b"255", b"256", b"65535", b"65536", b"2147483648", b"4294967296", b"00", b"9" * 30)

Lines = list[bytes]
"""Start line, then rows."""
Change = Callable[[Lines, int, Random], None]


def _drop(lines: Lines, at: int, chance: Random) -> None:  # noqa: ARG001
    del lines[at]


def _double(lines: Lines, at: int, chance: Random) -> None:
    lines.insert(chance.randint(1, len(lines)), lines[at])


def _move(lines: Lines, at: int, chance: Random) -> None:
    lines.insert(chance.randint(1, len(lines) - 1), lines.pop(at))


def _swap(lines: Lines, at: int, chance: Random) -> None:
    """Two rows exchange what they say."""
    other = chance.randrange(1, len(lines))
    one, two = lines[at].partition(b":"), lines[other].partition(b":")
    lines[at], lines[other] = one[0] + b":" + two[2], two[0] + b":" + one[2]


def _case(lines: Lines, at: int, chance: Random) -> None:
    name, colon, value = lines[at].partition(b":")
    lowered = name.strip().lower()
    forms = (name.upper(), name.lower(), name.swapcase(), COMPACT.get(lowered, SPELLED.get(lowered, lowered)))
    lines[at] = chance.choice(forms) + colon + value


def _all_upper(lines: Lines, at: int, chance: Random) -> None:  # noqa: ARG001
    name, colon, value = lines[at].partition(b":")
    lines[at] = name + colon + value.upper()


def _fold(lines: Lines, at: int, chance: Random) -> None:
    places = [found.start() for found in _FOLD.finditer(lines[at])]
    if places:
        place = chance.choice(places)
        lines[at] = lines[at][:place] + chance.choice((b"\r\n ", b"\r\n\t", b"\r\n \r\n ")) + lines[at][place:]


def _blank(lines: Lines, at: int, chance: Random) -> None:
    lines[at] = lines[at].replace(b":", chance.choice((b" :", b" \t:  ", b":", b":\t")), 1) + chance.choice(
        (b" ", b"\t")
    )


def _join(lines: Lines, at: int, chance: Random) -> None:  # noqa: ARG001
    if at + 1 < len(lines):
        lines[at] += b", " + lines.pop(at + 1).partition(b":")[2]


def _unjoin(lines: Lines, at: int, chance: Random) -> None:  # noqa: ARG001
    name, _, value = lines[at].partition(b":")
    lines[at : at + 1] = [name + b":" + part for part in value.split(b",")]


def _cut(lines: Lines, at: int, chance: Random) -> None:
    lines[at] = lines[at][: chance.randint(0, len(lines[at]))]


def _put_token(lines: Lines, at: int, chance: Random) -> None:
    row = lines[at]
    place = chance.randint(0, len(row))
    lines[at] = row[:place] + chance.choice(TOKENS) + row[place:]


def _replace_token(lines: Lines, at: int, chance: Random) -> None:
    """One token between separators becomes another one, of the row or not."""
    row = lines[at]
    parts = re.split(rb"([;,:=<>@ \"])", row)
    place = chance.randrange(len(parts))
    parts[place] = chance.choice(TOKENS) if chance.random() < 0.6 else parts[chance.randrange(len(parts))]
    lines[at] = b"".join(parts)


def _number(lines: Lines, at: int, chance: Random) -> None:
    found = list(_NUMBER.finditer(lines[at]))
    if found:
        one = chance.choice(found)
        lines[at] = lines[at][: one.start()] + chance.choice(NUMBERS) + lines[at][one.end() :]


def _respell(lines: Lines, at: int, chance: Random) -> None:
    """An IPv6 address in another of its forms, or with something else around it."""
    found = list(_IPV6.finditer(lines[at]))
    if not found:
        return
    one = chance.choice(found)
    text = one.group()
    try:
        whole = IPv6Address(text.decode()).exploded.encode()
    except ValueError:
        whole = b"0" + text
    groups = [group.lstrip(b"0") or b"0" for group in whole.split(b":")]
    new = chance.choice((text.upper(), whole, whole.upper(), b":".join(groups), b"[%b]" % text, text + b"%1"))
    lines[at] = lines[at][: one.start()] + new + lines[at][one.end() :]


def _repeat(lines: Lines, at: int, chance: Random) -> None:
    """Many Vias, a header value of kilobytes."""
    name, colon, value = lines[at].partition(b":")
    count = 2000 if chance.random() < 0.01 else chance.choice((2, 3, 10, 70))
    if chance.random() < 0.5:
        lines[at : at + 1] = [lines[at]] * count
    else:
        lines[at] = name + colon + chance.choice((b",", b"", b";")).join([value] * count)


def _insert(lines: Lines, at: int, chance: Random) -> None:
    lines.insert(at, chance.choice(ROWS))


CHANGES: tuple[Change, ...] = (
    _drop, _double, _move, _swap, _case, _all_upper, _fold, _blank, _join, _unjoin, _cut, _put_token, _put_token,
    _replace_token, _replace_token, _number, _respell, _repeat, _insert, _insert,
)  # fmt: skip


def message(payload: bytes, others: Sequence[bytes], chance: Random, most: int = 4) -> bytes:
    """A message with one to `most` changes; `others` are messages to take rows from."""
    head, blank, body = payload.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for _ in range(int(chance.random() * most) + 1):
        what = chance.random()
        if what < 0.04:
            lines[0] = chance.choice(STARTS)
        elif what < 0.08:
            changed = [lines[0]]
            _replace_token(changed, 0, chance)
            lines[0] = changed[0]
        elif what < 0.25 and others:
            taken = chance.choice(others).partition(b"\r\n\r\n")[0].split(b"\r\n")
            if what < 0.10:
                lines[0] = taken[0]
            else:
                lines.insert(chance.randint(1, len(lines)), chance.choice(taken))
        elif what < 0.28:
            body = data(body, chance)
        elif len(lines) > 1:
            CHANGES[int(chance.random() * len(CHANGES))](lines, chance.randrange(1, len(lines)), chance)
        else:
            lines.append(chance.choice(ROWS))
    made = b"\r\n".join(lines) + blank + body
    what = chance.random()
    if what < 0.10:
        made = data(made, chance)
    elif what < 0.12:
        made = made[: chance.randint(0, len(made))]
    elif what < 0.13:
        made = b"\r\n" * chance.randint(1, 3) + made
    elif what < 0.132:
        made = made + b"x" * chance.choice((1000, 60_000))
    return made[:LONGEST]


HARMLESS = (
    b"X-Other: y", b"Subject: a, b;c", b"m: <sip:alice@10.9.9.9:5062>", b"Contact: <sip:alice@[2001:db8::1]>;q=0.1",
    b"User-Agent: phone/2.0 (x)", b"Supported: path, timer", b"Record-Route: <sip:10.0.0.1;lr>", b"Allow: INVITE, ACK",
    b"Path: <sip:10.0.0.1;lr>", b"Date: ", b"Authorization: Digest username=\"a, b\", realm=\"x\"", b"Expires: 60",
)  # fmt: skip
_SIGN = re.compile(rb"[0-9A-Za-z]")
_SIGNS = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-"


def gentle(payload: bytes, chance: Random) -> bytes:
    """A message that is as plain as before, but another: letters, digits, spelling of names, order of rows."""
    head, blank, body = payload.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for _ in range(int(chance.random() * 3) + 1):
        what, at = chance.random(), chance.randrange(len(lines))
        if what < 0.5:
            row = lines[at]
            first = 0 if chance.random() < 0.1 else row.find(b":")
            place = chance.randint(max(first, 0), len(row))
            found = _SIGN.search(row, place)
            if found:
                lines[at] = row[: found.start()] + bytes((chance.choice(_SIGNS),)) + row[found.end() :]
        elif what < 0.6 and at:
            _case(lines, at, chance)
        elif what < 0.7 and at:
            lines.insert(chance.randint(1, len(lines) - 1), lines.pop(at))
        elif what < 0.75:
            _respell(lines, at, chance)
        elif what < 0.85:
            lines.insert(chance.randint(1, len(lines)), chance.choice(HARMLESS))
        elif what < 0.9 and at:
            _blank(lines, at, chance)
        elif what < 0.95:
            body += chance.randbytes(chance.choice((1, 2, 700)))
        elif at:
            _number(lines, at, chance)
    return (b"\r\n".join(lines) + blank + body)[:LONGEST]


def data(raw: bytes, chance: Random, tokens: Sequence[bytes] = TOKENS) -> bytes:
    """Any bytes with one to three of them changed, cut out, doubled, moved or made up."""
    for _ in range(int(chance.random() * 3) + 1):
        start = chance.randint(0, len(raw))
        stop = min(len(raw), start + chance.choice((0, 1, 1, 2, 4, 8, 40)))
        what = chance.random()
        if what < 0.3:
            new = chance.choice(tokens)
        elif what < 0.5:
            new = bytes((chance.randrange(256),))
        elif what < 0.65:
            new = b""
        elif what < 0.8:
            new = raw[start:stop] * 2
        elif what < 0.9:
            other = chance.randint(0, len(raw))
            new = raw[other : other + 20]
        else:
            new = chance.randbytes(chance.randint(1, 8))
        raw = raw[:start] + new + raw[stop:]
    return raw[:LONGEST]
