"""Part A of the rules: reading a datagram (P1–P7)."""

import pytest
from sipcase import EXT, INT, PHONE, REG1, Gateway, endpoint, one_armed, request, response_to, setup, wire

from nfqlb.proxy.setup import Backend, Listener, Pool, RouteRule
from nfqlb.proxy.verdict import Reason

ODD = (
    "INVITE sip:bob@example.org SIP/2.0\r\n"
    "vIa  : SIP/2.0/UDP 172.31.23.177:5060 ; branch = z9hG4bK-1\r\n"
    "MAX-forwards:\t70\r\n"
    'f: "A, B;C>" <sip:alice@example.org>  ;tag=f1\r\n'
    "To:\r\n  sip:bob@example.org\r\n"
    "i: odd@x\r\n"
    "CSeq: 0001\r\n\tINVITE\r\n"
    "Contact: <sip:alice@172.31.23.177:5060>\r\n"
    "X-Unknown:    kept   as it  is  \r\n"
    "X-Unknown: twice\r\n"
    "Date: no date at all\r\n"
    "l: 9\r\n"
    "\r\n"
    "body \x00\r\n\xff"
).encode("latin-1")


def test_P1_bytes_that_no_rule_names_leave_as_they_came() -> None:
    result = Gateway().from_phone(ODD)
    assert result.reason is Reason.REQUEST_ENTERING
    sent = result.payload
    first_line, _, rest = sent.partition(b"\r\n")
    assert first_line == ODD.partition(b"\r\n")[0]
    # Our rows come first; then everything is as it was, but for Max-Forwards.
    at = rest.index(b"vIa  :")
    assert rest[at:] == ODD.partition(b"\r\n")[2].replace(b"\t70", b"\t69")


def test_P1_unknown_methods_pass() -> None:
    result = Gateway().from_phone(request("FROBNICATE"))
    assert result.reason is Reason.REQUEST_ENTERING
    assert result.text.startswith("FROBNICATE sip:bob@example.org SIP/2.0\r\n")


@pytest.mark.parametrize(
    ("long", "compact"),
    [("Via", "v"), ("From", "f"), ("To", "t"), ("Call-ID", "i"), ("Contact", "M"), ("Content-Length", "l")],
)
def test_P2_compact_names_equal_long_ones(long: str, compact: str) -> None:
    plain, short = request(), request().replace(f"{long}:", f"{compact} :", 1)
    expected, got = Gateway().from_phone(plain), Gateway().from_phone(short)
    assert got.reason is Reason.REQUEST_ENTERING
    assert got.text.replace(f"{compact} :", f"{long}:", 1) == expected.text


def test_P2_compact_supported_is_read() -> None:
    gateway = Gateway(setup(path_policy="if-supported"))
    assert gateway.from_phone(request("REGISTER", "sip:example.org", "k: gruu, PATH")).headers("Path")
    assert not gateway.from_phone(request("REGISTER", "sip:example.org", "k: gruu")).headers("Path")


def test_P2_comma_list_equals_rows_and_folding_continues() -> None:
    gateway = Gateway()
    one = f"<sip:lb@{EXT[:-5]};lr;r2=on>"
    two = "<sip:lb@192.168.1.5;lr;r2=on>"
    third = f"<sip:{REG1};lr>"
    rows = [
        [f"Route: {one}", f"Route: {two}", f"Route: {third}"],
        [f"Route: {one}, {two},{third}"],
        [f"route : {one},\n {two}\n\t, {third}"],
    ]
    for form in rows:
        text = request("BYE", "sip:x@1.2.3.4", *form).replace("\n", "\r\n")
        result = gateway.from_phone(text.encode())
        assert result.reason is Reason.REQUEST_ENTERING
        assert result.dst == REG1
        assert [value.strip() for value in result.headers("route")] == [third]


def test_P2_authorization_is_no_list() -> None:
    row = 'Authorization: Digest username="alice", realm="a, b", nonce="x"'
    result = Gateway().from_phone(request("REGISTER", "sip:example.org", row))
    assert row in result.lines


def test_P2_separators_in_quotes_and_brackets_split_nothing() -> None:
    route = f'Route: "a, <b>; \\" c" <sip:lb@{EXT[:-5]};lr>;x="1,2", "d>" <sip:{REG1};lr;p=a>'
    result = Gateway().from_phone(request("BYE", "sip:x@1.2.3.4", route))
    assert result.dst == REG1
    assert result.headers("Route") == [f'"d>" <sip:{REG1};lr;p=a>']


def test_P3_crlfs_before_the_start_line_are_skipped() -> None:
    result = Gateway().from_phone(b"\r\n\r\n" + wire(request()))
    assert result.reason is Reason.REQUEST_ENTERING
    assert result.text.startswith("INVITE ")


@pytest.mark.parametrize("payload", [b"", b"\r\n\r\n", b"\0\0\0\0", b" ", b"\r\n \t\0"])
def test_P3_keepalives_are_counted_and_never_answered(payload: bytes) -> None:
    gateway = Gateway()
    assert gateway.from_phone(payload).reason is Reason.KEEPALIVE
    assert gateway.from_backend(payload).reason is Reason.KEEPALIVE


@pytest.mark.parametrize(
    "start", ["SIP/2.0", "sip/2.0\t200 OK", " SIP/2.0 200 OK", "SIP/2.0200 SIP/2.0", "SIP/x SIP/2.0"]
)
def test_P14_what_begins_like_a_status_line_is_never_answered(start: str) -> None:
    rows = request().partition("\n")[2]
    for send in (Gateway().from_phone, Gateway().from_backend):
        assert send((start + "\r\n").encode() + wire(rows)).reason is Reason.BROKEN_RESPONSE


def test_P4_what_lies_beyond_content_length_is_cut_off() -> None:
    message = wire(request(Content_Length="4")) + b"bodyINVITE sip:second@example.org SIP/2.0\r\n"
    result = Gateway().from_phone(message)
    assert result.payload.endswith(b"\r\n\r\nbody")


def test_P4_content_length_beyond_the_datagram() -> None:
    gateway = Gateway()
    assert gateway.from_phone(request(Content_Length="1")).reason is Reason.BAD_LENGTH
    sent = gateway.from_phone(request())
    answer = response_to(sent).replace("Content-Length: 0", "Content-Length: 1")
    assert gateway.from_backend(answer, sent.dst).reason is Reason.BROKEN_RESPONSE


def test_P4_absent_content_length_means_to_the_end() -> None:
    message = wire(request(Content_Length=None)) + b"v=0\r\n"
    assert Gateway().from_phone(message).payload.endswith(b"\r\n\r\nv=0\r\n")


@pytest.mark.parametrize("length", ["-999", "0x10", "1 2", "", "99999999999999999999"])
def test_P4_unreadable_content_length_is_refused(length: str) -> None:
    assert Gateway().from_phone(request(Content_Length=length)).reason is Reason.BAD_LENGTH


@pytest.mark.parametrize("name", ["Content-Length", "Call-ID", "CSeq", "From", "To", "Max-Forwards"])
def test_P5_a_second_single_header_is_refused(name: str) -> None:
    gateway = Gateway()
    first = next(line for line in request().split("\n") if line.startswith(f"{name}:"))
    doubled = request("INVITE", "sip:bob@example.org", first)
    result = gateway.from_phone(doubled)
    assert result.reason is Reason.DUPLICATE_HEADER
    assert result.lines[0] == "SIP/2.0 400 Bad Request"
    sent = gateway.from_phone(request())
    answer = response_to(sent)
    row = next((line for line in answer.split("\n") if line.startswith(f"{name}:")), first)
    broken = answer.replace("\n\n", f"\n{row}\n{row}\n\n")
    assert gateway.from_backend(broken, sent.dst).reason is Reason.BROKEN_RESPONSE


def test_P5_a_compact_second_header_is_a_second_header() -> None:
    assert Gateway().from_phone(request("INVITE", "sip:b@c", "i: other")).reason is Reason.DUPLICATE_HEADER


@pytest.mark.parametrize(
    "rows",
    [
        b"Subject: a\rb\r\n",
        b"Subject: a\nVia: SIP/2.0/UDP 9.9.9.9\r\n",
        b"Subject: a\0b\r\n",
        b"Subject: a\r\r\n",
        b"no header at all\r\n",
        b": empty name\r\n",
        b"Bad Name: x\r\n",
    ],
)
def test_P5_ambiguous_header_blocks_are_refused(rows: bytes) -> None:
    gateway = Gateway()
    message = wire(request()).replace(b"Contact:", rows + b"Contact:")
    result = gateway.from_phone(message)
    assert result.reason is Reason.BAD_HEADER_BLOCK
    assert result.header("Call-ID") == "call-1@172.31.23.177"
    assert b"\0" not in result.payload
    answer = wire(response_to(gateway.from_phone(request())))
    broken = answer.replace(b"CSeq:", rows + b"CSeq:")
    assert gateway.from_backend(broken).reason is Reason.BROKEN_RESPONSE


def test_P5_a_fold_of_the_start_line_and_a_missing_blank_line_are_refused() -> None:
    message = wire(request())
    folded = message.replace(b"SIP/2.0\r\nVia:", b"SIP/2.0\r\n x\r\nVia:", 1)
    assert Gateway().from_phone(folded).reason is Reason.BAD_HEADER_BLOCK
    assert Gateway().from_phone(message.removesuffix(b"\r\n")).reason is Reason.BAD_HEADER_BLOCK


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("To", '"Mr. J. User <sip:j.user@example.com>'),
        ("From", "<sip:alice@example.org;tag=f1"),
        ("From", '<sip:alice@example.org>;tag=f1;x="open'),
        ("Route", "<sip:203.0.113.5;lr"),
    ],
)
def test_P5_open_quotes_in_headers_that_we_read_are_refused(name: str, value: str) -> None:
    rows = (f"{name}: {value}",) if name == "Route" else ()
    fields = {} if name == "Route" else {name: value}
    result = Gateway().from_phone(request("INVITE", "sip:bob@example.org", *rows, **fields))
    assert result.reason is Reason.BAD_QUOTING


@pytest.mark.parametrize(
    "row", ["Date: never", "Contact: <sip:broken", 'Contact: "open', "Subject: \xff\xfe", "Expires: x"]
)
def test_P6_what_we_do_not_use_may_be_broken(row: str) -> None:
    message = wire(request("INVITE", "sip:bob@example.org", Contact=None)).replace(
        b"Content-Length", row.encode("latin-1") + b"\r\nContent-Length"
    )
    result = Gateway().from_phone(message)
    assert result.reason is Reason.REQUEST_ENTERING
    assert row in result.lines


@pytest.mark.parametrize(
    ("ext", "internal", "phone", "backend"),
    [
        (EXT, INT, PHONE, REG1),
        ("[2001:db8::5]:5060", "[2001:db8:1::5]:5060", "[2001:db8:99::7]:5070", "[2001:db8:1::11]:5060"),
    ],
)
def test_P7_large_datagrams_of_both_ip_versions(ext: str, internal: str, phone: str, backend: str) -> None:
    gateway = Gateway(
        setup(
            listeners=(Listener("main", endpoint(ext), endpoint(internal)),),
            pools=(Pool("all", (Backend("b", endpoint(backend)),)),),
            routes=(RouteRule("all"),),
        )
    )
    body = b"x" * 60000
    message = wire(request(Content_Length=str(len(body)))) + body
    result = gateway.send(phone, ext, message)
    assert result.reason is Reason.REQUEST_ENTERING
    assert (result.src, result.dst) == (internal, backend)
    assert result.payload.endswith(body)


def test_P7_what_would_outgrow_a_datagram_gets_513() -> None:
    body = b"x" * (65507 - len(wire(request(Content_Length="65000"))))
    message = wire(request(Content_Length=str(len(body)))) + body
    assert len(message) == 65507
    result = Gateway().from_phone(message)
    assert result.reason is Reason.MESSAGE_TOO_LARGE
    assert result.lines[0] == "SIP/2.0 513 Message Too Large"
    assert result.dst == PHONE


def test_P7_one_armed_reads_the_same() -> None:
    gateway = Gateway(one_armed())
    assert gateway.from_phone(ODD).reason is Reason.REQUEST_ENTERING
