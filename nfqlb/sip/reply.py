"""Local replies: a stateless answer to a request, made of the request's own rows [RFC 3261 8.2.6, 8.2.7].

Copies Via (all), From, To, Call-ID and CSeq as they came; a row that could not be read is not there to copy.
"""

from nfqlb.sip.edit import Edit, apply
from nfqlb.sip.message import Message

PHRASES = {
    200: b"OK", 400: b"Bad Request", 403: b"Forbidden", 416: b"Unsupported URI Scheme", 420: b"Bad Extension",
    421: b"Extension Required", 482: b"Loop Detected", 483: b"Too Many Hops", 503: b"Service Unavailable",
    505: b"Version Not Supported", 513: b"Message Too Large",
}  # fmt: skip


def build(
    request: Message,
    status: int,
    *,
    to_tag: bytes | None,
    via_edits: list[Edit],
    headers: list[bytes],
) -> bytes:
    """The reply's bytes. `to_tag` is added to To when given (the request's To has none); `via_edits` fill in
    received and rport of the top Via [RFC 3261 18.2.1]; `headers` are further whole rows without CRLF.
    """
    raw = request.raw
    lines = [b"SIP/2.0 %d %b\r\n" % (status, PHRASES[status])]
    for name, label in (
        (b"via", b"Via"),
        (b"from", b"From"),
        (b"to", b"To"),
        (b"call-id", b"Call-ID"),
        (b"cseq", b"CSeq"),
    ):
        rows = request.rows.get(name, [])
        for row in rows if name == b"via" else rows[:1]:
            edits = [edit for edit in via_edits if row.value <= edit[0] <= row.value_end] if name == b"via" else []
            value = apply(raw, edits, row.value, row.value_end).strip(b" \t\r\n")
            tag = b";tag=" + to_tag if name == b"to" and to_tag else b""
            lines.append(b"%b: %b%b\r\n" % (label, value, tag))
    lines += [header + b"\r\n" for header in headers]
    lines.append(b"Content-Length: 0\r\n\r\n")
    return b"".join(lines)
