"""What is sent to a gateway to be banned for, and who is."""

from livegateway import Gateway
from livenet import Net

from nfqlb.gateway.netfilter import ipset
from nfqlb.lab import namespaces

JUNK = b"\1 nothing that SIP would be, nor what the kernel drops by itself"

ENOUGH = 150
"""Packets of junk that are too much."""


def banned(net: Net) -> dict[str, ipset.Entry]:
    return {entry.source: entry for entry in namespaces.inside(net.gateway, ipset.entries)}


def send(gateway: Gateway, content: bytes, times: int, family: int = 4) -> None:
    phone = gateway.net.phone_socket(family)
    for _ in range(times):
        phone.send(content)
    phone.close()
