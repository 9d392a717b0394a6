"""Are the two nodes of a pair fit for one another? Compares what each says of itself (`HaManager.report`,
`told_by_file`).

Knows these reports, and how the peer's is had over the network. Does not know keepalived or the running gateway.
"""

import json
import socket
from pathlib import Path
from typing import Any

from nfqlb.config.model import Config
from nfqlb.config.pair import Pair
from nfqlb.errors import NfqlbError

Report = dict[str, Any]

TIMEOUT = 3.0
"""Seconds in which the peer has to answer."""

REPORT_MAX = 1 << 20
"""Bytes."""

DIFFERENT = {
    "keys": "the key files differ: what one node signs the other refuses",
    "listeners": "[gateway] name or the listeners differ",
    "pools": "the pools differ: calls would go to other backends after a move",
    "routes": "the route rules differ",
    "path and egress": "[path] or [egress] differ",
    "limits": "[limits] differs: one node bans whom the other serves",
    "health": "[health] differs",
    "pair": "[ha] differs in groups, router_id or interval",
    "code": "the code differs; harmless for as long as an upgrade takes, one node after the other",
    "tables": "the tables differ, as the nodes think differently of their backends: compare 'nfqlb backends' on both",
}
"""Name of a digest → what it means when it is not the same. `HaPlan.digests`, and the tables."""


class PeerError(NfqlbError):
    """The peer's report is not to be had; the text says why and what to do."""


def told_by_file(config: Config) -> Report:
    """What can be said of this node when no gateway runs. Raises ConfigError (the secret)."""
    from nfqlb.gateway.ha.digest import digests
    from nfqlb.gateway.ha.keepalived import floating
    from nfqlb.gateway.host.network import is_here, is_running
    from nfqlb.gateway.host.procfs import IPPROTO_VRRP, raw_sockets

    pair = config.ha
    assert pair is not None
    groups = []
    for group in pair.groups:
        addresses = [socket.host for socket, _ in floating(config, pair, group)]
        here = sum(map(is_here, addresses))
        role = "active" if here == len(addresses) else "partly" if here else "standby"
        groups.append({"name": group.name, "role": role, "addresses": addresses, "priority": group.priority})
    return {
        "address": str(pair.address),
        "peer": str(pair.peer),
        "groups": groups,
        "unwell": ["no gateway runs"],
        "yielding": False,
        "keepalived": bool(raw_sockets(IPPROTO_VRRP)),
        "interfaces_down": [name for name in pair.interfaces if not is_running(name)],
        "digests": digests(config, config.setup()),
    }


def ask_peer(pair: Pair) -> Report:
    """What the peer's gateway says of itself. Raises PeerError."""
    where = f"{pair.peer} port {pair.check_port}"
    try:
        # The peer answers nobody but this address.
        with socket.create_connection(
            (str(pair.peer), pair.check_port), timeout=TIMEOUT, source_address=(str(pair.address), 0)
        ) as connection:
            connection.settimeout(TIMEOUT)
            content = bytearray()
            while len(content) < REPORT_MAX and (piece := connection.recv(1 << 16)):
                content += piece
    except OSError as error:
        raise PeerError(
            f"The peer at {where} does not answer ({error.strerror or error}). Is its gateway running, with the same "
            "check_port, and does a firewall let this through? Or compare with a file: nfqlb ha check --peer FILE"
        ) from None
    if not content:
        raise PeerError(f"The peer at {where} says nothing: its [ha] peer is not {pair.address}.")
    return _report(bytes(content), where)


def read_report(path: Path) -> Report:
    """What `nfqlb ha digest` printed on the peer. Raises PeerError."""
    try:
        return _report(path.read_bytes(), str(path))
    except OSError as error:
        raise PeerError(f"{path} cannot be read ({error.strerror}). Make it on the peer: nfqlb ha digest") from None


def _report(content: bytes, whence: str) -> Report:
    try:
        report = json.loads(content)
        assert isinstance(report["digests"], dict)
        for group in report["groups"]:
            assert isinstance(group["name"], str)
            assert isinstance(group["role"], str)
        assert all(isinstance(report[key], str) for key in ("address", "peer"))
        assert isinstance(report["unwell"], list)
        assert isinstance(report.get("interfaces_down", []), list)  # one of an earlier version does not say
    except (ValueError, KeyError, TypeError, AssertionError):
        raise PeerError(f"What {whence} says is no report of a node; expected that of: nfqlb ha digest") from None
    return dict(report)


def problems(own: Report, peer: Report) -> list[str]:
    """Everything that keeps the two from standing in for each other."""
    found = []
    if own["peer"] != peer["address"]:
        found.append(f"[ha] peer here is {own['peer']}, but the other node's [ha] address is {peer['address']}")
    if peer["peer"] != own["address"]:
        found.append(f"[ha] peer there is {peer['peer']}, but this node's [ha] address is {own['address']}")
    for name, text in DIFFERENT.items():
        mine, theirs = own["digests"].get(name), peer["digests"].get(name)
        # One that only one of them knows comes of other code, and that is told.
        if mine != theirs and (name == "code" or (mine and theirs)):
            found.append(f"{text} ({mine} here, {theirs} there)")
    found += [f"this node is unwell: {each}" for each in own["unwell"]]
    found += [f"the peer is unwell: {each}" for each in peer["unwell"]]
    for who, report in (("this node", own), ("the peer", peer)):
        if report.get("keepalived") is False:
            text = "its addresses do not move, and it takes none. Start it there: systemctl restart keepalived"
            found.append(f"keepalived does not run on {who}: {text}")
        for name in report.get("interfaces_down", ()):
            found.append(f"{name} of {who} is down or has no cable: as long as that is so, it takes no addresses")
        if report.get("yielding"):
            text = "it takes the addresses only when the other one is unwell. To end that there: nfqlb ha resume"
            found.append(f"{who} yields: {text}")
    if own.get("lifeline") is False or peer.get("lifeline") is False:
        who = "this node" if own.get("lifeline") is False else "the peer"
        found.append(f"{who} has no lifeline: if all its processes are killed, nobody takes over; its log says why")
    theirs_by_name = {group["name"]: group["role"] for group in peer["groups"]}
    for group in own["groups"]:
        found += _placed(group["name"], group["role"], theirs_by_name.get(group["name"], ""))
    return found


def _placed(name: str, here: str, there: str) -> list[str]:
    if "partly" in (here, there):
        return [f"group {name}: one node has some of its addresses only; was keepalived.conf rendered again on both?"]
    if here == there == "active":
        return [f"group {name}: BOTH nodes have its addresses; can they reach each other, does keepalived run on both?"]
    if here == there == "standby":
        return [f"group {name}: no node has its addresses; does keepalived run?"]
    return []
