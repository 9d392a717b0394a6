"""The reader against independent readers made of splits and loops, on messages made up by hypothesis (P1–P6)."""

import re
from typing import NamedTuple

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nfqlb.net import stun
from nfqlb.net.endpoint import Endpoint
from nfqlb.sip import address, edit, grammar, message, uri, via
from nfqlb.sip.message import Fault, Message, NotSip

# -- messages ---------------------------------------------------------------------------------------------------------

SHORT = {
    "a": "Accept-Contact", "b": "Referred-By", "c": "Content-Type", "d": "Request-Disposition",
    "e": "Content-Encoding", "f": "From", "i": "Call-ID", "j": "Reject-Contact", "k": "Supported",
    "l": "Content-Length", "m": "Contact", "n": "Identity-Info", "o": "Event", "r": "Refer-To", "s": "Subject",
    "t": "To", "u": "Allow-Events", "v": "Via", "x": "Session-Expires", "y": "Identity",
}  # fmt: skip
"""Compact forms as IANA lists them, written down here a second time on purpose."""
KNOWN = [*SHORT, *SHORT.values(), "CSeq", "Max-Forwards", "Route", "Record-Route", "Path", "X-Other", "!odd%name~"]

any_case = st.sampled_from(KNOWN).flatmap(
    lambda name: st.sampled_from([name, name.lower(), name.upper(), name.title()])
)
blanks = st.text(" \t", max_size=3)
text = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=20)
folded = st.lists(text, min_size=1, max_size=3).flatmap(
    lambda lines: st.tuples(*(st.sampled_from([" ", "\t", "  "]) for _ in lines)).map(
        lambda gaps: lines[0] + "".join(f"\r\n{gap}{line}" for gap, line in zip(gaps, lines[1:], strict=False))
    )
)
rows = st.lists(st.tuples(any_case, blanks, folded), max_size=8)
start_lines = st.sampled_from(
    ["INVITE sip:bob@example.org SIP/2.0", "we!rd tel:+1 sip/2.0", "SIP/2.0 200 OK", "SIP/2.0 699", "SIP/2.0 180 Ça"]
)
bodies = st.binary(max_size=40)


class Written(NamedTuple):
    raw: bytes
    head: bytes
    body: bytes


@st.composite
def written(draw: st.DrawFn) -> Written:
    """A message that is well-formed as far as its frame goes; what stands in the headers is anything."""
    lines = [draw(start_lines), *(f"{name}{gap}:{value}" for name, gap, value in draw(rows))]
    head = "\r\n".join([*lines, ""]).encode()
    body = draw(bodies)
    return Written(draw(st.sampled_from([b"", b"\r\n", b"\r\n\r\n"])) + head + b"\r\n" + body, head, body)


def naive_rows(head: bytes) -> list[tuple[str, bytes]]:
    """Canonical name and value of every row; folded lines joined by what folded them."""
    found: list[tuple[str, bytes]] = []
    for line in head.split(b"\r\n")[1:-1]:
        if line[:1] in (b" ", b"\t"):
            name, value = found.pop()
            found.append((name, value + b"\r\n" + line))
        else:
            spelled, _, value = line.partition(b":")
            name = spelled.strip(b" \t").decode().lower()
            found.append((SHORT.get(name, name).lower(), value))
    return found


@pytest.mark.slow
@given(written())
def test_P1_P2_rows_are_those_of_a_naive_reader_and_cover_the_header_block(sample: Written) -> None:
    read = message.parse(sample.raw)
    expected = naive_rows(sample.head)
    found = sorted((row, name) for name, rows in read.rows.items() for row in rows)
    assert [(name.decode(), read.raw[row.value : row.value_end]) for row, name in found] == expected
    position = read.first_header
    assert read.raw[read.start : position] == sample.head.partition(b"\r\n")[0] + b"\r\n"
    for row, _ in found:
        assert row.start == position
        position = row.end
    assert position == read.body - 2
    assert read.raw[read.body :] == sample.body
    for name, rows in read.rows.items():
        assert read.value(name) == read.raw[rows[0].value : rows[0].value_end].strip(b" \t\r\n")


@pytest.mark.slow
@given(written())
def test_P4_P5_faults_are_those_of_a_naive_reader(sample: Written) -> None:
    read = message.parse(sample.raw)
    names = [name for name, _ in naive_rows(sample.head)]
    once = ("content-length", "call-id", "cseq", "from", "to", "max-forwards")
    if any(names.count(name) > 1 for name in once):
        assert read.fault is Fault.DUPLICATE
        return
    lengths = [value.strip(b" \t\r\n") for name, value in naive_rows(sample.head) if name == "content-length"]
    if not lengths:
        assert (read.fault, read.end) == (None, len(sample.raw))
    elif re.fullmatch(rb"[0-9]+", lengths[0]) and int(lengths[0]) <= len(sample.body):
        assert (read.fault, read.end) == (None, read.body + int(lengths[0]))
    else:
        assert (read.fault, read.end) == (Fault.LENGTH, len(sample.raw))


@given(st.integers(0, 60), st.sampled_from([0, 1, 3, 5000]), bodies)
def test_P4_content_length_cuts_or_is_refused(length: int, zeros: int, body: bytes) -> None:
    raw = b"INVITE sip:a@b SIP/2.0\r\nl: " + b"0" * zeros + b"%d\r\n\r\n" % length + body
    read = message.parse(raw)
    if length > len(body):
        assert read.fault is Fault.LENGTH
    else:
        assert read.fault is None
        assert raw[read.body : read.end] == body[:length]


DAMAGE = [b"\r", b"\n", b"\0", b"\n\r", b"\r\r\n", b"\n\n"]


@pytest.mark.slow
@given(written(), st.sampled_from(DAMAGE), st.integers(0, 400))
def test_P5_a_bare_cr_or_lf_or_a_nul_in_the_header_block_is_refused(sample: Written, damage: bytes, at: int) -> None:
    first = sample.head.index(b"\r\n") + 2
    assume(first + at <= len(sample.head) - 2)
    head = sample.head[: first + at] + damage + sample.head[first + at :]
    # Damage that lands between CR and LF, or makes a whole CRLF of its neighbours, is another message.
    assume(head.replace(b"\r\n", b"").count(b"\r") + head.replace(b"\r\n", b"").count(b"\n") + head.count(b"\0"))
    assume(b"\r\n\r\n" not in head)
    assert message.parse(head + b"\r\n" + sample.body).fault is Fault.HEADER_BLOCK


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A message with a few of its bytes cut, doubled, exchanged or made up."""
    raw = bytearray(draw(written()).raw)
    for _ in range(draw(st.integers(1, 6))):
        if not raw:
            break
        start = draw(st.integers(0, len(raw) - 1))
        stop = min(len(raw), start + draw(st.integers(0, 12)))
        raw[start:stop] = draw(
            st.sampled_from([b"", bytes(raw[start:stop]) * 2, b"\r\n", b'"', b"<", b"\0", b":", b" SIP/2.0\r\n"])
            | st.binary(max_size=6)
        )
    return bytes(raw)


def check_frame(read: Message) -> None:
    """What holds for any bytes: everything lies inside the message, rows in order and apart."""
    assert 0 <= read.start <= read.first_header <= read.body <= read.end <= len(read.raw)
    position = read.first_header
    for row in sorted(row for rows in read.rows.values() for row in rows):
        assert position <= row.start < row.value <= row.value_end < row.end <= len(read.raw)
        assert read.raw[row.value_end : row.end] == b"\r\n"
        position = row.end
    assert edit.apply(read.raw, [], 0, len(read.raw)) == read.raw


@pytest.mark.slow
@given(st.binary(max_size=200) | mutated())
@example(b"")
@example(b"SIP/2.0\n")
@example(b" SIP/2.0\r\n\r\n")
@example(b"\r\n" * 3 + b"SIP/2.0 ")
def test_P1_any_bytes_are_read_or_are_not_sip(raw: bytes) -> None:
    message.glance(raw)
    message.is_keepalive(raw)
    stun.is_stun(raw)
    try:
        read = message.parse(raw)
    except NotSip:
        return
    check_frame(read)
    for name in (b"via", b"route", b"contact"):
        try:
            for start, end in read.values(name):
                via.parse(raw, start, end)
                address.parse(raw, start, end)
        except grammar.QuotingError:
            pass


# -- edits ------------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=60), st.data())
def test_P1_edits_are_what_replacing_from_the_back_gives(raw: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    edits = [(a, b, data.draw(st.binary(max_size=4))) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    starts = [start for start, _, _ in edits]
    assume(len(set(starts)) == len(starts))
    expected = bytearray(raw)
    for start, end, new in reversed(edits):
        expected[start:end] = new
    shuffled = data.draw(st.permutations(edits))
    assert edit.apply(raw, shuffled, 0, len(raw)) == bytes(expected)


value = st.sampled_from(
    [
        b"<sip:a@b;lr>",
        b'"x, \\" <" <sip:c,d@e>;p',
        b"SIP/2.0/UDP h;branch=1",
        b"<sip:f@g>\r\n ;q=1",
        b"t",
        b'""',
        b"<,>",
    ]
)
separator = st.sampled_from([b",", b", ", b" ,\r\n ", b",,", b"\t,\t"])


@st.composite
def listed(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """One row's value as a list, with the values in it."""
    values = draw(st.lists(value, max_size=4))
    line = draw(st.sampled_from([b"", b" ", b"\r\n ", b" , "])) if values else b" "
    for index, one in enumerate(values):
        line += (draw(separator) if index else b"") + one
    return line + draw(st.sampled_from([b"", b" ", b",", b" \r\n\t"])), values


@pytest.mark.slow
@given(st.lists(listed(), max_size=4), st.integers(0, 8), st.integers(0, 2))
def test_P16_P34_values_are_taken_from_the_front_and_the_back(
    lines: list[tuple[bytes, list[bytes]]], first: int, last: int
) -> None:
    everything = [one for _, values in lines for one in values]
    assume(first + last <= len(everything))
    raw = b"INVITE sip:a@b SIP/2.0\r\nSubject: before\r\n"
    for number, (line, _) in enumerate(lines):
        raw += b"Route:" + line + b"\r\nX-%d: stays\r\n" % number
    raw += b"\r\nbody, <sip:a@b>"
    read = message.parse(raw)
    assert [raw[start:end] for start, end in read.values(b"route")] == everything
    after = message.parse(edit.apply(raw, edit.remove_values(read, b"route", first, last), 0, len(raw)))
    assert after.fault is None
    left = [after.raw[start:end] for start, end in after.values(b"route")]
    assert left == everything[first : len(everything) - last]
    if not any(line.strip(b" \r\n\t").startswith(b",") or line.endswith(b",") for line, _ in lines):
        for row in after.rows.get(b"route", []):
            rest = after.raw[row.value : row.value_end].strip(b" \r\n\t")
            assert not rest.startswith(b","), "no comma without a value before it, which others may not read"
            assert not rest.endswith(b",")
    others = [name for name in naive_rows(after.raw.partition(b"\r\n\r\n")[0] + b"\r\n") if name[0] != "route"]
    assert others == [("subject", b" before"), *((f"x-{number}", b" stays") for number in range(len(lines)))]
    assert after.raw[after.body :] == b"body, <sip:a@b>"


# -- grammar ----------------------------------------------------------------------------------------------------------


def naive_split(line: bytes) -> list[bytes] | None:
    """The values of a comma list, one character after the other; None when a quote or a `<` stays open."""
    values, current, inside, position = [], b"", "", 0
    while position < len(line):
        char = line[position : position + 1]
        if inside == '"' and char == b"\\":
            char = line[position : position + 2]
            if len(char) < 2:
                return None
        elif inside == '"':
            inside = "" if char == b'"' else inside
        elif inside == "<":
            inside = "" if char == b">" else inside
        elif char in (b'"', b"<"):
            inside = char.decode()
        elif char == b",":
            values.append(current)
            char = current = b""
        current += char
        position += max(len(char), 1)
    if inside:
        return None
    return [one for one in (each.strip(b" \t\r\n") for each in [*values, current]) if one]


@given(st.text('",<>\\;=a \t', max_size=30).map(str.encode) | st.binary(max_size=30))
@example(b'"\\')
@example(b'a"\\""<">",b')
def test_P2_lists_are_split_as_a_naive_tokenizer_splits_them(line: bytes) -> None:
    try:
        found: list[bytes] | None = [line[start:end] for start, end in grammar.split_list(line, 0, len(line))]
    except grammar.QuotingError:
        found = None
    assert found == naive_split(line)


@given(st.binary(max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_trim_is_strip(raw: bytes, one: int, other: int) -> None:
    start, end = sorted((min(one, len(raw)), min(other, len(raw))))
    low, high = grammar.trim(raw, start, end)
    assert raw[low:high] == raw[start:end].strip(b" \t\r\n")
    assert start <= low <= high <= end


TOKEN = "abcXYZ019-.!%*_+`'~"
lws = st.sampled_from(["", " ", "\t", "\r\n ", " \r\n\t "])
token = st.text(TOKEN, min_size=1, max_size=8)
quoted = st.text(st.characters(codec="utf-8", exclude_characters='"\\\r\n\0'), max_size=8).flatmap(
    lambda inner: st.sampled_from([f'"{inner}"', f'"{inner}\\""', f'"\\\\{inner}"', f'";{inner},<"'])
)
Params = list[tuple[str, str | None]]
param = st.tuples(token, st.none() | token | quoted | st.just("[2001:db8::1]:5060"))


@st.composite
def param_text(draw: st.DrawFn, params: st.SearchStrategy[Params]) -> tuple[str, Params]:
    found = draw(params)
    written = "".join(
        draw(lws) + ";" + draw(lws) + name + ("" if value is None else draw(lws) + "=" + draw(lws) + value)
        for name, value in found
    )
    return written, found


@pytest.mark.slow
@given(param_text(st.lists(param, max_size=5)))
def test_P2_params_are_read_with_their_spans(sample: tuple[str, list[tuple[str, str | None]]]) -> None:
    written, expected = sample
    raw = written.encode()
    found = list(grammar.params(raw, 0, len(raw)))
    assert [(name, value) for name, value, _, _ in found] == [
        (name.lower().encode(), None if value is None else value.encode()) for name, value in expected
    ]
    assert b"".join(raw[start:stop] for _, _, start, stop in found) == raw


# -- Via --------------------------------------------------------------------------------------------------------------

hosts = st.sampled_from(["example.org", "a_b.c-d", "192.0.2.1", "[2001:DB8::1]", "[::FFFF:192.0.2.1]", "H"])
ports = st.none() | st.integers(1, 65535)
via_params = st.lists(
    st.tuples(st.sampled_from(["branch", "Received", "rport", "MADDR", "ttl", "x"]), st.none() | token),
    max_size=5,
    unique_by=lambda pair: pair[0],
)


@given(
    hosts, ports, st.lists(lws, min_size=7, max_size=7), param_text(via_params), st.sampled_from(["", "x, ", "\r\n "])
)
def test_P2_via_is_read_with_any_white_space(
    host: str, port: int | None, gaps: list[str], params: tuple[str, list[tuple[str, str | None]]], before: str
) -> None:
    written, pairs = params
    value = f"SIP{gaps[0]}/{gaps[1]}2.0{gaps[2]}/{gaps[3]}UDP{gaps[4] or ' '}{host}"
    if port is not None:
        value += f"{gaps[5]}:{gaps[6]}{port}"
    raw = f"{before}{value}{written}, SIP/2.0/UDP other".encode()
    start, end = len(before), len(f"{before}{value}{written}")
    read = via.parse(raw, start, end)
    assert read is not None
    assert (read.host, read.port, read.span) == (host.lower().encode(), port, (start, end))
    given_values = {name.lower(): None if value is None else value.encode() for name, value in pairs}
    assert read.branch == given_values.get("branch")
    assert read.received == given_values.get("received")
    assert read.maddr == given_values.get("maddr")
    assert read.rport == (given_values["rport"] or b"" if "rport" in given_values else None)
    for name, span in (("received", read.received_span), ("rport", read.rport_span)):
        if name in given_values:
            assert span is not None
            assert raw[span[0] : span[1]].strip(b" \t\r\n").lower().startswith(b";")
            assert name.encode() in raw[span[0] : span[1]].lower()
        else:
            assert span is None


@pytest.mark.parametrize(
    "value",
    [
        "SIP/2.0/UDP",
        "SIP/2.0/UDP h:0",
        "SIP/2.0/UDP h:65536",
        "SIP/2.0/UDP h:123456",
        "SIP/2.0/UDP h:",
        "SIP/2.0/UDP 2001:db8::1",
        "SIP/2.0/UDP [::1",
        "SIP/2.0/UDP h;branch=1;branch=2",
        "SIP/2.0/UDP h;rport;x;rport=1",
        "SIP/2.0/UDP h;received=1.2.3.4;Received=5.6.7.8",
        "SIP/2.0/UDP h;;branch=1",
        "SIP/2.0/UDP h;branch=1 2",
        "SIP/2.0/UDP h h2",
        "SIP/2.0 UDP h",
        "SIP/2.0/UDP h@x",
    ],
)
def test_P5_a_via_that_two_readers_could_read_differently_is_unreadable(value: str) -> None:
    assert via.parse(value.encode(), 0, len(value)) is None


# -- URIs and addresses -----------------------------------------------------------------------------------------------

users = st.none() | st.text("abAB01-_.!~*'()&=+$,;?/:%#|^{}", min_size=1, max_size=12)
uri_params = st.lists(
    st.tuples(token, st.none() | st.text("abAB01-_.!~*'()[]/:&+$=%", max_size=10)),
    max_size=4,
    unique_by=lambda pair: pair[0].lower(),
)


@given(
    st.sampled_from(["sip", "SIPS", "Sip"]), users, hosts, ports, uri_params, st.sampled_from(["", "?", "?a=b&c=%20;"])
)
def test_uri_parts_are_found_again(
    scheme: str, user: str | None, host: str, port: int | None, params: list[tuple[str, str | None]], headers: str
) -> None:
    text = f"{scheme}:{'' if user is None else user + '@'}{host}{'' if port is None else f':{port}'}"
    text += "".join(f";{name}" if value is None else f";{name}={value}" for name, value in params) + headers
    read = uri.parse(text.encode())
    assert read is not None
    assert (read.user, read.host, read.port) == (user and user.encode(), host.lower().encode(), port)
    expected = {name.lower().encode(): None if value is None else value.encode() for name, value in params}
    assert read.params == expected
    assert uri.scheme(text.encode()) == scheme.lower().encode()


@given(st.text('sip:@;?<>"[]=. a1\t', max_size=20).map(lambda tail: b"sip:" + tail.encode()) | st.binary(max_size=40))
def test_any_bytes_are_a_uri_or_none(text: bytes) -> None:
    read = uri.parse(text)
    uri.scheme(text)
    uri.flow_param(text)
    if read is not None:
        assert read.endpoint is None or isinstance(read.endpoint, Endpoint)
        assert read.plain_user() is not None
        assert b"@" not in read.host
        assert text.count(b"@") == (read.user is not None)


@given(
    st.sampled_from(["", " ", "Bob", "Bob Q. ", '"Bob \\"<x>\\", Sr." ', '""', "\r\n "]),
    st.sampled_from(["sip:a@b", "sip:a@b;lr;x=1", "tel:+1;ext=2", "x"]),
    param_text(st.lists(param, max_size=4)),
    lws,
)
def test_name_addr_is_read(
    display: str, inner: str, params: tuple[str, list[tuple[str, str | None]]], gap: str
) -> None:
    written, pairs = params
    raw = f"{display}<{gap}{inner}{gap}>{written}".encode()
    read = address.parse(raw, 0, len(raw))
    assert read is not None
    assert read.uri == inner.encode()
    assert raw[read.uri_span[0] : read.uri_span[1]] == read.uri
    first: dict[bytes, bytes | None] = {}
    for name, value in pairs:
        first.setdefault(name.lower().encode(), None if value is None else value.encode())
    assert read.params == first


@pytest.mark.slow
@given(st.sampled_from(["sip:a@b", "tel:+1"]), param_text(st.lists(param, max_size=3)))
def test_addr_spec_without_brackets_gives_its_params_to_the_header(
    inner: str, params: tuple[str, list[tuple[str, str | None]]]
) -> None:
    written, pairs = params
    raw = f"{inner}{written}".encode()
    assume(b'"' not in raw and b"<" not in raw)
    read = address.parse(raw, 0, len(raw))
    assert read is not None
    assert read.uri == inner.encode()
    assert set(read.params) == {name.lower().encode() for name, _ in pairs}


@given(st.text('"<>;,:\\= a', max_size=25).map(str.encode) | st.binary(max_size=25))
def test_any_bytes_are_an_address_or_none_or_badly_quoted(text: bytes) -> None:
    try:
        read = address.parse(text, 0, len(text))
    except grammar.QuotingError:
        assert b'"' in text or b"<" in text
        return
    assert read is None or text[read.uri_span[0] : read.uri_span[1]] == read.uri


@given(st.text("0123456789", max_size=12) | st.text("0123456789+-_. ²", max_size=6), st.sampled_from([0, 2, 5000]))
def test_a_number_is_read_if_it_is_short_whatever_zeros_lead_it(digits: str, zeros: int) -> None:
    text = ("0" * zeros + digits).encode()
    significant = text.lstrip(b"0")
    if re.fullmatch(rb"[0-9]+", text) and len(significant) <= 5:
        assert grammar.number(text, 5) == int(significant or b"0")
    else:
        assert grammar.number(text, 5) is None
