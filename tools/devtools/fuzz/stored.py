"""What a checkout holds of messages: captures of real peers, and torture. What is installed has none."""

import re
import tomllib
from functools import cache
from pathlib import Path

from nfqlb.capture.packets import PacketReader
from nfqlb.capture.source import Source
from nfqlb.net import datagram

CHECKOUT = Path(__file__).parents[3]
PCAPS = CHECKOUT / "pcaps"
TORTURE = CHECKOUT / "tests" / "torture"


@cache
def messages() -> tuple[bytes, ...]:
    """The different payloads of all of them."""
    return tuple(dict.fromkeys([*captured(), *torture()]))


def captured() -> list[bytes]:
    found = []
    for path in sorted(PCAPS.glob("*/*.pcap")):
        with Source(path) as source:
            for packet in PacketReader(source):
                try:
                    found.append(datagram.parse(packet.data, verify=False).payload)
                except datagram.DatagramError:
                    continue
    return found


def torture() -> list[bytes]:
    """The texts of those files: `⟨00⟩` is a byte, `⟨x×70⟩` repeats; values that are signed there are left out."""
    found = []
    for path in sorted(TORTURE.glob("*.toml")):
        for table in tomllib.loads(path.read_text()).get("message", ()):
            data = table["text"].replace("\n", "\r\n").encode()
            data = re.sub("⟨([0-9a-f]{2})⟩".encode(), lambda each: bytes.fromhex(each[1].decode()), data)
            data = re.sub("⟨([^⟨⟩]*)×([0-9]+)⟩".encode(), lambda each: each[1] * int(each[2]), data, flags=re.DOTALL)
            found.append(re.sub("⟨[^⟨⟩]*⟩".encode(), b"", data))
    return found
