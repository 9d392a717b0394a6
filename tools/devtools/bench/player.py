"""Plays the scripts of `traffic` against an engine, and keeps the packets that arrived: the input of measurements.

Two ends that obey SIP as far as the gateway can tell: Vias echoed, route sets as RFC 3261 12.1 makes them. Knows the
engine; does not know sockets or clocks.
"""

from dataclasses import dataclass, field
from itertools import count

from devtools.bench import traffic
from devtools.bench.traffic import DIGITS, OUTSIDE, Script, Step
from nfqlb.balance import recent
from nfqlb.balance.recent import Recent
from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Backend, Listener, Pool, RouteRule, Setup
from nfqlb.proxy.verdict import Action

EXTERNAL = {4: Endpoint.parse("203.0.113.5:5060"), 6: Endpoint.parse("[2001:db8::5]:5060")}
INTERNAL = {4: Endpoint.parse("192.168.1.5:5060"), 6: Endpoint.parse("[2001:db8:1::5]:5060")}
KEY = b"nfqlb-bench-key-for-tests-only--"


class PlayError(Exception):
    """The engine did not forward a message of a script."""


def setup(backends: int = 4, version: int = 4) -> Setup:
    """A gateway with that many backends, half of them registrars, of one IP version."""
    text = "192.168.{}.{}:5060" if version == 4 else "[2001:db8:{}::{:x}]:5060"
    addresses = [
        Endpoint.parse(text.format(1 + (number + 10) // 250, (number + 10) % 250 + 1)) for number in range(backends)
    ]
    half = max(1, backends // 2)
    registrars = tuple(Backend(f"reg{number}", address) for number, address in enumerate(addresses[:half]))
    proxies = tuple(Backend(f"proxy{number}", address) for number, address in enumerate(addresses[half:]))
    return Setup(
        name="lb",
        keys=(KEY,),
        listeners=(Listener("main", EXTERNAL[version], INTERNAL[version]),),
        pools=(Pool("registrars", registrars), Pool("proxies", proxies or registrars)),
        routes=(RouteRule("registrars", methods=frozenset(("REGISTER",))), RouteRule("proxies")),
    )


def engine(with_setup: Setup) -> Engine:
    """As a worker has it: with a memory of recent choices."""
    cells = memoryview(bytearray(recent.SIZE)).cast("Q")
    Recent.format(cells)
    memory = Recent(cells)
    memory.now = 1000
    return Engine(with_setup).sibling(0, memory)


@dataclass
class Phone:
    """One flow from outside. Odd ones sit behind a NAT."""

    number: int
    version: int = 4
    """Of IP."""
    path: str = ""
    dialog: dict[str, str] = field(default_factory=dict)
    """Values of the tokens of a dialog that is open."""

    @property
    def flow(self) -> Endpoint:
        high, low = divmod(self.number, 250)
        if self.version == 6:
            return Endpoint.parse(f"[2001:2:0:{high % 250:x}::{low + 1:x}]:{40_000 + high // 250}")
        return Endpoint.parse(f"198.18.{high % 250}.{low + 1}:{40_000 + high // 250}")

    @property
    def local(self) -> str:
        private = f"10.9.{self.number % 200}.9:5060" if self.version == 4 else f"[fd00:9::{self.number % 200:x}]:5060"
        return private if self.number % 2 else str(self.flow)


class Player:
    """Collects in `packets` what arrives at the gateway, by the kind of its step."""

    def __init__(self, with_setup: Setup) -> None:
        self._engine = engine(with_setup)
        self._backends = with_setup.backends
        self._numbers = count(1)
        self.packets: dict[str, list[bytes]] = {}

    def skip(self, numbers: int) -> None:
        """Leave numbers out, so that another player's messages are other ones."""
        self._numbers = count(numbers)

    def register(self, phone: Phone) -> None:
        """Send a REGISTER; remember its Path."""
        (step,) = traffic.scripts()["register"].steps
        values = self._values(phone)
        message = self._send(step, values, phone).payload.decode("latin-1")
        (phone.path,) = [f"Route:{row[5:]}\r\n" for row in message.split("\r\n") if row.startswith("Path:")]

    def play(self, script: Script, phone: Phone) -> None:
        """One run of the script with this phone, which must be registered if it is called."""
        if script.dialog:
            if not phone.dialog:
                phone.dialog = self._values(phone)
                self._run(script.dialog, phone.dialog, phone)
            values = phone.dialog | {"N": self._number(), "V": ""}
        else:
            values = self._values(phone)
        self._run(script.steps, values, phone)

    def send(self, kind: str, text: str, phone: Phone) -> None:
        """A message on its own, whatever becomes of it."""
        packet = datagram.build(phone.flow, EXTERNAL[phone.version], traffic.fill(text, self._values(phone)))
        self.packets.setdefault(kind, []).append(packet)

    def _number(self) -> str:
        return f"{next(self._numbers):0{DIGITS}}"

    def _values(self, phone: Phone) -> dict[str, str]:
        number = self._number()
        return {
            "N": number, "D": number, "L": phone.local, "B": "", "P": phone.path, "V": "", "R": "", "U": "", "C": "",
        }  # fmt: skip

    def _run(self, steps: tuple[Step, ...], values: dict[str, str], phone: Phone) -> None:
        if not values["B"]:
            values["B"] = str(self._backend(values))
        for step in steps:
            arrived = self._send(step, values, phone)
            rows = arrived.payload.decode("latin-1").partition("\r\n\r\n")[0].split("\r\n")
            if not rows[0].startswith("SIP/"):
                values["V"] = "".join(f"{row}\r\n" for row in rows if row.startswith("Via:"))
                if step.sender == OUTSIDE:
                    values["B"] = str(arrived.dst)
            routes = [f"{row[7:]}\r\n" for row in rows if row.startswith("Record-Route:")]
            if rows[0].startswith("INVITE "):
                values["R"] = "".join(f"Record-{route}" for route in routes)
                values["U"] = "".join(routes)
            elif rows[0].startswith("SIP/2.0 200") and routes:
                values["C"] = "".join(reversed(routes))

    def _backend(self, values: dict[str, str]) -> Endpoint:
        """Any backend that calls a phone; one that is called is known when the call has come."""
        return self._backends[int(values["N"]) % len(self._backends)].address

    def _send(self, step: Step, values: dict[str, str], phone: Phone) -> datagram.Datagram:
        message = traffic.fill(step.text, values)
        src, dst = phone.flow, EXTERNAL[phone.version]
        if step.sender != OUTSIDE:
            src, dst = Endpoint.parse(values["B"]), INTERNAL[phone.version]
        packet = datagram.build(src, dst, message)
        verdict = self._engine.process(packet)
        if verdict.action is not Action.FORWARD:
            raise PlayError(f"{step.kind}: {verdict.reason.slug}\n{message.decode('latin-1')}")
        self.packets.setdefault(step.kind, []).append(packet)
        return datagram.parse(verdict.packet)
