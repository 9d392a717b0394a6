"""Waiting until something answers SIP: an OPTIONS without user, asked again and again."""

import socket
import subprocess
import time

from nfqlb.lab import LabError, namespaces
from nfqlb.lab.words import ending

ASK_EVERY = 0.05
"""Seconds."""

MARK = b"Call-ID: ping-"
"""In every question, and in every answer: on a busy machine some come when nobody waits for them any more."""


def wait_answer(
    namespace: str,
    target: tuple[str, int],
    source: str,
    what: str,
    process: "subprocess.Popen[bytes] | None" = None,
    timeout: float = 10.0,
) -> None:
    """Ask `target` for OPTIONS from the address `source` inside the namespace until it answers 200.

    LabError after `timeout` seconds, or when the `process` that is to answer has failed.
    """

    def ended() -> str:
        status = process.poll() if process is not None else None
        return ending(status) if status else ""

    def ask() -> bool:
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((source, 0))
            sock.settimeout(ASK_EVERY)
            port = sock.getsockname()[1]
            host = f"[{source}]" if family == socket.AF_INET6 else source
            peer = f"[{target[0]}]" if family == socket.AF_INET6 else target[0]
            deadline = time.monotonic() + timeout
            number = 0
            while time.monotonic() < deadline and not ended():
                number += 1
                sock.sendto(options(peer, f"{host}:{port}", number), target)
                try:
                    if sock.recv(4096).startswith(b"SIP/2.0 200"):
                        return True
                except (TimeoutError, ConnectionRefusedError):
                    time.sleep(ASK_EVERY)  # a refusal comes at once
        return False

    try:
        answered = namespaces.inside(namespace, ask)
    except OSError as error:
        raise LabError(f"{what} cannot be asked at {target[0]} from {source}: {error.strerror}.") from None
    if not answered:
        raise LabError(f"{what} {ended() or f'did not answer within {timeout:.0f} s'}.")


def options(peer: str, here: str, number: int) -> bytes:
    return (
        f"OPTIONS sip:{peer} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {here};rport;branch=z9hG4bKping{number}\r\n"
        f"Max-Forwards: 70\r\n"
        f"From: <sip:ping@{here}>;tag={number}\r\n"
        f"To: <sip:{peer}>\r\n"
        f"Call-ID: ping-{number}@{here}\r\n"
        f"CSeq: {number} OPTIONS\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()
