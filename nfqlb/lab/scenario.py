"""SIP dialogues as ladders, and the SIPp scenario of each side of one.

A ladder is written once, from the caller's side (`-> INVITE`, `<- 200`), and rendered twice: for the caller as it
stands, for the callee turned round. A response answers the last open request, unless it names another one
(`<- 487 INVITE`). Knows SIP's dialogue bookkeeping (tags, CSeq, route sets, which Via goes back) and SIPp's XML. Does
not know addresses: they come from SIPp's command line as keywords:

    [me] [peer]    users           [domain]    of the peer's URI
    [contact]      host:port of our Contact
"""

import re
from dataclasses import dataclass, field
from xml.sax.saxutils import quoteattr

LADDERS = {
    "register": """
        -> REGISTER
        <- 200""",
    "unregister": """
        -> REGISTER expires=0
        <- 200""",
    "call": """
        -> INVITE
        <- 180
        <- 200
        -> ACK
        -> BYE
        <- 200""",
    "call-ended-by-callee": """
        -> INVITE
        <- 180
        <- 200
        -> ACK
        <- BYE
        -> 200""",
    "cancel": """
        -> INVITE
        <- 180
        -> CANCEL
        <- 200
        <- 487 INVITE
        -> ACK""",
    "busy": """
        -> INVITE
        <- 486
        -> ACK""",
    "reinvite": """
        -> INVITE
        <- 180
        <- 200
        -> ACK
        -> INVITE
        <- 200
        -> ACK
        <- INVITE
        -> 200
        <- ACK
        -> INFO
        <- 200
        <- BYE
        -> 200""",
    "subscribe": """
        -> SUBSCRIBE
        <- 200
        <- NOTIFY
        -> 200
        -> SUBSCRIBE expires=0
        <- 200
        <- NOTIFY
        -> 200""",
    "message": """
        -> MESSAGE
        <- 200""",
    "options": """
        -> OPTIONS
        <- 200""",
}

REASONS = {180: "Ringing", 200: "OK", 486: "Busy Here", 487: "Request Terminated"}

PAUSE_MS = 60
"""Between two messages of one side in a row (180, 200; ACK, BYE): a proxy with several processes may swap them."""


@dataclass(frozen=True)
class Manner:
    """How a side plays a ladder: without waiting and without faults, unless told otherwise."""

    hold_ms: int = 0
    """Before our BYE or CANCEL."""
    late_ms: int = 0
    """Before our first answer to INVITE and CANCEL: from 500 on, they are repeated."""
    lost: int = 0
    """Percent of our final responses (but to CANCEL) and our ACKs to a refusal that never leave, so that somebody
    repeats. Without the ACK of an answered call its BYE may come first, and the callee cannot make sense of it."""
    patchy: bool = False
    """The network loses messages: a provisional response, which nobody repeats, may be missing."""
    linger_ms: int = 0
    """After the end, still answering what is repeated."""


@dataclass(frozen=True)
class Step:
    """One message of a ladder."""

    forward: bool
    """True: from the caller to the callee."""
    method: str
    status: int = 0
    expires: int = 3600


def parse(ladder: str) -> list[Step]:
    """The messages of a ladder, each response with the method that it answers."""
    steps: list[Step] = []
    open_requests: list[Step] = []
    for line in ladder.split("\n"):
        match = re.fullmatch(r"\s*(->|<-) (?:(\d{3})(?: ([A-Z]+))?|([A-Z]+)(?: expires=(\d+))?)", line)
        if not match:
            if line.strip():
                raise ValueError(f"not a line of a ladder: {line!r}")
            continue
        arrow, status, answered, method, expires = match.groups()
        forward = arrow == "->"
        if method:
            step = Step(forward, method, expires=int(expires or 3600))
            if method != "ACK":
                open_requests.append(step)
        else:
            request = next(r for r in reversed(open_requests) if r.forward != forward and answered in (None, r.method))
            step = Step(forward, request.method, int(status))
            if step.status >= 200:
                open_requests.remove(request)
        steps.append(step)
    return steps


def render(name: str, *, caller: bool, more_lines: int = 0, manner: Manner = Manner()) -> str:
    """The SIPp scenario (XML) of one side of the ladder `name`; offers are `more_lines` lines of 80 bytes longer."""
    return _Side(name, parse(LADDERS[name]), caller, more_lines, manner).xml()


@dataclass
class _Side:
    name: str
    steps: list[Step]
    caller: bool
    more_lines: int
    manner: Manner
    cseq: int = 0
    """Of the last request that we sent, ACK and CANCEL apart."""
    transactions: int = 0
    confirmed: bool = False
    """The dialogue has a remote tag: requests go along its route set."""
    lines: list[str] = field(default_factory=list)

    def xml(self) -> str:
        previous: Step | None = None
        final = {"INVITE": 0}
        for step in self.steps:
            ours = step.forward == self.caller
            if ours and (pause := self._pause(step, previous)):
                self.lines.append(f'  <pause milliseconds="{pause}"/>')
            if ours:
                self._send(step, answered=final["INVITE"])
            else:
                self._receive(step)
            if step.status:
                final[step.method] = step.status
                if 200 <= step.status < 300 and step.method in ("INVITE", "SUBSCRIBE"):
                    self.confirmed = True
            previous = step
        if self.manner.linger_ms:
            self.lines.append(f'  <timewait milliseconds="{self.manner.linger_ms}"/>')
        title = quoteattr(f"{self.name}, {'caller' if self.caller else 'callee'}")
        body = "\n".join(self.lines)
        # SIPp refuses a variable that is assigned and never used.
        assigned = any("assign_to" in line for line in self.lines)
        unused = "" if not assigned else '  <Reference variables="from,to,vias"/>\n'
        return f'<?xml version="1.0" encoding="UTF-8" ?>\n<scenario name={title}>\n{body}\n{unused}</scenario>\n'

    def _pause(self, step: Step, previous: Step | None) -> int:
        """Milliseconds before a message of ours."""
        if previous is None:
            return 0
        if previous.forward == step.forward:
            pause = PAUSE_MS
        else:
            pause = self.manner.late_ms if step.status and step.method in ("INVITE", "CANCEL") else 0
        ends = step.method in ("BYE", "CANCEL") and not step.status
        return max(pause, self.manner.hold_ms) if ends else pause

    def _receive(self, step: Step) -> None:
        first = not self.confirmed and step.method in ("INVITE", "SUBSCRIBE")
        if step.status:
            if step.method == "INVITE" and not (step.status >= 300 and self.lines[-1].startswith("  <recv")):
                self.lines.append('  <recv response="100" optional="true"/>')
            routes = ' rrs="true"' if first and 200 <= step.status < 300 else ""
            optional = ' optional="true"' if self.manner.patchy and step.status < 200 else ""
            self.lines.append(f'  <recv response="{step.status}"{routes}{optional}/>')
            return
        if self.caller or not first:
            self.lines.append(f'  <recv request="{step.method}"/>')
            return
        # Rows of Vias and of Record-Routes alternate, hop by hop: they are remembered, and given back, as they stand.
        row = "[^[:cntrl:]]*[[:cntrl:]]+"
        self.lines.append(
            f"""  <recv request="{step.method}" rrs="true">
    <action>
      <ereg regexp=".*" search_in="hdr" header="From:" assign_to="from"/>
      <ereg regexp=".*" search_in="hdr" header="To:" assign_to="to"/>
      <ereg regexp="((Via|Record-Route):{row})+" search_in="msg" assign_to="vias"/>
    </action>
  </recv>"""
        )

    def _send(self, step: Step, answered: int) -> None:
        headers = self._response(step) if step.status else self._request(step, answered)
        # Over UDP the sender repeats: a request until it is answered, a final response to INVITE until its ACK.
        repeats = step.method == "INVITE" and step.status >= 200 if step.status else step.method != "ACK"
        retransmit = ' retrans="500"' if repeats else ""
        text = "\n".join(f"      {line}" for line in headers)
        may_be_lost = answered >= 300 if step.method == "ACK" else step.status >= 200 and step.method != "CANCEL"
        lost = f' lost="{self.manner.lost}"' if self.manner.lost and may_be_lost else ""
        self.lines.append(f"  <send{retransmit}{lost}><![CDATA[\n\n{text}\n\n  ]]></send>")

    def _response(self, step: Step) -> list[str]:
        # After a CANCEL the Vias at hand are the CANCEL's: the INVITE is answered from memory.
        late = step.method == "INVITE" and step.status == 487
        tag = ";tag=[pid]-[call_number]-b"
        to = "[last_To:]" if self.confirmed or self.caller else f"[last_To:]{tag}"
        headers = [
            f"SIP/2.0 {step.status} {REASONS[step.status]}",
            "[$vias]From:[$from]" if late else "[last_Via:]",
            *([] if late else ["[last_From:]"]),
            to,
            "[last_Call-ID:]",
            "CSeq: 1 INVITE" if late else "[last_CSeq:]",
        ]
        if step.method in ("INVITE", "SUBSCRIBE") and step.status < 300:
            headers += ["[last_Record-Route:]", "Contact: <sip:[me]@[contact]>"]
        if step.method == "SUBSCRIBE":
            headers.append("[last_Expires:]")
        return headers + _body(step, self.more_lines)

    def _request(self, step: Step, answered: int) -> list[str]:
        within = self.confirmed or not self.caller
        hop_by_hop = step.method == "CANCEL" or (step.method == "ACK" and answered >= 300)
        if step.method not in ("ACK", "CANCEL"):
            self.cseq += 1
        if not hop_by_hop:
            self.transactions += 1
        side = "a" if self.caller else "b"
        tag = f";tag=[pid]-[call_number]-{side}"
        uri = "[next_url]" if within and not hop_by_hop else "sip:[peer]@[domain]"
        own, other = "sip:[me]@example.org", "sip:[peer]@[domain]"
        if step.method == "REGISTER":
            uri, other = "sip:example.org", own
        remote_tag = "" if step.method == "CANCEL" else "[peer_tag_param]"
        headers = [
            f"{step.method} {uri} SIP/2.0",
            "Via: SIP/2.0/[transport] [local_ip]:[local_port]"
            f"{_rport(step)};branch=z9hG4bK-[pid]-[call_number]-{side}{self.transactions}",
            "Max-Forwards: 70",
            *(["[routes]"] if within and not hop_by_hop else []),
            *(
                [f"From: <{own}>{tag}", f"To: <{other}>{remote_tag}"]
                if self.caller
                else [f"From:[$to]{tag}", "To:[$from]"]
            ),
            "Call-ID: [call_id]",
            f"CSeq: {self.cseq} {step.method}",
        ]
        if step.method in ("INVITE", "SUBSCRIBE", "REGISTER", "NOTIFY"):
            headers.append("Contact: <sip:[me]@[contact]>")
        if step.method in ("SUBSCRIBE", "REGISTER"):
            headers.append(f"Expires: {step.expires}")
        if step.method in ("SUBSCRIBE", "NOTIFY"):
            headers.append("Event: presence")
        if step.method == "NOTIFY":
            state = "active;expires=3600" if self.cseq == 1 else "terminated;reason=timeout"
            headers.append(f"Subscription-State: {state}")
        return headers + _body(step, self.more_lines)


def _rport(step: Step) -> str:
    """MESSAGE and OPTIONS come from old phones here: behind NAT, and not asking for rport."""
    return "" if step.method in ("MESSAGE", "OPTIONS") else ";rport"


def _body(step: Step, more_lines: int) -> list[str]:
    if step.method == "INVITE" and step.status in (0, 200):
        return [
            "Content-Type: application/sdp",
            "Content-Length: [len]",
            "",
            "v=0",
            "o=[me] 1 1 IN IP[media_ip_type] [media_ip]",
            "s=-",
            "c=IN IP[media_ip_type] [media_ip]",
            "t=0 0",
            "m=audio 40000 RTP/AVP 0",
            "a=rtpmap:0 PCMU/8000",
            *(f"a=x-line:{n:06} {'x' * 62}" for n in range(0 if step.status else more_lines)),
        ]
    if step.method == "MESSAGE" and not step.status:
        return ["Content-Type: text/plain", "Content-Length: [len]", "", "Hello, are you there?"]
    return ["Content-Length: 0"]
