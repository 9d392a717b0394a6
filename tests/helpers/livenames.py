"""A gateway whose backends have names in DNS, and what it says of them."""

import socket
from typing import Any

from livegateway import Gateway
from livehost import CONFIG
from livenet import Net

from nfqlb.gateway.runtime.control_socket import ask

NAMED = (
    CONFIG.replace('address = "10.9.0.2:5060"', 'address = "reg4.example.org"').replace(
        'address = "[2001:db8:2::2]:5060"', 'address = "reg6.example.org:5060"'
    )
    + """
[dns]
servers = ["10.9.0.2"]
timeout = 0.5
min_ttl = 1
"""
)


def farm(net: Net, address: str) -> socket.socket:
    opened = net.udp(net.farm, 6 if ":" in address else 4)
    opened.bind((address, 5060))
    opened.settimeout(3)
    return opened


def rows(gateway: Gateway) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in ask(gateway.net.run_dir, {"do": "backends"}, timeout=10)["backends"]}
