"""livenet's gateway with a configuration, on which `nfqlb` is called as an administrator calls it."""

import socket
import subprocess
import sys

import standin
from livenet import Net

from nfqlb.lab import namespaces

NFQLB = [sys.executable, "-m", "nfqlb"]

CONFIG = """
[gateway]
secret_file = "secret"
run_dir = "{run_dir}"
state_dir = "{run_dir}/state"

[workers]
count = {workers}
queue = {queue}

[health]
enabled = false

[[listener]]
name = "four"
external = "198.51.100.1:5060"
internal = "10.9.0.1:5060"

[[listener]]
name = "six"
external = "[2001:db8:1::1]:5060"
internal = "[2001:db8:2::1]:5060"

[[pool]]
name = "all4"
[[pool.backend]]
name = "reg4"
address = "10.9.0.2:5060"

[[pool]]
name = "all6"
[[pool.backend]]
name = "reg6"
address = "[2001:db8:2::2]:5060"

[[route]]
listeners = ["four"]
pool = "all4"

[[route]]
listeners = ["six"]
pool = "all6"
"""

REQUEST = """\
{method} sip:alice@example.org SIP/2.0
Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{branch};rport
Max-Forwards: 70
From: <sip:alice@example.org>;tag=1
To: <sip:alice@example.org>
Call-ID: {branch}@phone
CSeq: 1 {method}
Contact: <sip:alice@{host}:{port}>
Content-Length: {length}

"""


def request(opened: socket.socket, branch: str, method: str = "REGISTER", body: bytes = b"") -> bytes:
    host, port = opened.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    head = REQUEST.format(method=method, host=host, port=port, branch=branch, length=len(body))
    return head.replace("\n", "\r\n").encode() + body


class Host:
    """The gateway's namespace with a configuration, and `nfqlb` to be called there."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.config = net.folder / "nfqlb.toml"
        self.write_secret()
        self.write(CONFIG)

    def write_secret(self) -> None:
        secret = self.net.folder / "secret"
        secret.write_text("0123456789abcdef0123456789abcdef\n")
        secret.chmod(0o600)

    def write(self, template: str, workers: int = 2) -> None:
        text = template.format(run_dir=self.net.run_dir, workers=workers, queue=standin.QUEUE)
        self.config.write_text(text)

    def call(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        command = ["ip", "netns", "exec", self.net.gateway, *NFQLB, *argv, "-c", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)

    def start(self, *argv: str) -> "subprocess.Popen[bytes]":
        """`nfqlb run` until it says that it is ready."""
        command = [*NFQLB, "run", "-c", str(self.config), *argv]
        process = namespaces.spawn(self.net.gateway, command, self.net.folder / "log", pipe=True)
        self.net.adopt(process)
        assert self.net.line(process).startswith("nfqlb is ready: 2 workers on queues 300 to 301; four"), self.net.log
        return process

    def state(self) -> list[str]:
        """Rules, chains that are not built in, and sysctls: an empty built-in chain means nothing."""
        commands = (["iptables-save"], ["ip6tables-save"], ["sysctl", "-a", "-r", "rp_filter|accept_local|redirects"])
        lines = "".join(namespaces.run(self.net.gateway, command) for command in commands).splitlines()
        return [
            line for line in lines if not line.startswith(("#", "*", "COMMIT")) and " ACCEPT [" not in line and line
        ]
