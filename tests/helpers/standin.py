"""A gateway as `nfqlb run` starts it, but with a stand-in for the engine whose mistakes the sender can order.

Run as a program inside a namespace: `standin.py RUN_DIR WORKERS [crash | slow | tardy | buffer=BYTES |
backend=ADDRESS:PORT]`. Prints `ready` when the workers take packets. One that is `tardy` takes its time to put rules
in place, says `placing` when it begins, and at the end says which rules it has.
The datagrams that it understands, by their first word: see `process`.
"""

import json
import logging
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from nfqlb.balance.recent import Recent
from nfqlb.engine import Engine
from nfqlb.gateway.plan.model import Plan
from nfqlb.gateway.runtime.pidfile import PidfileError
from nfqlb.gateway.supervisor.rollover import CannotRun
from nfqlb.gateway.supervisor.supervisor import Supervisor
from nfqlb.gateway.worker.nfqueue import QueueError
from nfqlb.gateway.worker.shedding import Bounds, LoadShedder
from nfqlb.gateway.worker.worker import Process
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Listener, Setup
from nfqlb.proxy.triage import Triage
from nfqlb.proxy.verdict import Reason, Verdict

EXTERNAL = {4: Endpoint.parse("198.51.100.1:5060"), 6: Endpoint.parse("[2001:db8:1::1]:5060")}
INTERNAL = {4: Endpoint.parse("10.9.0.1:5060"), 6: Endpoint.parse("[2001:db8:2::1]:5060")}
BACKEND = {4: Endpoint.parse("10.9.0.2:5060"), 6: Endpoint.parse("[2001:db8:2::2]:5060")}
QUEUE = 300
QUEUE_LENGTH = 4096
SOCKET_BUFFER = 8 << 20

# The rules that nfqlb applies are tested elsewhere; these are the least that feed the queues.
RULES = """*raw
:SIP - [0:0]
-A PREROUTING -i out -p udp --dport 5060 -j SIP
-A OUTPUT -p udp --sport 5060 -j CT --notrack
COMMIT
*mangle
-A PREROUTING -p udp --dport 5060 -m socket -j RETURN
COMMIT
"""
SPREAD = """*raw
:SIP - [0:0]
-A SIP -j CT --notrack
-A SIP -p udp -j HMARK --hmark-tuple src,sport --hmark-mod {workers} --hmark-offset 1 --hmark-rnd 7
{queues}
COMMIT
"""


def make_process(first_ident: int, _recent: Recent, _names: object, backend: str = "") -> Process:
    """`backend`: where to send all packets of its IP version, instead of BACKEND."""
    ident = first_ident
    backends = BACKEND if not backend else {**BACKEND, Endpoint.parse(backend).version: Endpoint.parse(backend)}

    def process(packet: bytes) -> Verdict:
        nonlocal ident
        try:
            found = datagram.parse(packet)
        except datagram.DatagramError as error:
            reason = Reason.BAD_CHECKSUM if error.fault is datagram.Fault.CHECKSUM else Reason.BAD_DATAGRAM
            return Verdict(reason, b"")
        order, _, rest = found.payload.partition(b" ")
        match order:
            case b"raise":
                raise LookupError("ordered by the test")
            case b"leave":  # what no handler of Exception sees
                raise SystemExit("ordered by the test")
            case b"empty":
                return Verdict(Reason.REQUEST_ENTERING, b"")
            case b"drop":
                return Verdict(Reason.NOT_SIP, b"")
            case b"sleep":
                time.sleep(float(rest))
            case b"die":
                os._exit(7)
            case b"elsewhere":
                unreachable = Endpoint.parse("[2001:db8:ffff::1]:5060")
                whole = datagram.build(INTERNAL[6], unreachable, bytes(2000), tos=0, ident=0)
                return Verdict(Reason.REQUEST_ENTERING, whole, 0, INTERNAL[6], unreachable)
        ident = ident + 1 & 0xFFFF
        version = found.dst.version
        src, dst = INTERNAL[version], backends[version]
        whole = datagram.build(src, dst, found.payload, tos=found.tos, ident=ident)
        return Verdict(Reason.REQUEST_ENTERING, whole, 0, src, dst)

    return process


def make_slow_process(first_ident: int, recent: Recent, names: object) -> Process:
    """One that takes so long that a sender overtakes it easily."""
    process = make_process(first_ident, recent, names)
    assert not isinstance(process, Engine)

    def slow(packet: bytes) -> Verdict:
        time.sleep(0.0005)
        return process(packet)

    return slow


def make_shield(_first_ident: int, _recent: Recent, workers: int) -> LoadShedder:
    """Sheds what a gateway at EXTERNAL would; nobody is told to come again."""
    listeners = tuple(Listener(f"v{version}", EXTERNAL[version], INTERNAL[version]) for version in (4, 6))
    triage = Triage(Setup("lb", (bytes(32),), listeners, pools=(), routes=()))
    bounds = Bounds(replies=10, replies_per_network=10, peers=(), shed_at=0.5, shed_age=60.0)
    return LoadShedder(bounds, workers, triage, lambda _: Verdict(Reason.SHED, b""))


def crash(_first_ident: int, _recent: Recent, _names: object) -> Process:
    raise OSError("ordered by the test")


def divert(queues: range) -> int:
    """Rules that spread SIP from outside over these queues."""
    rows = [f"-A SIP -m mark --mark {index + 1} -j NFQUEUE --queue-num {queue}" for index, queue in enumerate(queues)]
    spread = SPREAD.format(workers=len(queues), queues="\n".join(rows))
    for command in ("iptables", "ip6tables"):
        there = subprocess.run([f"{command}-save"], capture_output=True, text=True, check=True, timeout=30).stdout
        # Base chains that go and come again would cost all packets that wait in queues.
        for text in [*([] if ":SIP " in there else [RULES]), spread]:
            restore = [f"{command}-restore", "--noflush", "--wait", "10"]
            subprocess.run(restore, input=text, text=True, check=True, timeout=30)
    return 1


def divert_late(queues: range) -> int:
    """As the real one may, on a busy machine."""
    print("placing", flush=True)
    time.sleep(1.0)
    return divert(queues)


def make_plan(run_dir: str, workers: str, how: str = "") -> Plan:
    count = int(workers)
    processes = {"crash": crash, "slow": make_slow_process}
    elsewhere = how.removeprefix("backend=") if how.startswith("backend=") else ""
    return Plan(
        gateway="lb",
        backends=("reg1",),
        addresses=(str(BACKEND[4]),),
        ranges=tuple(range(QUEUE + start, QUEUE + start + count) for start in (0, count, 2 * count)),
        sources=(EXTERNAL[6], INTERNAL[6]),
        queue_length=QUEUE_LENGTH,
        socket_buffer=int(how.removeprefix("buffer=")) if how.startswith("buffer=") else SOCKET_BUFFER,
        run_dir=Path(run_dir),
        process=processes.get(how, partial(make_process, backend=elsewhere)),
        shedder=make_shield if how == "slow" else None,
        place=divert_late if how == "tardy" else divert,
        displace=lambda: 0,
    )


def main(run_dir: str, workers: str, how: str = "") -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    plan = make_plan(run_dir, workers, how)
    try:
        with Supervisor(plan, place=how == "tardy") as supervisor:
            supervisor.run(lambda: print("ready", flush=True))
            if how == "tardy":
                there = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True, timeout=30).stdout
                print("rules" if "NFQUEUE" in there else "no rules", flush=True)
    except (PidfileError, QueueError, CannotRun) as error:
        print(json.dumps({"error": type(error).__name__, "text": str(error)}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
