"""Phones made of SIPp: each dialogue is one SIPp process per side.

Knows SIPp's command line, when it listens and how it says that it failed. Does not know which namespaces there are.
"""

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from nfqlb.lab import LabError, namespaces, scenario
from nfqlb.lab.kamailio import DOMAIN
from nfqlb.lab.scenario import Manner

TIMEOUT = 20
"""Seconds that one dialogue may take before SIPp gives up."""

PATIENCE = 10.0
"""Seconds that a side waits for a message before it gives the call up, unless it is told another time."""


@dataclass
class Phone:
    """A user at an address in a namespace, who keeps to one port so that a NAT mapping lives on."""

    user: str
    namespace: str
    host: str
    """As in a URI: IPv6 in brackets."""
    proxy: str
    """Where everything is sent: `host:port` of the gateway's E."""
    run_dir: Path
    port: int = 5060
    contact: str = ""
    """host:port of the Contact; what the phone knows of itself, unless it is told another."""
    _count: int = field(default=0, repr=False)

    def start(
        self,
        ladder: str,
        *,
        caller: bool,
        peer: str = "",
        domain: str = DOMAIN,
        more_lines: int = 0,
        calls: int = 1,
        name: str = "",
        timeout: int = TIMEOUT,
        extra: tuple[str, ...] = (),
        manner: Manner = Manner(),  # noqa: B008  (frozen)
    ) -> "Dialogue":
        """Start one side of the ladder; a callee is listening when this returns.

        `more_lines` makes offers longer, `name` is that of the files (else one is made up), `extra` are more options
        for SIPp.
        """
        self._count += 1
        stem = self.run_dir / (name or f"{self.user}-{self._count}-{ladder}-{'caller' if caller else 'callee'}")
        xml, errors = stem.with_suffix(".xml"), stem.with_suffix(".err")
        xml.write_text(scenario.render(ladder, caller=caller, more_lines=more_lines, manner=manner))
        argv = ["sipp", "-sf", str(xml), "-i", self.host.strip("[]"), "-p", str(self.port)]
        argv += ["-key", "me", self.user, "-key", "peer", peer, "-key", "domain", domain]
        argv += ["-key", "contact", self.contact or f"{self.host}:{self.port}"]
        argv += ["-m", str(calls), "-timeout", str(timeout), "-timeout_error"]
        argv += ["-recv_timeout", str(round(PATIENCE * 1000))]
        argv += ["-nostdin", "-skip_rlimit", "-default_behaviors", "none"]
        argv += ["-trace_err", "-error_file", str(errors), *extra]
        if caller:
            argv.append(self.proxy)
        process = namespaces.spawn(self.namespace, argv, stem.with_suffix(".out"), cwd=self.run_dir)
        dialogue = Dialogue(f"{self.user}, {ladder}, {'caller' if caller else 'callee'}", process, errors)
        if not caller:
            dialogue.wait_listening(self.port)
        return dialogue

    def register(self, ladder: str = "register") -> None:
        """Register (or unregister) at the registrars, through the gateway."""
        self.start(ladder, caller=True).finish()


@dataclass
class Dialogue:
    """One running SIPp."""

    what: str
    process: subprocess.Popen[bytes]
    errors: Path

    def wait_listening(self, port: int, timeout: float = 5.0) -> None:
        """Until the process's namespace has a UDP socket on `port`."""
        deadline = time.monotonic() + timeout
        wanted = f":{port:04X}"
        while time.monotonic() < deadline and self.process.poll() is None:
            for table in ("udp", "udp6"):
                try:
                    rows = Path(f"/proc/{self.process.pid}/net/{table}").read_text().splitlines()[1:]
                except OSError:  # it has just ended
                    continue
                if any(row.split()[1].endswith(wanted) for row in rows):
                    return
            time.sleep(0.01)
        raise LabError(f"SIPp ({self.what}) does not listen on port {port}. {self._why()}")

    def finish(self, timeout: float = TIMEOUT + 5.0) -> None:
        """Wait for the end; LabError with SIPp's own words when it failed."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise LabError(f"SIPp ({self.what}) did not end in {timeout:.0f} s. {self._why()}") from None
        if status != 0:
            raise LabError(f"SIPp ({self.what}) failed with status {status}. {self._why()}")

    def _why(self) -> str:
        text = self.errors.read_text(errors="replace") if self.errors.exists() else ""
        text = text or self.errors.with_suffix(".out").read_text(errors="replace")[-600:]
        return " ".join(text.split())[:1200]


def dialogue(ladder: str, caller: Phone, callee: Phone, *, domain: str = DOMAIN, more_lines: int = 0) -> None:
    """Play a ladder between two phones to its end; LabError when either side is not content."""
    listening = callee.start(ladder, caller=False, peer=caller.user)
    try:
        calling = caller.start(ladder, caller=True, peer=callee.user, domain=domain, more_lines=more_lines)
        calling.finish()
        listening.finish()
    finally:
        if listening.process.poll() is None:
            listening.process.kill()
            listening.process.wait()
