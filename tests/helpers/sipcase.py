"""Helpers for the rule tests: messages written as text, a gateway to send them to, and an outcome to look at."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dpkt

from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Backend, Listener, Place, Pool, RouteRule, Setup, Standing, Standings, State
from nfqlb.proxy.verdict import Action, Reason, Verdict

EXT = "203.0.113.5:5060"
INT = "192.168.1.5:5060"
PHONE = "172.31.23.177:5060"
OTHER = "198.51.100.77:40000"
REG1, REG2, PROXY1 = "192.168.1.11:5060", "192.168.1.12:5060", "192.168.1.21:5060"
KEY = b"0123456789abcdef0123456789abcdef"


def endpoint(text: str) -> Endpoint:
    return Endpoint.parse(text)


def setup(**changes: Any) -> Setup:
    """The gateway of the documentation; keyword arguments replace fields."""
    base = Setup(
        name="lb",
        keys=(KEY,),
        listeners=(Listener("main", endpoint(EXT), endpoint(INT)),),
        pools=(
            Pool("registrars", (Backend("reg1", endpoint(REG1)), Backend("reg2", endpoint(REG2)))),
            Pool("proxies", (Backend("proxy1", endpoint(PROXY1)),)),
        ),
        routes=(RouteRule("registrars", methods=frozenset(("REGISTER",))), RouteRule("proxies")),
    )
    return replace(base, **changes)


def one_armed(**changes: Any) -> Setup:
    """E = I = 203.0.113.5:5060, backends on the same network."""
    changes.setdefault("listeners", (Listener("main", endpoint(EXT), endpoint(EXT)),))
    return setup(**changes)


def standing(states: Mapping[Place, State]) -> Standings:
    """Backends in these states, with their whole share."""
    return {place: Standing(state) for place, state in states.items()}


def wire(text: str) -> bytes:
    """A message as it stands on the wire, from indented text: a blank line ends the headers."""
    lines = [line.strip() for line in text.strip().split("\n")]
    head, _, body = "\r\n".join(lines).partition("\r\n\r\n")
    return (head + "\r\n\r\n" + body).encode()


@dataclass
class Result:
    verdict: Verdict
    trace: list[tuple[str, str]]

    @property
    def reason(self) -> Reason:
        return self.verdict.reason

    @property
    def payload(self) -> bytes:
        return datagram.parse(self.verdict.packet).payload

    @property
    def text(self) -> str:
        return self.payload.decode("latin-1")

    @property
    def lines(self) -> list[str]:
        return self.text.split("\r\n")

    @property
    def src(self) -> str:
        return str(self.verdict.src)

    @property
    def dst(self) -> str:
        return str(self.verdict.dst)

    @property
    def rules(self) -> list[str]:
        return [rule for rule, _ in self.trace]

    def headers(self, name: str) -> list[str]:
        """The values of the rows of that name (as spelled), in order."""
        rows = self.text.partition("\r\n\r\n")[0].split("\r\n")[1:]
        return [row.partition(":")[2].strip() for row in rows if row.partition(":")[0].strip().lower() == name.lower()]

    def header(self, name: str) -> str:
        found = self.headers(name)
        assert len(found) == 1, f"{name}: {found}"
        return found[0]


class Gateway:
    """An engine with the two things a test wants to say: who sends what to which of our sockets."""

    def __init__(self, with_setup: Setup | None = None, **options: Any) -> None:
        self.setup = with_setup or setup()
        self.engine = Engine(self.setup, **options)
        self.twin = Engine(self.setup)

    def send(self, src: str, dst: str, message: str | bytes) -> Result:
        payload = wire(message) if isinstance(message, str) else message
        trace: list[tuple[str, str]] = []
        packet = datagram.build(endpoint(src), endpoint(dst), payload, tos=0xB8)
        verdict = self.engine.process(packet, lambda rule, text: trace.append((rule, text)))
        assert verdict == self.engine_twin(packet, verdict), "P39: another worker decides otherwise"
        if verdict.action in (Action.FORWARD, Action.REPLY):
            check_packet(verdict.packet)
        return Result(verdict, trace)

    def send_only(self, src: str, dst: str, message: str | bytes) -> Result:
        """As `send`, for an engine with options that its twin does not have."""
        payload = wire(message) if isinstance(message, str) else message
        verdict = self.engine.process(datagram.build(endpoint(src), endpoint(dst), payload))
        return Result(verdict, [])

    def engine_twin(self, packet: bytes, verdict: Verdict) -> Verdict:
        """What another worker with the same setup says, with our IP identification."""
        again = self.twin.process(packet)
        if again.packet and again.packet[0] >> 4 == 4 and verdict.packet:
            patched = bytearray(again.packet)
            patched[4:6] = verdict.packet[4:6]
            patched[10:12] = verdict.packet[10:12]
            again = again._replace(packet=bytes(patched))
        return again

    def from_phone(self, message: str | bytes, src: str = PHONE) -> Result:
        return self.send(src, EXT, message)

    def from_backend(self, message: str | bytes, src: str = REG1) -> Result:
        return self.send(src, INT, message)


def check_packet(packet: bytes) -> None:
    """dpkt, as an independent reader, finds lengths and checksums right (P37)."""
    ip = dpkt.ip.IP(packet) if packet[0] >> 4 == 4 else dpkt.ip6.IP6(packet)
    udp = ip.data
    assert isinstance(udp, dpkt.udp.UDP)
    assert udp.sum != 0
    stated, stated_ip = udp.sum, getattr(ip, "sum", None)
    udp.sum = 0
    if stated_ip is not None:
        ip.sum = 0
    again = type(ip)(bytes(ip))
    assert (again.data.sum or 0xFFFF) == stated  # dpkt leaves a 0 in IPv6, which would mean "none"
    assert getattr(again, "sum", None) == stated_ip
    assert udp.ulen == len(udp.data) + 8


REGISTER = """
    REGISTER sip:example.org SIP/2.0
    Via: SIP/2.0/UDP 10.1.1.9:5060;rport;branch=z9hG4bK-524287-1
    Max-Forwards: 70
    From: <sip:alice@example.org>;tag=f1
    To: <sip:alice@example.org>
    Call-ID: reg-1@10.1.1.9
    CSeq: 1 REGISTER
    Contact: <sip:alice@10.1.1.9:5060>
    Supported: path
    Expires: 300
    Content-Length: 0

"""


def request(method: str = "INVITE", uri: str = "sip:bob@example.org", *rows: str, **fields: str | None) -> str:
    """A plain request from PHONE, not behind NAT; `rows` go after Via, `fields` replace rows by name (Call_ID=…)."""
    values = {
        "Via": "SIP/2.0/UDP 172.31.23.177:5060;branch=z9hG4bK-1",
        "Max-Forwards": "70",
        "From": "<sip:alice@example.org>;tag=f1",
        "To": "<sip:bob@example.org>",
        "Call-ID": "call-1@172.31.23.177",
        "CSeq": f"1 {method}",
        "Contact": "<sip:alice@172.31.23.177:5060>",
        "Content-Length": "0",
    } | {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{method} {uri} SIP/2.0", f"Via: {values.pop('Via')}", *rows]
    lines += [f"{name}: {value}" for name, value in values.items() if value is not None]
    return "\n".join(lines) + "\n\n"


def response_to(result: Result, status: str = "200 OK", **fields: str) -> str:
    """The answer a backend or phone gives to the request that we forwarded: its Vias and identifying rows echoed."""
    lines = [f"SIP/2.0 {status}"]
    lines += [f"Via: {value}" for value in result.headers("Via")]
    for name in ("From", "To", "Call-ID", "CSeq"):
        value = fields.get(name.replace("-", "_"), result.header(name))
        if name == "To" and "tag=" not in value:
            value += ";tag=t1"
        lines.append(f"{name}: {value}")
    return "\n".join([*lines, "Content-Length: 0"]) + "\n\n"
