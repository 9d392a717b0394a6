"""tshark as the independent reader: which packets of a capture it finds fault with."""

import subprocess
from pathlib import Path

FAULTS = (
    '_ws.malformed || _ws.expert.severity == "Error"'
    ' || ip.checksum.status == "Bad" || udp.checksum.status == "Bad" || udp.checksum == 0'
)


def faults(pcap: Path) -> list[str]:
    """A line for each frame that is malformed or has a wrong checksum."""
    return _tshark(pcap, FAULTS, "frame.number", "_ws.col.Info")


def verified(pcap: Path) -> int:
    """In how many frames tshark found a good UDP checksum: proof that it looked."""
    return len(_tshark(pcap, 'udp.checksum.status == "Good"', "frame.number"))


def _tshark(pcap: Path, display_filter: str, *fields: str) -> list[str]:
    checked = ["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    argv = ["tshark", "-n", "-r", str(pcap), *checked, "-Y", display_filter, "-T", "fields"]
    for field in fields:
        argv += ["-e", field]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()
