"""Records pcaps/: what real peers send to the gateway, as it arrives, and what becomes of it.

For each kind of gateway there is a directory with its configuration. For each case NAME in it: NAME.pcap (packets as
they arrived, both sides), NAME.expected.jsonl (`nfqlb replay --json`), NAME.out.pcap (`nfqlb replay -o`). While
recording, what the live gateway sent is compared with what replay says of the same arrivals: they must agree (P39).

Afterwards read the difference (`git diff`, `nfqlb replay --diff`) before you commit it: what is stored here is what the
tests hold to be right.
"""

import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfqlb.capture.packets import PacketReader
from nfqlb.capture.source import Source
from nfqlb.lab import LabError, namespaces, sipp
from nfqlb.lab.demo import call
from nfqlb.lab.kamailio import PLAIN_DOMAIN
from nfqlb.lab.lab import SECRET, Lab, gateway_config
from nfqlb.lab.ladder import messages
from nfqlb.lab.ping import wait_answer
from nfqlb.lab.sipp import Phone
from nfqlb.lab.topology import Node, Plan
from nfqlb.lab.wire import Seen, Tap, save
from nfqlb.net.datagram import parse

ROOT = Path(__file__).resolve().parent.parent
PCAPS = ROOT / "pcaps"

PLANS = {
    "two-armed": Plan("capture"),
    "one-armed": Plan("capture", one_armed=True),
    "two-armed-ipv6": Plan("capture", family=6),
    "one-armed-ipv6": Plan("capture", family=6, one_armed=True),
}


README = """\
# Stored captures

Recorded in the lab (`sudo tools/capture`) from real peers: Kamailio behind the gateway, SIPp and baresip as phones.
NAME.pcap holds the packets as they **arrive** at the gateway, from both sides. Beside it stands what becomes of them:
NAME.expected.jsonl is `nfqlb replay --json`, NAME.out.pcap what leaves. A test replays each and compares. Look at one:

    nfqlb replay -c pcaps/two-armed/nfqlb.toml pcaps/two-armed/exchange.pcap --diff

`secret` is a **key for tests only**, known to all the world: the signatures in the captures are made with it.

After a change of the rules, `tools/capture --expect` writes the expectations anew (without root), and `git diff` shows
what to review. When signatures or branches change, record anew.
"""


@dataclass
class Stage:
    """A lab and who is in it: alice and dave behind the NAT, bob outside with a public address."""

    lab: Lab
    tap: Tap
    alice: Phone
    bob: Phone
    dave: Phone
    """Knows its public address, as a phone with STUN does, and writes it into Contact."""


def play(ladder: str, *, out: bool = False, domain: str = "", lines: int = 0) -> Callable[[Stage], None]:
    """bob and alice play a ladder; alice begins when `out`."""
    options: dict[str, Any] = {"domain": domain} if domain else {}

    def work(stage: Stage) -> None:
        pair = (stage.alice, stage.bob) if out else (stage.bob, stage.alice)
        sipp.dialogue(ladder, *pair, more_lines=lines, **options)

    return work


def exchange(stage: Stage) -> None:
    stage.dave.register()
    sipp.dialogue("call", stage.bob, stage.dave)


def keepalives(stage: Stage) -> None:
    stun = bytes.fromhex("000100002112a442") + b"nfqlb-test12"
    send(stage, stage.lab.plan.home[0], [b"\r\n\r\n", b"\r\n", b"\0", b"\0\0\0\0", b"  \r\n", stun])


def ping(stage: Stage) -> None:
    plan = stage.lab.plan
    for node in (plan.phones[0], plan.home[0]):
        wait_answer(plan.namespace(node.role), (plan.external.ip, 5060), node.ip, "The gateway")


def refusals(stage: Stage) -> None:
    """No hop left; a Route to somewhere that is no backend; a response nobody asked for; broken lines."""
    plan = stage.lab.plan
    here = plan.phones[0].host

    def request(number: int, *, hops: int = 70, route: str = "", extra: str = "") -> bytes:
        return (
            f"INVITE sip:alice@example.org SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {here}:5070;rport;branch=z9hG4bKrefusal{number}\r\n"
            f"Max-Forwards: {hops}\r\n{route}From: <sip:mallory@example.org>;tag={number}\r\n"
            f"To: <sip:alice@example.org>\r\nCall-ID: refusal-{number}\r\nCSeq: 1 INVITE\r\n{extra}"
            f"Contact: <sip:mallory@{here}:5070>\r\nContent-Length: 0\r\n\r\n"
        ).encode()

    answer = request(5).replace(b"INVITE sip:alice@example.org SIP/2.0", b"SIP/2.0 200 OK", 1)
    stranger = f"Route: <sip:{plan.nat.host};lr>\r\n"
    sent = [
        request(1, hops=0),
        request(2, route=stranger),
        request(3, extra="Proxy-Require: no-such-thing\r\n"),
        request(4, extra="Call-ID: another\r\n"),
        answer,
    ]
    send(stage, plan.phones[0], sent, port=5070)


def unregister(stage: Stage) -> None:
    stage.alice.register("unregister")
    stage.bob.register("unregister")


def softphones(stage: Stage) -> None:
    """Two baresips: register, one call, unregister."""
    plan = stage.lab.plan
    with stage.lab.softphone("alice", plan.home[0]) as alice, stage.lab.softphone("bob", plan.phones[0]) as bob:
        alice.registered()
        bob.registered()
        call(bob, alice, alice)


@dataclass(frozen=True)
class Case:
    name: str
    about: str
    play: Callable[[Stage], None]


SHORT = (
    Case("register", "a phone behind NAT registers: Path", lambda stage: stage.alice.register()),
    Case("call", "bob calls the phone behind NAT and hangs up", play("call")),
    Case("call-out", "the phone behind NAT calls; bob hangs up", play("call-ended-by-callee", out=True)),
    Case("cancel", "bob gives up while it rings", play("cancel")),
    Case("message", "MESSAGE from a phone behind NAT that does not ask for rport", play("message", out=True)),
    Case(
        "hairpin",
        "a call that no backend record-routes: ACK and BYE by two own pairs",
        play("call", domain=PLAIN_DOMAIN),
    ),
    Case("fragments", "an INVITE of 4 kB: fragments from both sides", play("call", lines=50)),
)
LONG = (
    *SHORT,
    Case("exchange", "REGISTER from 172.31.23.177:5060, then an INVITE along that Path", exchange),
    Case("busy", "486 and its ACK", play("busy")),
    Case("reinvite", "re-INVITE from both sides, INFO, BYE by the callee", play("reinvite")),
    Case("subscribe", "SUBSCRIBE and NOTIFY, then the end of the subscription", play("subscribe")),
    Case("options", "OPTIONS to a user, relayed", play("options")),
    Case("ping", "OPTIONS to the gateway itself, answered by it", ping),
    Case("keepalives", "CRLF, NUL and blanks, and a STUN binding request: dropped", keepalives),
    Case(
        "refusals", "no hop left, a Route elsewhere, Proxy-Require, two Call-IDs; a response nobody asked for", refusals
    ),
    Case("unregister", "REGISTER with Expires 0", unregister),
    Case("baresip", "real phones: register, call, unregister", softphones),
)
CASES = {"two-armed": LONG, "one-armed": SHORT, "two-armed-ipv6": SHORT, "one-armed-ipv6": SHORT}


def send(stage: Stage, node: Node, payloads: list[bytes], port: int = 5060) -> None:
    plan = stage.lab.plan

    def work() -> None:
        family = socket.AF_INET if plan.family == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((node.ip, port))
            for payload in payloads:
                sock.sendto(payload, (plan.external.ip, 5060))

    namespaces.inside(plan.namespace(node.role), work)


def record(directory: Path, plan: Plan, cases: tuple[Case, ...]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    config = gateway_config(plan, 'secret_file = "../secret"  # for tests only', workers=1)
    about = "# The gateway of the captures beside this file; written by tools/capture.\n"
    (directory / "nfqlb.toml").write_text(about + config)
    with Lab(plan, probes=False) as lab, lab.tap() as tap:
        home, public = plan.home, plan.phones[0]
        stage = Stage(
            lab,
            tap,
            alice=lab.phone("alice", home[0]),
            bob=lab.phone("bob", public),
            dave=lab.phone("dave", home[0], contact=f"{plan.nat.host}:5060"),
        )
        for phone in (stage.alice, stage.bob):
            phone.register()
        for case in cases:
            tap.settled()
            tap.clear()
            case.play(stage)
            frames = [frame for frame in tap.settled() if is_udp(frame)]
            save(directory / f"{case.name}.pcap", (frame for frame in frames if not frame.outgoing))
            expect(directory, case.name)
            compare(directory, case.name, frames)
            print(f"{directory.name}/{case.name}: {len(frames)} frames")


def is_udp(frame: Seen) -> bool:
    version = frame.packet[0] >> 4
    return frame.packet[9] == 17 if version == 4 else frame.packet[6] in (17, 44)


def expect(directory: Path, name: str) -> None:
    """Write what replay says of a capture beside it."""
    argv = [sys.executable, "-m", "nfqlb", "replay", str(directory / f"{name}.pcap"), "--json"]
    argv += ["-c", str(directory / "nfqlb.toml"), "-o", str(directory / f"{name}.out.pcap")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise LabError(f"'nfqlb replay {name}.pcap' failed: {done.stderr}")
    (directory / f"{name}.expected.jsonl").write_text(done.stdout)


def compare(directory: Path, name: str, frames: list[Seen]) -> None:
    """LabError when the live gateway sent other messages than replay says."""
    live = Counter((m.source, m.target, m.payload) for m in messages(frames) if m.outgoing)
    with Source(directory / f"{name}.out.pcap") as source:
        replayed = Counter(parse(packet.data)[:3] for packet in PacketReader(source))
    if live != replayed:
        difference = next(iter((live - replayed) | (replayed - live)))
        raise LabError(f"{directory.name}/{name}: the live gateway and replay differ, first in {difference}.")


def write_readme() -> None:
    rows = [f"| {directory}/{case.name} | {case.about} |" for directory, cases in CASES.items() for case in cases]
    (PCAPS / "README.md").write_text(README + "\n| capture | what |\n|---|---|\n" + "\n".join(rows) + "\n")


def main(argv: list[str]) -> int:
    if argv not in ([], ["--expect"]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        if argv:
            for pcap in sorted(PCAPS.glob("*/*.expected.jsonl")):
                expect(pcap.parent, pcap.name.removesuffix(".expected.jsonl"))
            return 0
        PCAPS.mkdir(exist_ok=True)
        about = "# FOR TESTS ONLY. Everybody knows this key: it signed the stored captures.\n"
        (PCAPS / "secret").write_text(f"{about}{SECRET}\n")
        for name, plan in PLANS.items():
            record(PCAPS / name, plan, CASES[name])
        write_readme()
    except LabError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
